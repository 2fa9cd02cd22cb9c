"""Refuses goals that no trial can reach, from the sizes of the models alone."""

import math
from collections.abc import Sequence

from prune_exp.model.shape import ModelShape
from prune_exp.model.sources import ModelSource
from prune_exp.pruning.allocation import NOTHING, TOLERANCE, allocate_budget, shape_after
from prune_exp.settings.errors import SettingError
from prune_exp.settings.goals import given_goals
from prune_exp.settings.schema import Settings
from prune_exp.trial.stops import least_bytes

SLACK = 2 * TOLERANCE
"""Share of the dense model by which a point inside an interval may be smaller than its ends."""
Point = tuple[Settings, ModelShape, ModelSource]
"""Settings with the dense model's sizes and where it lies."""


def check_reach(points: Sequence[Point]) -> None:
    """Refuses goals of size and speed that are beyond the smallest model of some points.

    Raises:
        SettingError: a goal is out of reach; says what is within it.
    """
    goals = given_goals(points[0][0]) if points else {}
    if any(one.pruning.ballot == "fixed" for one, _, _ in points):
        return  # how much goes is what the voters agree on
    for name, wanted in goals.items():
        if name in ("file_mib", "memory_mib"):
            _check_size(name, wanted, points)
        elif name == "speedup":
            _check_speedup(wanted, points)


def _check_size(name: str, wanted: float, points: Sequence[Point]) -> None:
    metric = {"file_mib": "file_mib", "memory_mib": "pruned/peak_memory_mib"}[name]
    found: list[tuple[float, float]] = []
    for settings, shape, source in points:
        params = _smallest(settings, shape).params_total - SLACK * shape.params_total
        least = least_bytes(settings, source, round(params))
        if metric not in least:
            return
        found.append((least[metric], settings.sparsity))
    least, sparsity = min(found)
    wide = all(settings.model.export_dtype == "float32" for settings, _, _ in points)
    if least > wanted:
        raise SettingError(
            f"goal.{name}={wanted:g} is out of reach: the weights of the smallest model here, at"
            f" sparsity={sparsity:g}, take {least:.1f} MiB; use goal.{name}={math.ceil(least)} or"
            " more, a larger sparsity"
            + (", or model.export_dtype=bfloat16" if name == "file_mib" and wide else "")
        )


def _check_speedup(wanted: float, points: Sequence[Point]) -> None:
    found = [(_most_speedup(settings, shape), settings.sparsity) for settings, shape, _ in points]
    most, sparsity = max(found)
    if most < wanted:
        raise SettingError(
            f"goal.speedup={wanted:g} is out of reach: by the weights that it reads, the smallest"
            f" model here, at sparsity={sparsity:g}, is {most:.2f} times as fast at most; use"
            f" goal.speedup={math.floor(100 * most) / 100:g} or less, or a larger sparsity"
        )


def _most_speedup(settings: Settings, dense: ModelShape) -> float:
    """By the weights read for a token, or by those of the layers, which decide on long prompts."""
    left = _smallest(settings, dense)
    slack = 0.0 if settings.pruning.method != "structured" else SLACK * dense.params_total
    pairs = (
        (
            dense.params_total - dense.params_embedding_only,
            left.params_total - left.params_embedding_only,
        ),
        (dense.layers * dense.params_layer, left.layers * left.params_layer),
    )
    return max(whole / max(rest - slack, 1.0) for whole, rest in pairs)


def _smallest(settings: Settings, shape: ModelShape) -> ModelShape:
    if settings.pruning.method != "structured":
        return shape_after(shape, NOTHING)
    return shape_after(shape, allocate_budget(shape, settings.sparsity, settings.pruning))
