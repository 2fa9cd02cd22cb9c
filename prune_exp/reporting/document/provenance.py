"""How it was measured, and how to get there again."""

import shlex

from prune_exp.measurement.records import FEW_PAIRS
from prune_exp.reporting.batches import batch_labels, batch_name
from prune_exp.reporting.document.elements import Code, Element, Paragraph, Table
from prune_exp.reporting.document.findings import Findings
from prune_exp.reporting.document.trials import show_value
from prune_exp.settings.groups import DataSettings
from prune_exp.settings.params import restore_settings
from prune_exp.tracking import tags
from prune_exp.tracking.figures import read_tasks
from prune_exp.tracking.naming import overrides_of, recall_overrides, shell_command
from prune_exp.tracking.read import TrackedTrial

UNKNOWN = "not recorded"
CHANGED = "-dirty"
"""Behind a commit from which the files differed."""
HOW_QUALITY = (
    "The perplexity ratio is exp of the mean loss that was added per token of the dense model's"
    " tokenizer. Its interval is Student's t over documents (the jackknife, a document weighing as"
    " many tokens as it has), and speaks of other documents of the same kind."
)
HOW_TASKS = (
    "Intervals of accuracy are those of the difference of two paired shares, and speak of other"
    " questions of the same kind."
)


def describe_methods(found: Findings) -> list[Element]:
    """Machine, samples, and how intervals are made."""
    trial = found.best.trial
    machine = found.machine
    m = trial.metrics
    params = trial.params
    device = trial.tags.get(tags.DEVICE, "cpu")
    processor = machine.get("processor", UNKNOWN)
    versions = machine.get("versions", {})
    rows = [
        ["Device", f"{device}, {processor}"],
        ["Cores, threads", f"{machine.get('cores', '?')}, {machine.get('threads', '?')}"],
        ["Frequency governor", str(machine.get("governor", UNKNOWN))],
        ["Versions", ", ".join(f"{k} {v}" for k, v in versions.items()) or _list_versions(trial)],
        *_list_clock_facts(found),
        ["Seed", params.get("seed", UNKNOWN)],
        ["Calibration text", _describe_calibration(params)],
        ["Held-out tokens", show_value(m, "heldout_tokens", ",.0f")],
        ["Training after pruning", _describe_training(trial)],
        ["Voters", ", ".join(recall_overrides(params.get("pruning.voters")) or [UNKNOWN])],
        ["Commit", trial.tags.get(tags.GIT_COMMIT, UNKNOWN)],
    ]
    load = [machine.get("load_average_start"), machine.get("load_average_end")]
    if None not in load:
        rows.append(["Load average before and after", f"{load[0]:.2f}, {load[1]:.2f}"])
    said = [_explain_clocks(params)] if "test_prompts" in m else []
    said += [HOW_QUALITY] if "heldout_documents" in m else []
    said += [HOW_TASKS] if read_tasks(m) else []
    return [Table(["Fact", "Value"], rows, figures=False), *map(Paragraph, said)]


def _list_clock_facts(found: Findings) -> list[list[str]]:
    m, params, machine = found.metrics, found.params, found.machine
    if "test_prompts" not in m:
        return [["Speed and memory", "not measured"]]
    return [
        ["Served by", served_by(params)],
        ["Type of weights and cache", str(machine.get("dtype", UNKNOWN))],
        ["Test prompts", show_value(m, "test_prompts", ".0f")],
        ["New tokens per prompt", params.get("benchmark.new_tokens", UNKNOWN)],
        ["Pairs of requests", show_value(m, "test_pairs", ".0f")],
        ["Rounds of a batch, of memory", _describe_rounds(params)],
        ["Stopped by", str(machine.get("stopped_by", UNKNOWN))],
        ["Batches", ", ".join(map(batch_name, batch_labels(m))) or "not measured"],
    ]


def _describe_rounds(params: dict[str, str]) -> str:
    names = ("benchmark.batch_rounds", "benchmark.memory_rounds")
    return ", ".join(params.get(name, UNKNOWN) for name in names)


def served_by(params: dict[str, str]) -> str:
    """What ran both models as they were timed."""
    backend = params.get("benchmark.backend", "transformers")
    if backend != "transformers":
        return backend
    compiled = params.get("benchmark.runtime.compile") == "True"
    cache = params.get("benchmark.runtime.cache", "dynamic")
    return f"{backend}, {cache} cache, {'compiled step' if compiled else 'eager'}"


def _list_versions(trial: TrackedTrial) -> str:
    start = tags.VERSION_PREFIX
    found = sorted((k.removeprefix(start), v) for k, v in trial.tags.items() if k.startswith(start))
    return ", ".join(f"{name} {version}" for name, version in found) or UNKNOWN


