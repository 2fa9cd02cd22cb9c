"""How far the figures reach: sentences that follow from what was measured, and on what."""

from collections.abc import Callable

from prune_exp.measurement.records import FEW_PAIRS
from prune_exp.reporting.batches import batch_labels, batch_name
from prune_exp.reporting.document.elements import Bullets, Element
from prune_exp.reporting.document.findings import ASKED_FOR, Findings
from prune_exp.reporting.document.provenance import UNKNOWN, ended_by_clock, served_by
from prune_exp.settings.groups import DataSettings
from prune_exp.settings.params import restore_settings
from prune_exp.tracking import tags
from prune_exp.tracking.domains import join_words, read_domains
from prune_exp.tracking.figures import read_tasks
from prune_exp.tracking.read import judged_trials

Rule = Callable[[Findings], str | None]
FEW_FOR_P99 = 100


def tell_selection(found: Findings) -> str | None:
    """The best of several looks better than it is."""
    count = len(found.finished)
    ended = len([one for one in judged_trials(found.trials) if not one.has_result])
    if count < 2 and not ended:
        return "One trial finished; nothing was chosen among several."
    several = f"{count} finished trial{'' if count == 1 else 's'}"
    if ended:
        several += f", and of {ended} that held-out text had ended before,"
    if found.best.rule == ASKED_FOR:
        return (
            f"This trial was asked for by its id out of {several.removesuffix(',')}; whoever picks"
            " one by the figures shown here picks the lucky one too."
        )
    return (
        f"The best of {several} was chosen by the same measurements and"
        " held-out text that are reported, so its figures are on the optimistic side; python -m"
        " prune_exp.promote judges it on documents kept from every trial, and times it again."
    )


def tell_prompts(found: Findings) -> str | None:
    """Which requests were timed."""
    m = found.metrics
    if "test_prompts" not in m:
        return "Speed and memory were not measured, so nothing is said about them."
    sizes = ["batch 1", *(name for name in map(batch_name, batch_labels(m)) if name != "batch 1")]
    new = found.params.get("benchmark.new_tokens", "an unknown number of")
    return (
        f"Times are those of {m['test_prompts']:.0f} prompts with {new} new tokens each, greedily"
        f" decoded, at {' and '.join(sizes)}; longer contexts, other batches and sampling may come"
        " out otherwise."
    )


def tell_machine(found: Findings) -> str | None:
    """On which machine, and how both models were served."""
    if "test_prompts" not in found.metrics:
        return None
    facts = found.machine
    device = found.machine.get("device", "cpu")
    name = facts.get("processor", "processor not recorded") if device == "cpu" else device
    return (
        f"They hold for this machine ({name},"
        f" {facts.get('threads', '?')} threads), served by {served_by(found.params)}, with weights"
        f" in {facts.get('dtype', UNKNOWN)}; on other processors, in other precisions, quantized or"
        " in other runtimes the ratio of both models is another one."
    )


def tell_precision(found: Findings) -> str | None:
    """Quality is that of float32, whatever was timed."""
    if "test_prompts" not in found.metrics or "heldout_tokens" not in found.metrics:
        return None
    dtype = str(found.machine.get("dtype", "float32"))
    backend = found.params.get("benchmark.backend", "transformers")
    if dtype == "float32" and backend == "transformers":
        return None
    return (
        f"Quality{' and tasks' if read_tasks(found.metrics) else ''} was computed in float32, from"
        f" the weights as they are written. What was timed computes with weights in {dtype}, served"
        f" by {served_by(found.params)}; what that changes about quality was not measured."
    )


COMPARED = {
    tags.DEVICE: "devices",
    f"{tags.PREFIX}processor": "processors",
    f"{tags.PREFIX}threads": "numbers of threads",
    tags.GIT_COMMIT: "commits of prune_exp",
    f"{tags.VERSION_PREFIX}torch": "versions of torch",
    f"{tags.VERSION_PREFIX}transformers": "versions of transformers",
}
"""Tags of trials in which a sweep may differ without having asked for it."""


def tell_differences(found: Findings) -> str | None:
    """Trials of different machines or versions, which are compared as if they were of one."""
    known = {
        name: {one.tags[key] for one in found.finished if key in one.tags}
        for key, name in COMPARED.items()
    }
    unlike = [f"{len(values)} {name}" for name, values in known.items() if len(values) > 1]
    if not unlike:
        return None
    return (
        f"The trials that are compared ran on or with {join_words(unlike)}: each is measured"
        " against the dense model beside it, but a part of what differs between trials may come"
        " from that and not from what was pruned."
    )


