"""The model card that travels with a stored model: what it is, what was measured, its limits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from prune_exp import __version__
from prune_exp.measurement.records import Interval
from prune_exp.pruning.plan import PruningPlan, describe_lost_scripts
from prune_exp.registry.origin import data_of
from prune_exp.settings.groups import (
    BenchmarkSettings,
    DataSettings,
    ModelSettings,
    PruningSettings,
    QualitySettings,
)
from prune_exp.settings.params import restore_settings
from prune_exp.tracking import tags
from prune_exp.tracking.domains import (
    MAINTAINED,
    explain_doubt,
    join_words,
    judge_quality,
    list_kept,
    list_losses,
    read_domains,
)
from prune_exp.tracking.figures import fits_cache_alone, key_figures, read_tasks
from prune_exp.tracking.read import TrackedTrial, says_something

FIGURES = key_figures(
    "speedup", "text_speedup", "memory_reduction_pct", "throughput_gain_pct", "perplexity_ratio"
)
RAN_WITH = ("torch", "transformers")
UNTIMED = "Speed and memory were not measured."
ENDS = ".3f"
"""How ends of intervals are written."""
JUDGED = (
    ("perplexity", "pruned/perplexity", "Perplexity"),
    ("bits_per_byte", "pruned/bits_per_byte", "Bits per byte"),
    ("perplexity_ratio", "perplexity_ratio", "Perplexity over the dense model's"),
)
USES = """\
For continuing text where the dense model would do and its size or latency is the obstacle. What
the dense model was not made for, this one is not made for either. It was not judged{tasks} on
safety or on other kinds of text and languages than those below, and may have lost more there
than the figures show."""

CHOSEN_BY = """\
These figures are those of the trial by itself. Where it was chosen among several by these very
figures, they are on the optimistic side, and its verdict on quality is without correction for the
number of trials; a promotion measures speed, memory and quality again."""


def _describe_uses(trial: TrackedTrial) -> str:
    return USES.format(tasks="" if read_tasks(trial.metrics) else " on tasks,")


def write_card(trial: TrackedTrial, plan: PruningPlan | None, folder: Path) -> Any:
    """Writes README.md and LICENSE.txt into a checkpoint; returns the card."""
    card = model_card(trial, plan)
    (folder / "README.md").write_text(str(card), encoding="utf-8")
    (folder / "LICENSE.txt").write_text(license_note(_model_of(trial)), encoding="utf-8")
    return card


def model_card(trial: TrackedTrial, plan: PruningPlan | None) -> Any:
    """The card (a `huggingface_hub.ModelCard`), all of it from what was tracked."""
    model = _model_of(trial)
    text = _judged_text(trial)
    name = f"{model.name}-pruned"
    found = _evaluation_results(trial, text)
    data = ModelCardData(
        base_model=base_model(model),
        license=model.license,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["pruned", "prune_exp", _pruning_of(trial).method],
        datasets=[data_of(trial).text_name],
        metrics=[one.metric_type for one in found] or None,
        model_name=name if found else None,
        eval_results=found or None,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        summarize_trial(trial) + _lost_scripts(plan),
        f"## Uses and limits\n\n{_describe_uses(trial)}",
        "## Procedure\n\n" + _describe_procedure(trial, plan),
        "## Results\n\n" + _results_table(trial),
        "## Licence\n\n" + license_note(model),
    ]
    return ModelCard("\n\n".join(parts) + "\n")


def _lost_scripts(plan: PruningPlan | None) -> str:
    return f" {describe_lost_scripts(plan)}" if plan is not None and plan.lost_scripts else ""


def _model_of(trial: TrackedTrial) -> ModelSettings:
    return restore_settings(ModelSettings, trial.params, "model")


def _pruning_of(trial: TrackedTrial) -> PruningSettings:
    return restore_settings(PruningSettings, trial.params, "pruning")


def base_model(model: ModelSettings) -> str | None:
    """Hub id of the dense model, if it is known."""
    return model.base_model or model.hub_id


def summarize_trial(trial: TrackedTrial) -> str:
    """What was removed and whether quality was maintained, in a few sentences."""
    metrics = trial.metrics
    model = _model_of(trial)
    text = (
        f"{base_model(model) or model.name} with"
        f" {100 * metrics['sparsity_achieved']:.1f} % of its parameters removed."
    )
    if "perplexity_ratio" not in metrics:
        return text + " Its quality was not measured."
    quality = restore_settings(QualitySettings, trial.params, "quality")
    ratio = Interval.read(metrics, "perplexity_ratio")
    limited = {"max_perplexity_ratio": quality.max_perplexity_ratio} | metrics
    verdict, doubt = judge_quality(limited), explain_doubt(limited)
    verdict = verdict if verdict == MAINTAINED else f"**{verdict}**"
    limit = quality.max_perplexity_ratio
    domains = read_domains(metrics)
    kept = join_words(list_kept(metrics))
    lost = list_losses(domains, limit)
    return text + (
        f" Quality{' on ' if kept else ''}{kept} is {verdict}: held-out perplexity is"
        f" {ratio.value:.3f} times the dense model's, with an upper end of"
        f" {'unknown height' if ratio.tells_nothing else f'{ratio.high:.3f}'} against a limit of"
        f" {limit:g}.{_join_sentences(doubt, lost)}"
    )


def _join_sentences(*found: str | None) -> str:
    """Those that there are, a space before each."""
    return "".join(f" {one}" for one in found if one)


def license_note(model: ModelSettings) -> str:
    """Whose licence the weights are under, and that they were changed."""
    source = base_model(model) or model.name
    known = model.license
    terms = (
        f"The weights derive from {source}, whose licence is {known}; it goes on to apply to them."
        if known
        else f"The weights derive from {source}, whose licence goes on to apply to them; it was not"
        " recorded here (model.license=... records it)."
    )
    return terms + " They were changed: parameters were removed, and others may have been refit."


def _calibration_text(data: DataSettings) -> str:
    written = data.calibration == "generated"
    return "that the dense model wrote" if written else f"of {data.text_name}"


def _judged_text(trial: TrackedTrial) -> str:
    """The text on which quality had to be kept."""
    chosen = restore_settings(QualitySettings, trial.params, "quality").keep_on
    return " + ".join(chosen) or data_of(trial).text_name


def _evaluation_results(trial: TrackedTrial, text: str) -> list[Any]:
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Text generation",
            dataset_type=text,
            dataset_name=f"{text} (held out)",
            metric_type=kind,
            metric_name=name,
            metric_value=trial.metrics[key],
        )
        for kind, key, name in JUDGED
        if key in trial.metrics
    ]


def _describe_procedure(trial: TrackedTrial, plan: PruningPlan | None) -> str:
    params = trial.params
    pruning = _pruning_of(trial)
    data = data_of(trial)
    threshold = float(params.get("vote_threshold", "0.5"))
    sparsity = float(params.get("sparsity", "0.5"))
    lines = [
        f"method {pruning.method}, ballot {pruning.ballot}, vote threshold {threshold:g},"
        f" requested sparsity {sparsity:g}, voters {', '.join(pruning.voters)}",
        *_describe_plan(plan),
        f"refit by least squares: {'yes' if pruning.refit else 'no'};"
        f" training afterwards: {params.get('recovery.name', 'none')}",
        f"calibration on {data.calibration_blocks} blocks of {data.context_tokens} tokens"
        f" {_calibration_text(data)}, judged on {data.heldout_blocks} others of"
        f" {_judged_text(trial)}",
        f"MLflow run {trial.run_id}; prune_exp {__version__}, {_list_versions(trial)}",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _list_versions(trial: TrackedTrial) -> str:
    """Those that the trial ran with."""
    known = {name: trial.tags.get(f"{tags.VERSION_PREFIX}{name}") for name in RAN_WITH}
    return ", ".join(f"{name} {number or 'not recorded'}" for name, number in known.items())


def _count_heads(plan: PruningPlan) -> str:
    """Of an adaptive ballot as asked for; a fixed one takes what its voters agree on."""
    asked = plan.allocation
    if plan.ballot == "fixed":
        return f"{_count_in_a_layer(plan.heads)} query heads"
    return f"{asked.kv_groups} key/value groups, {asked.queries_per_group} query heads a group"


def _count_in_a_layer(gone: Mapping[int, Sequence[int]]) -> int:
    """Units that every layer loses, all equally many."""
    return len(next(iter(gone.values()), ()))


def _describe_plan(plan: PruningPlan | None) -> list[str]:
    if plan is None:
        return []
    lines = [
        f"removed: layers {list(plan.layers)}; in every layer that stays {_count_heads(plan)},"
        f" {_count_in_a_layer(plan.channels)} MLP channels; {len(plan.tokens)} tokens;"
        f" {plan.weights_zeroed} weights set to zero (plan.json has the indices)"
    ]
    if chosen := next((one for one in plan.elected if one.chosen), None):
        lines.append(
            f"channels decided by {chosen.name}, elected from {len(plan.elected)} ways to decide"
        )
    if any(one.error_left < 1 for one in plan.reconstructed):
        trained = ", ".join(str(one.layer) for one in plan.reconstructed if one.error_left < 1)
        lines.append(f"layers trained to do what removed ones after them did: {trained}")
    if plan.rehearsed:
        lines.append(f"chosen from {len(plan.rehearsed)} plans by the loss after a short refit")
    return lines


def _results_table(trial: TrackedTrial) -> str:
    metrics = trial.metrics
    rows = ["| Against the dense model | Value | 95 % interval |", "| --- | --- | --- |"]
    for figure in FIGURES:
        if says_something(metrics, figure.key):
            found = Interval.read(metrics, figure.key)
            rows.append(
                f"| {figure.name} | {found.value:.3f}{figure.unit} |"
                f" {figure.show_ends(found, ENDS)} |"
            )
    (on_text,) = key_figures("perplexity_ratio")
    for one in read_domains(metrics):
        found = one.perplexity_ratio
        rows.append(
            f"| Perplexity ratio on {one.name} | {found.value:.3f}x |"
            f" {on_text.show_ends(found, ENDS)} |"
        )
    for task in read_tasks(metrics):
        change = task.change_points
        rows.append(
            f"| Right answers on {task.name} ({task.questions} questions), change in points |"
            f" {change.value:+.1f} | {change.low:+.1f} to {change.high:+.1f} |"
        )
    rows += [f"| {name} | {metrics[key]:.3f} | |" for _, key, name in JUDGED[:2] if key in metrics]
    clocks = _describe_clocks(trial) if "speedup" in metrics else UNTIMED
    return "\n".join(rows) + f"\n\n{clocks} {CHOSEN_BY}"


def _describe_clocks(trial: TrackedTrial) -> str:
    """On what the times hold."""
    how = restore_settings(BenchmarkSettings, trial.params, "benchmark")
    facts = ("processor", "threads", "dtype")
    known = [trial.tags.get(f"{tags.PREFIX}{name}") for name in facts]
    processor, threads, dtype = (one or "not recorded" for one in known)
    m = trial.metrics
    said = (
        f"Timed on {trial.tags.get(tags.DEVICE, 'cpu')} (processor: {processor}, threads:"
        f" {threads}), served by {how.backend} with weights in {dtype}:"
        f" {m.get('test_prompts', 0):.0f} prompts, {how.new_tokens} new tokens each, one request at"
        " a time. Elsewhere the ratios are others."
    )
    if (how.backend, dtype) != ("transformers", "float32"):
        said += " Quality was computed in float32, from the weights as they are written."
    if fits_cache_alone(m):
        said += " There the pruned model fits in the processor's cache and the dense one does not."
    return said
