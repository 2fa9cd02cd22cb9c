"""Every plot of a report, or why there is none."""

from pathlib import Path
from typing import Any

from prune_exp.pruning.plan import PruningPlan
from prune_exp.reporting.plots.dashboard import dashboard_overview
from prune_exp.reporting.plots.details import detailed_comparison
from prune_exp.reporting.plots.pareto import pareto, points_of
from prune_exp.reporting.plots.roofline import roofline
from prune_exp.reporting.plots.style import Metrics
from prune_exp.reporting.plots.votes import votes
from prune_exp.tracking.read import TrackedTrial

PLOTS: tuple[str, ...] = (
    "dashboard_overview.png",
    "detailed_comparison.png",
    "pareto.png",
    "votes.png",
    "roofline.png",
)


def draw(
    trial: TrackedTrial,
    trials: list[TrackedTrial],
    samples: list[dict[str, Any]],
    plan: PruningPlan | None,
    folder: Path,
) -> dict[str, str]:
    """Draws into `folder` what there is to draw; returns the reason by plot, empty where drawn."""
    m = trial.metrics
    dashboard_overview(m, folder / PLOTS[0])
    detailed_comparison(m, samples, folder / PLOTS[1])
    return {
        PLOTS[0]: "",
        PLOTS[1]: "",
        PLOTS[2]: _pareto(trial, trials, folder / PLOTS[2]),
        PLOTS[3]: _votes(m, plan, folder / PLOTS[3]),
        PLOTS[4]: _roofline(m, folder / PLOTS[4]),
    }


def _pareto(trial: TrackedTrial, trials: list[TrackedTrial], path: Path) -> str:
    points, gain = points_of(trials, trial.run_id)
    if not points:
        return "no finished trial has its quality measured"
    limit = trial.params.get("quality.max_perplexity_ratio")
    pareto(points, gain, float(limit) if limit else None, path)
    return ""


def _votes(metrics: Metrics, plan: PruningPlan | None, path: Path) -> str:
    if plan is None:
        return "the store has no plan of this run"
    if not plan.votes and not any(len(table) > 1 for table in plan.agreement.values()):
        return "nobody voted on units that could be removed"
    gone = len(plan.layers)
    votes(plan, int(metrics["pruned/layers"]) + gone, path)
    return ""


def _roofline(metrics: Metrics, path: Path) -> str:
    if "machine/peak_gflop_per_s" not in metrics:
        return "speed was not measured"
    roofline(metrics, path)
    return ""
