"""The model card that travels with a stored model: what it is, what was measured, its limits."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from prune_exp.params import unflatten
from prune_exp.records import PruningPlan
from prune_exp.settings import Settings
from prune_exp.tracked import TrackedTrial

INTERVALS = (
    ("Speedup", "speedup", "x"),
    ("Memory saved", "memory_reduction_pct", " %"),
    ("Throughput gain, batch 1", "throughput_gain_pct", " %"),
    ("Perplexity ratio", "perplexity_ratio", "x"),
)
JUDGED = (
    ("perplexity", "pruned/perplexity", "Perplexity"),
    ("bits_per_byte", "pruned/bits_per_byte", "Bits per byte"),
    ("perplexity_ratio", "perplexity_ratio", "Perplexity over the dense model's"),
)
USES = """\
For continuing text where the dense model would do and its size or latency is the obstacle. What
the dense model was not made for, this one is not made for either. It was not judged on tasks,
on safety or on other languages than that of the text below, and may have lost more there than
the figures show."""


def write_card(trial: TrackedTrial, plan: PruningPlan | None, folder: Path) -> Any:
    """Writes README.md and LICENSE.txt into a checkpoint; returns the card."""
    card = model_card(trial, plan)
    (folder / "README.md").write_text(str(card), encoding="utf-8")
    (folder / "LICENSE.txt").write_text(license_note(unflatten(trial.params)), encoding="utf-8")
    return card


def model_card(trial: TrackedTrial, plan: PruningPlan | None) -> Any:
    """The card (a `huggingface_hub.ModelCard`), all of it from what was tracked."""
    from huggingface_hub import ModelCard, ModelCardData

    settings = unflatten(trial.params)
    name = f"{settings.model.name}-pruned"
    found = _results(trial, text_name(settings))
    data = ModelCardData(
        base_model=base_model(settings),
        license=settings.model.license,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["pruned", "prune_exp", settings.pruning.method],
        datasets=[text_name(settings)],
        metrics=[one.metric_type for one in found] or None,
        model_name=name if found else None,
        eval_results=found or None,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        summary(trial),
        f"## Uses and limits\n\n{USES}",
        "## Procedure\n\n" + _procedure(settings, trial, plan),
        "## Results\n\n" + _table(trial),
        "## Licence\n\n" + license_note(settings),
    ]
    return ModelCard("\n\n".join(parts) + "\n")


def base_model(settings: Settings) -> str | None:
    """Hub id of the dense model, if it is known."""
    return settings.model.base_model or settings.model.hub_id


def text_name(settings: Settings) -> str:
    """Name of the text that calibrated and judged; of a file of the user's, without its folder."""
    path = Path(str(settings.data.path)).name
    return f"{settings.data.package}/{path}" if settings.data.package else path


def summary(trial: TrackedTrial) -> str:
    """What was removed and whether quality was maintained, in a few sentences."""
    metrics, settings = trial.metrics, unflatten(trial.params)
    text = (
        f"{base_model(settings) or settings.model.name} with"
        f" {100 * metrics['sparsity_achieved']:.1f} % of its parameters removed."
    )
    if "perplexity_ratio" not in metrics:
        return text + " Its quality was not measured."
    limit, high = settings.quality.max_perplexity_ratio, metrics["perplexity_ratio_ci95_high"]
    verdict = "maintained" if trial.maintained else "**not maintained**"
    return text + (
        f" Quality is {verdict}: held-out perplexity is {metrics['perplexity_ratio']:.3f} times the"
        f" dense model's, with an upper end of {high:.3f} against a limit of {limit:g}."
    )


def license_note(settings: Settings) -> str:
    """Whose licence the weights are under, and that they were changed."""
    source = base_model(settings) or settings.model.name
    known = settings.model.license
    terms = (
        f"The weights derive from {source}, whose licence is {known}; it goes on to apply to them."
        if known
        else f"The weights derive from {source}, whose licence goes on to apply to them; it was not"
        " recorded here (model.license=... records it)."
    )
    return terms + " They were changed: parameters were removed, and others may have been refit."


def _calibration_text(settings: Settings) -> str:
    written = settings.data.calibration == "generated"
    return "that the dense model wrote" if written else f"of {text_name(settings)}"


def _results(trial: TrackedTrial, text: str) -> list[Any]:
    from huggingface_hub import EvalResult

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


def _procedure(settings: Settings, trial: TrackedTrial, plan: PruningPlan | None) -> str:
    pruning = settings.pruning
    lines = [
        f"method {pruning.method}, ballot {pruning.ballot}, vote threshold"
        f" {settings.vote_threshold:g}, requested sparsity {settings.sparsity:g},"
        f" voters {', '.join(pruning.voters)}",
        f"refit by least squares: {'yes' if pruning.refit else 'no'};"
        f" training afterwards: {settings.recovery.name}",
        f"calibration on {settings.data.calibration_blocks} blocks of"
        f" {settings.data.context_tokens} tokens {_calibration_text(settings)}, judged on"
        f" {settings.data.heldout_blocks} others of {text_name(settings)}",
        f"MLflow run {trial.run_id}; prune_exp {_own_version()},"
        f" torch {version('torch')}, transformers {version('transformers')}",
    ]
    if plan is not None:
        gone = plan.allocation
        lines.insert(
            1,
            f"removed: layers {list(plan.layers)}; in every layer that stays {gone.kv_groups}"
            f" key/value groups, {gone.queries_per_group} query heads a group, {gone.channels} MLP"
            f" channels; {gone.tokens} tokens; {plan.weights_zeroed} weights set to zero"
            " (plan.json has the indices)",
        )
        if plan.rehearsed:
            lines.insert(
                2, f"chosen from {len(plan.rehearsed)} plans by the loss after a short refit"
            )
    return "\n".join(f"- {line}" for line in lines)


def _own_version() -> str:
    from prune_exp import __version__

    return __version__


def _table(trial: TrackedTrial) -> str:
    metrics = trial.metrics
    rows = ["| Against the dense model | Value | 95 % interval |", "| --- | --- | --- |"]
    rows += [
        f"| {label} | {metrics[key]:.3f}{unit} | {metrics[f'{key}_ci95_low']:.3f} to"
        f" {metrics[f'{key}_ci95_high']:.3f} |"
        for label, key, unit in INTERVALS
        if key in metrics
    ]
    rows += [f"| {name} | {metrics[key]:.3f} | |" for _, key, name in JUDGED[:2] if key in metrics]
    text = "\n".join(rows)
    return text if "speedup" in metrics else text + "\n\nSpeed and memory were not measured."
