"""The one flattening of a result, and the keys that it will have."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from prune_exp.measurement.intervals import multiply
from prune_exp.measurement.records import (
    BatchSpeed,
    DomainQuality,
    QualityComparison,
    SpeedComparison,
    TaskComparison,
)
from prune_exp.model.shape import ModelShape
from prune_exp.tracking.result import StoppedTrial, TrialResult

EVERY_TRIALS_PHASES = ("load", "prune", "export")
STOPPED = "stopped/after_blocks"
"""Of trials that were ended early: held-out blocks that were judged, 0 where none was needed."""
AT_LEAST = "stopped/at_least/"
"""Before the metric that cannot be within its limit: what it surely is."""


def metric_keys(
    *,
    speed: bool,
    quality: bool,
    recovery: bool = False,
    batches: Sequence[str] = ("b8",),
    domains: Sequence[str] = (),
    tasks: Sequence[str] = (),
) -> list[str]:
    """The keys that a trial will have, known before it runs: those of a made-up result.

    `batches` are the labels of the batch requests, `domains` the kinds of text that judge,
    `tasks` those that both models are asked.
    """
    result = make_up_result(TrialResult)
    phases = [*EVERY_TRIALS_PHASES, *(["recover"] if recovery else [])]
    assert result.speed is not None
    assert result.quality is not None
    judged = dict.fromkeys(domains, make_up_result(DomainQuality))
    shapes = tuple(replace(make_up_result(BatchSpeed), label=label) for label in batches)
    result = replace(result, speed=replace(result.speed, batches=shapes))
    kept = replace(
        result,
        quality=replace(result.quality, domains=judged) if quality else None,
        speed=result.speed if speed else None,
        behaviour=result.behaviour if speed else None,
        tasks=dict.fromkeys(tasks if quality else (), make_up_result(TaskComparison)),
        recovery=result.recovery if recovery else None,
        dense_shape=replace(result.dense_shape, params_total=2),
        seconds=dict.fromkeys(phases, 1.0),
    )
    return sorted(flatten_result(kept))


def make_up_result(kind: Any) -> Any:
    """An instance of a result type with something of the right type in every field."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for one in fields(kind):
        options = [arg for arg in get_args(hints[one.name]) if arg is not type(None)]
        wanted = options[0] if isinstance(hints[one.name], UnionType) else hints[one.name]
        plain = get_origin(wanted) or wanted
        values[one.name] = make_up_result(plain) if is_dataclass(plain) else _any_value(plain)
    return kind(**values)


def _any_value(plain: Any) -> Any:
    return 1 if plain is int else 1.0 if plain is float else plain()


def flatten_result(result: TrialResult) -> dict[str, float]:
    """The one flattening of a result: the same keys in MLflow, in the report and in JSON."""
    flat = size_metrics(result.dense_shape, result.pruned_shape)
    flat |= {
        "sparsity_requested": result.plan.sparsity_requested,
        "weights_zeroed_pct": 100 * result.plan.weights_zeroed / result.dense_shape.params_total,
    }
    if result.file_bytes:
        flat["file_mib"] = result.file_bytes / 2**20
    if result.quality is not None:
        flat |= quality_metrics(result.quality)
    if result.speed is not None:
        flat |= result.speed.metrics()
    if result.quality is not None and result.speed is not None:
        flat |= _text_metrics(result.quality, result.speed)
    if result.behaviour is not None:
        flat |= result.behaviour.metrics()
    for name, task in result.tasks.items():
        flat |= task.metrics(name)
    if result.recovery is not None:
        figures = asdict(replace(result.recovery, curve=()))
        flat |= {f"recovery/{key}": value for key, value in figures.items() if key != "curve"}
    flat |= {f"seconds/{phase}": value for phase, value in result.seconds.items()}
    flat |= {f"peak_memory_mib/{phase}": value for phase, value in result.peak_mib.items()}
    return {key: float(value) for key, value in flat.items()}


def flatten_stopped(stopped: StoppedTrial) -> dict[str, float]:
    """What is known of a trial that was ended early, and why it was."""
    flat = stopped.known | {
        STOPPED: stopped.blocks,
        f"{AT_LEAST}{stopped.metric}": stopped.at_least,
    }
    flat |= {f"seconds/{phase}": value for phase, value in stopped.seconds.items()}
    flat |= {f"peak_memory_mib/{phase}": value for phase, value in stopped.peak_mib.items()}
    return {key: float(value) for key, value in flat.items()}


