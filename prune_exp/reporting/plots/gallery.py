"""Every plot of a report, or why there is none."""

from pathlib import Path
from typing import Any

from prune_exp.pruning.plan import PruningPlan
from prune_exp.reporting.folder import PLOTS
from prune_exp.reporting.plots.dashboard import draw_dashboard
from prune_exp.reporting.plots.details import draw_details
from prune_exp.reporting.plots.pareto import draw_pareto, points_of
from prune_exp.reporting.plots.roofline import draw_roofline
from prune_exp.reporting.plots.style import Metrics
from prune_exp.reporting.plots.votes import draw_votes
from prune_exp.tracking.read import TrackedTrial


def draw_plots(
    trial: TrackedTrial,
    trials: list[TrackedTrial],
    samples: list[dict[str, Any]],
    plan: PruningPlan | None,
    folder: Path,
) -> dict[str, str]:
    """Draws into `folder` what there is to draw; returns the reason by plot, empty where drawn."""
    m = trial.metrics
    draw_dashboard(m, folder / PLOTS[0])
    draw_details(m, samples, folder / PLOTS[1])
    return {
        PLOTS[0]: "",
        PLOTS[1]: "",
        PLOTS[2]: _try_pareto(trial, trials, folder / PLOTS[2]),
        PLOTS[3]: _try_votes(m, plan, folder / PLOTS[3]),
        PLOTS[4]: _try_roofline(m, folder / PLOTS[4]),
    }


def _try_pareto(trial: TrackedTrial, trials: list[TrackedTrial], path: Path) -> str:
    points, gain = points_of(trials, trial.run_id)
    if not points:
        return "no finished trial has its quality measured"
    limit = trial.params.get("quality.max_perplexity_ratio")
    draw_pareto(points, gain, float(limit) if limit else None, path)
    return ""


def _try_votes(metrics: Metrics, plan: PruningPlan | None, path: Path) -> str:
    if plan is None:
        return "the store has no plan of this run"
    if not plan.votes and not any(len(table) > 1 for table in plan.agreement.values()):
        return "nobody voted on units that could be removed"
    gone = len(plan.layers)
    draw_votes(plan, int(metrics["pruned/layers"]) + gone, path)
    return ""


def _try_roofline(metrics: Metrics, path: Path) -> str:
    if "machine/peak_gflop_per_s" not in metrics:
        return "speed was not measured"
    draw_roofline(metrics, path)
    return ""
