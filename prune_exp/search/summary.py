"""What a search found, for people: a line a trial, the Pareto front, Optuna's own plots."""

import logging
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import optuna
from matplotlib import pyplot
from optuna.trial import FrozenTrial
from optuna.visualization import matplotlib as plots
from rich.console import Console
from rich.table import Table

from prune_exp.search.study import ERROR, STOPPED, WARM, is_feasible, point_of


def describe_trial(study: optuna.Study, number: int, objectives: list[str]) -> str:
    """One finished trial: number, parameters, objectives, feasibility, and the best so far."""
    trial = study.trials[number]
    params = " ".join(f"{key}={_shorten(value)}" for key, value in point_of(trial).items())
    head = f"trial {number}: {params}"
    if STOPPED in trial.user_attrs:
        return (
            f"{head} | stopped: {trial.user_attrs[STOPPED]} | {_describe_best(study, objectives)}"
        )
    if not trial.values:
        return f"{head} | failed: {trial.user_attrs.get(ERROR, 'no reason recorded')}"
    values = " ".join(
        f"{key}={value:.4g}" for key, value in zip(objectives, trial.values, strict=True)
    )
    verdict = "feasible" if is_feasible(trial) else "infeasible"
    return f"{head} | {values} | {verdict} | {_describe_best(study, objectives)}"


def _shorten(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _describe_best(study: optuna.Study, objectives: list[str]) -> str:
    front = _front_of(study)
    if not front:
        return "no feasible trial yet"
    if len(objectives) > 1:
        return f"front: {', '.join(str(trial.number) for trial in front)}"
    return f"best so far: trial {front[0].number} with {_shorten(front[0].values[0])}"


def _front_of(study: optuna.Study) -> list[FrozenTrial]:
    """Feasible trials that no other beats in every objective; one at most for one objective."""
    if len(study.directions) > 1:
        return study.best_trials
    done = [trial for trial in study.trials if trial.values and is_feasible(trial)]
    sign = 1 if study.direction.name == "MINIMIZE" else -1
    return sorted(done, key=lambda trial: sign * trial.values[0])[:1]


def print_front(study: optuna.Study, objectives: list[str]) -> None:
    """The trials that no other beats in every objective, or the best one, as a table."""
    several = len(objectives) > 1
    front = _front_of(study)
    console = Console(markup=False, highlight=False)
    if not front:
        console.print("No trial met all constraints, so there is no best one.")
        return
    title = "Pareto front: no trial beats these in every objective" if several else "Best trial"
    table = Table(title=title, padding=(0, 0))
    points = {trial.number: point_of(trial) for trial in front}
    params = list(dict.fromkeys(key for point in points.values() for key in point))
    for name in ["Trial", *params, *objectives]:
        table.add_column(name, overflow="fold")
    for trial in sorted(front, key=lambda one: one.values):
        shown = [_shorten(points[trial.number].get(key, "")) for key in params]
        table.add_row(_name_trial(trial), *shown, *(_shorten(value) for value in trial.values))
    console.print(table)


def _name_trial(trial: FrozenTrial) -> str:
    """Its number, and which trial of which study it was where another study ran it."""
    source = trial.user_attrs.get(WARM)
    return f"{trial.number} ({source})" if source else str(trial.number)


def list_importances(study: optuna.Study, objectives: list[str]) -> dict[str, float]:
    """How much each searched setting decides on each objective, by `importance/OBJECTIVE/SETTING`.

    Nothing where there are too few trials, or trials too much alike, to say.
    """
    found: dict[str, float] = {}
    for place, name in enumerate(objectives):
        target = _target_at(place) if len(objectives) > 1 else None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                shares = optuna.importance.get_param_importances(study, target=target)
        except (ValueError, RuntimeError, ImportError) as error:
            logging.getLogger(__name__).info("importances of %s: %s", name, error)
            continue
        found |= {f"importance/{name}/{key}": value for key, value in shares.items()}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def write_plots(study: optuna.Study, objectives: list[str], folder: Path) -> list[Path]:
    """Optuna's plots as PNG files: history, Pareto front, importances, parallel coordinates.

    Those that need more finished trials than there are, or cannot show this many objectives, are
    left out.
    """
    done = [trial for trial in study.trials if trial.values]
    if len(done) < 2:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, draw in _plots_of(study, objectives).items():
            try:
                axes = draw()
            except (ValueError, RuntimeError, ImportError) as error:
                logging.getLogger(__name__).info("%s not drawn: %s", name, error)
                continue
            written.append(_save_plot(axes, folder / f"{name}.png"))
    return written


def _plots_of(study: optuna.Study, objectives: list[str]) -> dict[str, Callable[[], Any]]:
    matplotlib.use("Agg")
    drawn: dict[str, Callable[[], Any]] = {}
    if 2 <= len(objectives) <= 3:
        drawn["pareto_front"] = lambda: plots.plot_pareto_front(study, target_names=objectives)
    for place, name in enumerate(objectives):
        target = _target_at(place) if len(objectives) > 1 else None
        shared: dict[str, Any] = {"target": target, "target_name": name}
        safe = name.replace("/", "_")
        drawn |= {
            f"history_{safe}": lambda s=shared: plots.plot_optimization_history(study, **s),
            f"importances_{safe}": lambda s=shared: plots.plot_param_importances(study, **s),
            f"parallel_{safe}": lambda s=shared: plots.plot_parallel_coordinate(study, **s),
        }
    return drawn


def _target_at(place: int) -> Callable[[FrozenTrial], float]:
    return lambda trial: trial.values[place]


def _save_plot(axes: Any, path: Path) -> Path:
    figure = axes.figure
    figure.set_size_inches(9, 5.5)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