def _explain_clocks(params: dict[str, str]) -> str:
    return (
        "Both models run in fresh processes and answer every prompt in turns (by"
        f" {params.get('benchmark.turns', 'request')}), the order alternating. Ratios of times are"
        " interquartile means over pairs of the log ratios; throughput at batch 1 counts tokens"
        " after the first. Memory is the process's peak above its level before the model loads."
        " Their intervals are percentile bootstraps over pairs (of requests, of rounds of a batch,"
        " of processes for memory), expanded as Student's t is, and Student's t where there are"
        f" fewer than {FEW_PAIRS}, and speak of these prompts; a"
        " percentile such as p99 is that of as many requests as there were pairs."
    )


def _describe_calibration(params: dict[str, str]) -> str:
    text = restore_settings(DataSettings, params, "data").text_name
    blocks = params.get("data.calibration_blocks", "?")
    if params.get("data.calibration") == "generated":
        text = f"written by the dense model at temperature {params['data.generation_temperature']}"
    return f"{text}, {blocks} blocks"


def _describe_training(trial: TrackedTrial) -> str:
    m = trial.metrics
    params = trial.params
    if "recovery/steps" not in m:
        return "none"
    rank = params.get("recovery.lora_rank", "0")
    what = "all weights" if rank == "0" else f"adapters of rank {rank}, merged"
    return (
        f"distillation from the dense model, {what}: {m['recovery/steps']:,.0f} steps,"
        f" {m['recovery/tokens']:,.0f} tokens ({params.get('recovery.text', UNKNOWN)} text),"
        f" {m['recovery/seconds'] / 60:.1f} minutes, weights of step {m['recovery/best_step']:,.0f}"
    )


def describe_reproduction(found: Findings) -> list[Element]:
    """Command lines, quoted for a shell."""
    trial = found.best.trial
    root = found.root
    typed_in = trial.tags.get(tags.TYPED_IN)
    lines = [shlex.join(["cd", typed_in])] if typed_in else []
    if root.is_sweep and (given := recall_overrides(root.tags.get(tags.OVERRIDES))) is not None:
        lines += ["# the whole sweep", shell_command(given, sweep=True)]
    lines += ["# this trial", shell_command(_overrides_of_trial(trial), sweep=False)]
    lines += ["# this report, from the store", _from_store("report", trial, "report")]
    if "recovery/steps" not in trial.metrics:
        lines += ["# its model, from the plan", _from_store("rebuild", trial, "model")]
    by_clock = ended_by_clock(trial)
    same = "the plan comes out the same" if by_clock else "the weights come out the same"
    commit = trial.tags.get(tags.GIT_COMMIT, "none")
    never = f"times{' and weights that were trained by the clock' if by_clock else ''} never do"
    alike = "on the same machine, with as many threads, the same model and text"
    where = f"At commit {commit}" if commit != "none" else "With the version given above"
    text = f"{where}, {alike}, {same}; {never} exactly."
    if commit.endswith(CHANGED):
        text = (
            f"Files differed from commit {commit.removesuffix(CHANGED)} and were not kept, so"
            f" nothing is promised of another run. With the same files, {alike}, {same}; {never}"
            " exactly."
        )
    if "***" in "\n".join(lines):
        text += " What looked like a secret was not kept: *** stands in its place."
    if any("search.study_name=" in line for line in lines):
        text += " With the same search.study_name the sweep goes on where it stopped; another one"
        text += " starts it anew."
    return [Paragraph(text), Code("\n".join(lines))]


def ended_by_clock(trial: TrackedTrial) -> bool:
    """Whether training after pruning ended when its minutes were over."""
    if "recovery/steps" not in trial.metrics or trial.params.get("recovery.minutes") == "None":
        return False
    tokens = trial.params.get("recovery.tokens", "None")
    step = _number(trial, "recovery.batch_blocks") * _number(trial, "recovery.context_tokens")
    return tokens == "None" or trial.metrics["recovery/tokens"] + step <= float(tokens)


def _number(trial: TrackedTrial, key: str) -> int:
    return int(trial.params.get(key, 0))


def _from_store(command: str, trial: TrackedTrial, output: str) -> str:
    """A command that reads the store; says where it is unless that is the default."""
    where = {key: trial.params.get(key, "None") for key in ("tracking.uri", "tracking.root")}
    kept = {key: at for key, at in where.items() if at not in ("None", "mlruns")}
    if "tracking.uri" in kept:
        kept.pop("tracking.root", None)
    words = [f"run_id={trial.run_id}", f"output={output}", *overrides_of(kept)]
    return shlex.join(["python", "-m", f"prune_exp.{command}", *words])


def _overrides_of_trial(trial: TrackedTrial) -> list[str]:
    """What the command line gave; every setting where that was not kept."""
    given = recall_overrides(trial.tags.get(tags.OVERRIDES))
    return overrides_of(trial.params) if given is None else given
