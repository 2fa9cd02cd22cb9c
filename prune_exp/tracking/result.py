"""Everything that a trial found, each part as its own room words it; metrics.py flattens it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prune_exp.measurement.records import (
    Behaviour,
    QualityComparison,
    SpeedComparison,
    TaskComparison,
)
from prune_exp.model.shape import ModelShape
from prune_exp.pruning.plan import PruningPlan
from prune_exp.recovery.record import Recovery
from prune_exp.text.records import TextUsed


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """Everything one trial found out."""

    model_digest: str
    """Identifies the dense model's config and weights."""
    texts: tuple[TextUsed, ...]

    dense_shape: ModelShape
    pruned_shape: ModelShape
    plan: PruningPlan
    weights_sha256: str
    quality: QualityComparison | None
    speed: SpeedComparison | None
    seconds: dict[str, float]
    """Wall time of every phase."""
    peak_mib: dict[str, float] = field(default_factory=dict)
    """Peak resident memory of the trial's process in every phase, where the kernel tells."""
    machine: dict[str, Any] = field(default_factory=dict)
    """Where it ran, when nothing was timed; `speed` says it otherwise."""
    recovery: Recovery | None = None
    behaviour: Behaviour | None = None
    """What the answers to the prompts are like; None where nothing was asked."""
    tasks: dict[str, TaskComparison] = field(default_factory=dict)
    """By the name of the task."""
    reserved_digest: str = ""
    """Identifies the documents that are kept from trials, for a last judgement."""
    file_bytes: int = 0
    """Size of the weights' files; 0 where it is not known."""
    training_kept: Path | None = None
    """Where training lies, so that a trial that fails later need not train again; to be dropped
    once this is logged."""

    @property
    def sparsity(self) -> float:
        """Share of the dense model's parameters that is gone."""
        return 1 - self.pruned_shape.params_total / self.dense_shape.params_total


@dataclass(frozen=True, kw_only=True)
class StoppedTrial:
    """What is known of a trial that was ended because it cannot meet a constraint."""

    model_digest: str
    metric: str
    """The constraint's."""
    at_least: float
    """What that metric surely is."""
    blocks: int
    """Held-out blocks that say so; 0 where the figure is exact."""
    known: dict[str, float]
    """Exact figures, by their metrics' names."""
    seconds: dict[str, float]
    peak_mib: dict[str, float] = field(default_factory=dict)