def is_stopped(metrics: Mapping[str, float]) -> bool:
    """Whether these are those of a trial that was ended early."""
    return STOPPED in metrics


def describe_stop(metrics: Mapping[str, float], limits: Mapping[str, float]) -> str:
    """Which constraint a trial could not meet; empty where it was not ended early."""
    if not is_stopped(metrics):
        return ""
    blocks = int(metrics[STOPPED])
    after = f" after {blocks} held-out blocks" if blocks else ""
    found = {key.removeprefix(AT_LEAST): value for key, value in metrics.items() if AT_LEAST in key}
    return "; ".join(
        f"{metric} is{'' if metrics.get(metric) == value else ' at least'} {value:.4g}{after}"
        + (f" and may be at most {limits[metric]:g}" if metric in limits else "")
        for metric, value in found.items()
    )


def size_metrics(dense: ModelShape, pruned: ModelShape) -> dict[str, float]:
    """What follows from the sizes of both models alone."""
    gone = 1 - pruned.params_total / dense.params_total
    return {
        "sparsity_achieved": gone,
        "params_total": dense.params_total,
        "params_active": pruned.params_total,
        "params_pruned": dense.params_total - pruned.params_total,
        "params_pruned_pct": 100 * gone,
        "params_active_pct": 100 * (1 - gone),
        "pruned/layers": pruned.layers,
        "pruned/query_heads": pruned.query_heads,
        "pruned/kv_heads": pruned.kv_heads,
        "pruned/mlp_width": pruned.width,
        "pruned/vocabulary": pruned.vocab,
        "weights_read_ratio": _params_read(pruned) / _params_read(dense),
    } | removed_by_kind(dense, pruned)


def removed_by_kind(dense: ModelShape, pruned: ModelShape) -> dict[str, float]:
    """What went with each kind of unit, as a percentage of the dense model's parameters."""
    heads = (dense.query_heads - pruned.query_heads) * dense.params_query_head
    heads += (dense.kv_heads - pruned.kv_heads) * dense.params_kv_head
    params = {
        "layers": (dense.layers - pruned.layers) * dense.params_layer,
        "heads": pruned.layers * heads,
        "mlp": pruned.layers * (dense.width - pruned.width) * dense.params_channel,
        "vocab": (dense.vocab - pruned.vocab) * dense.params_token,
    }
    return {f"removed_pct/{kind}": 100 * gone / dense.params_total for kind, gone in params.items()}


def _params_read(shape: ModelShape) -> int:
    """Parameters read for every token: all but the rows of an untied embedding."""
    return shape.params_total - shape.params_embedding_only


def _text_metrics(quality: QualityComparison, speed: SpeedComparison) -> dict[str, float]:
    """Speedup for equal text: a smaller vocabulary needs more tokens to say the same."""
    return multiply(speed.speedup, quality.token_ratio).metrics("text_speedup")


def quality_metrics(quality: QualityComparison) -> dict[str, float]:
    """What both models make of the held-out text."""
    flat: dict[str, float] = {}
    for side, one in (("dense", quality.dense), ("pruned", quality.pruned)):
        flat |= {f"{side}/{key}": value for key, value in asdict(one).items() if key != "tokens"}
    for name in ("kl_to_dense", "top1_agreement"):
        if (value := getattr(quality, name)) is not None:
            flat[name] = value
    for name, domain in quality.domains.items():
        flat |= domain.metrics(name)
    return (
        flat
        | quality.perplexity_ratio.metrics("perplexity_ratio")
        | quality.worst.metrics("worst_perplexity_ratio")
        | {
            "bits_per_byte_increase": quality.pruned.bits_per_byte - quality.dense.bits_per_byte,
            "heldout_tokens": quality.dense.tokens,
            "heldout_documents": quality.documents,
            "worst_perplexity_ratio_foreseen": quality.foreseen,
            "quality_p_value": quality.p_value,
            "quality_maintained": quality.maintained,
            "max_perplexity_ratio": quality.max_perplexity_ratio,
        }
    )