def tell_pairs(found: Findings) -> str | None:
    """How few requests stand behind intervals and percentiles."""
    count = found.metrics.get("test_pairs")
    if count is None:
        return None
    if count < FEW_PAIRS:
        return (
            f"Only {count:.0f} pairs of requests were timed: intervals are Student's t on so few,"
            " and p90 and p99 are close to the slowest request."
        )
    if count < FEW_FOR_P99:
        return f"p99 is that of {count:.0f} requests, close to the slowest of them."
    return None


def tell_stopping(found: Findings) -> str | None:
    """Stopping when it looks good enough."""
    if found.machine.get("stopped_by") != "target_ci":
        return None
    return (
        "Measuring stopped as soon as the interval was narrow enough, which makes such intervals a"
        " little too narrow."
    )


def tell_text(found: Findings) -> str | None:
    """Which text quality was judged on."""
    if "heldout_tokens" not in found.metrics:
        return "Quality was not measured, so nothing is said about it."
    params = found.params
    source = restore_settings(DataSettings, params, "data").text_name
    domains = read_domains(found.metrics)
    others = [one.name for one in domains if not one.kept]
    unseen = f" {join_words(others)} were judged too and need not be kept." if others else ""
    calibration = "Calibration read other documents of the same source"
    judged = source
    if params.get("quality.keep_on", "[]") not in ("[]", "None"):
        judged = join_words([one.name for one in domains if one.kept])
        calibration = f"Calibration read other documents, of {source}"
    if params.get("data.calibration") == "generated":
        calibration = "Calibration read text that the dense model wrote"
    return (
        f"Quality is that of predicting {found.metrics['heldout_tokens']:,.0f} held-out tokens of"
        f" {judged} in blocks of {params.get('data.context_tokens', '?')}.{unseen} {calibration},"
        " so text of another domain or language may have suffered more."
        f" {_name_untested(found)} was tested."
    )


def _name_untested(found: Findings) -> str:
    tasks = [one.name for one in read_tasks(found.metrics)]
    if not tasks:
        return "No task, no instruction and nothing about safety"
    return f"No task but {join_words(tasks)}, no instruction and nothing about safety"


def tell_seeds(found: Findings) -> str | None:
    """Whether chance in calibration and voting was varied."""
    known = {trial.params["seed"] for trial in found.finished if "seed" in trial.params}
    if len(known) > 1:
        return (
            f"{len(known)} seeds ran in this sweep; the intervals are of one trial each and do not"
            " span seeds."
        )
    return (
        f"Every trial used one seed ({next(iter(known), 'not recorded')}); how much another choice"
        " of calibration text moves the figures was not measured, and the intervals do not hold it."
    )


def tell_training(found: Findings) -> str | None:
    """Training by the clock depends on the machine."""
    if not ended_by_clock(found.best.trial):
        return None
    return (
        "Training after pruning had a budget in minutes, so a faster or quieter machine comes to"
        " more steps and another quality."
    )


def tell_masks(found: Findings) -> str | None:
    """Zeros are not a smaller model."""
    if not found.metrics.get("weights_zeroed_pct"):
        return None
    return (
        "Weights were set to zero and are still there; a runtime with sparse kernels might gain"
        " where this measurement shows nothing."
    )


def tell_failures(found: Findings) -> str | None:
    """Trials that are missing from the comparison."""
    missing = len(found.trials) - len(found.finished)
    if not missing:
        return None
    return f"{missing} of {len(found.trials)} trials did not finish and are not compared."


def tell_load_at_end(found: Findings) -> str | None:
    """Other load while measuring."""
    end = found.machine.get("load_average_end")
    cores = found.machine.get("cores")
    if end is None or not cores or end / cores < BUSY_AT_END:
        return None
    return (
        f"When the measurement ended, the load average was {end:.1f} on {cores} cores; the two"
        " measured processes account for part of it, and turns share other load between both"
        " models, but times are longer than on a quiet machine."
    )


BUSY_AT_END = 2.0
"""Load average per core; the two processes that wait for each other add one core's load at most."""

RULES: tuple[Rule, ...] = (
    tell_selection,
    tell_prompts,
    tell_machine,
    tell_precision,
    tell_differences,
    tell_pairs,
    tell_stopping,
    tell_load_at_end,
    tell_text,
    tell_seeds,
    tell_training,
    tell_masks,
    tell_failures,
)


def show_validity(found: Findings) -> list[Element]:
    """All limits that apply."""
    return [Bullets([sentence for rule in RULES if (sentence := rule(found)) is not None])]
