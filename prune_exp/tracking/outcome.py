"""What a sweep has come to, as figures of its own run: sweeps compare without being opened."""

from collections.abc import Mapping, Sequence

from prune_exp.tracking.figures import KEY_FIGURES
from prune_exp.tracking.read import Choice, TrackedTrial, speed_key

OF_THE_BEST = (
    *(figure.key for figure in KEY_FIGURES),
    "worst_perplexity_ratio",
    "params_pruned_pct",
    "quality_maintained",
)
"""Figures that a sweep has from its best trial."""
FINISHED = "trials_finished"
STOPPED = "trials_stopped"
"""Ended early, since they could not meet a constraint."""
INTERRUPTED = "trials_interrupted"
"""Interrupted, or cut off with their process."""
FAILED = "trials_failed"
"""Ended without a result on their own account."""
HYPERVOLUME = "hypervolume"


def sweep_outcome(trials: Sequence[TrackedTrial], best: Choice | None) -> dict[str, float]:
    """The figures of a sweep: how its trials ended, its best one's, and its whole front's."""
    done = [trial for trial in trials if trial.has_result]
    failed = [trial for trial in trials if trial.failed and trial.status == "FAILED"]
    cut_off = [t for t in trials if t.status in ("FAILED", "KILLED") and t not in failed]
    found = {
        FINISHED: len(done),
        STOPPED: sum(bool(trial.stopped) for trial in trials),
        INTERRUPTED: len(cut_off),
        FAILED: len(failed),
    }
    if best is not None:
        metrics = best.trial.metrics
        found |= {key: metrics[key] for key in OF_THE_BEST if key in metrics}
    area = hypervolume([trial.metrics for trial in done])
    return found | ({} if area is None else {HYPERVOLUME: area})


def hypervolume(trials: Sequence[Mapping[str, float]]) -> float | None:
    """The area that trials cover between what they gain and what they keep.

    The gain is the speedup beyond 1, for equal text where that is known; what is kept is the
    dense model's perplexity as a share of the pruned one's. Each trial covers the rectangle from
    the origin, which is a model that gains nothing and knows nothing; overlaps count once. More is
    better. None where no trial was both timed and judged.
    """
    points = [
        (max(found[speed_key(found)] - 1, 0.0), 1 / found["perplexity_ratio"])
        for found in trials
        if {"speedup", "perplexity_ratio"} <= found.keys() and found["perplexity_ratio"] > 0
    ]
    if not points:
        return None
    area = covered = 0.0
    for gain, kept in sorted(points, reverse=True):  # NaN covers nothing
        if kept > covered and gain > 0:
            area += gain * (kept - covered)
            covered = kept
    return area
