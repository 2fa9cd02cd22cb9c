"""Goals in the user's units, as constraints and objectives of a search.

The largest cut that keeps quality is a goal, too, and a sampler of its own looks for it.
"""

from collections.abc import Callable, Set
from typing import Any

from prune_exp.settings.choices import LARGEST_KEPT
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import DEFAULT_OBJECTIVES, QualitySettings, TrackingSettings

LIMITS: dict[str, tuple[str, Callable[[float], float]]] = {
    "perplexity_ratio": ("perplexity_ratio", float),
    "latency_ms": ("pruned/latency_ms_p50", float),
    "memory_mib": ("pruned/peak_memory_mib", float),
    "file_mib": ("file_mib", float),
    "speedup": ("latency_ratio", lambda least: 1 / least),
}
"""The metric that each goal limits, and the most that it may be."""
TIMED = ("latency_ms", "memory_mib", "speedup")
QUALITY = "perplexity_ratio"
FORESEEN = "worst_perplexity_ratio_foreseen"
"""The metric that must stay within `quality.max_perplexity_ratio` where the largest kept cut is
looked for: what the gates, which judge other documents, will most likely find at most."""
LEAST = {"perplexity_ratio": 1.0, "speedup": 1.0}
"""Goals below these ask for nothing."""


def given_goals(settings: Any) -> dict[str, float]:
    """The goals that are set, by name."""
    return {name: value for name in LIMITS if (value := getattr(settings.goal, name)) is not None}


def apply_goals(settings: Any, typed: Set[str]) -> None:
    """Turns goals into constraints; where no objective is given, the opposite is searched for.

    With a goal of quality that is speed, with others quality, with both it is both. `typed` are the
    settings that the command line gives.
    """
    goals = given_goals(settings)
    sensible = {name: value for name, value in goals.items() if value > 0}
    if not sensible:
        return
    for name, value in sensible.items():
        metric, limit = LIMITS[name]
        constraint = f"{metric}:{limit(value)!r}"
        if constraint not in settings.search.constraints:  # a command typed again from its params
            settings.search.constraints.append(constraint)
    only_quality = goals.keys() == {QUALITY}
    if _is_default(settings.search, "objectives", list(DEFAULT_OBJECTIVES), typed):
        faster = "latency_ratio" if settings.benchmark.enabled else "weights_read_ratio"
        settings.search.objectives = [
            *([faster] if QUALITY in goals else []),
            *([] if only_quality else ["bits_per_byte_increase"]),
        ]
    quality = settings.quality
    same = QualitySettings().max_perplexity_ratio
    if QUALITY in goals and _is_default(quality, "max_perplexity_ratio", same, typed):
        quality.max_perplexity_ratio = goals[QUALITY]
    rule = TrackingSettings().best
    if QUALITY not in goals and _is_default(settings.tracking, "best", rule, typed):
        settings.tracking.best = "quality"


def look_for_size(settings: Any, typed: Set[str]) -> None:
    """What the largest cut that keeps quality means where that is searched for.

    Trials that lost their quality break a constraint; of the others the one that removes most is
    the best. `typed` are the settings that the command line gives.
    """
    search = settings.search
    if search.sampler != LARGEST_KEPT or not settings.quality.enabled:
        return
    if not any(one.startswith(f"{FORESEEN}:") for one in search.constraints):
        search.constraints.append(f"{FORESEEN}:{settings.quality.max_perplexity_ratio!r}")
    if _is_default(search, "objectives", list(DEFAULT_OBJECTIVES), typed):
        search.objectives = ["params_pruned_pct:maximize"]
    if _is_default(settings.tracking, "best", TrackingSettings().best, typed):
        settings.tracking.best = "size_if_maintained"


def _is_default(group: Any, name: str, default: Any, typed: Set[str]) -> bool:
    return getattr(group, name) == default and not any(key.endswith(f".{name}") for key in typed)


def check_goals(settings: Any) -> None:
    """Refuses goals that say nothing, or that trials will not measure, or that contradict.

    Raises:
        SettingError: one of them does.
    """
    goals = given_goals(settings)
    for name, value in goals.items():
        least = LEAST.get(name, 0.0)
        if not value > 0 or value < least:
            more = f"{least:g} or more" if least else "more than 0"
            raise SettingError(f"goal.{name}={value:g} is no goal; use {more}")
        if name in TIMED and not settings.benchmark.enabled:
            raise SettingError(
                f"benchmark=off does not measure goal.{name}={value:g}; use benchmark=default, or"
                " goal.file_mib"
            )
    if QUALITY in goals:
        _check_quality(settings, goals[QUALITY])
    named = [one.partition(":")[0].strip() for one in settings.search.constraints]
    for metric in {one for one in named if named.count(one) > 1}:
        raise SettingError(
            f"{metric} has two limits by search.constraints and the goals; leave one out"
        )


def _check_quality(settings: Any, wanted: float) -> None:
    if not settings.quality.enabled:
        raise SettingError(
            f"quality=off does not measure goal.perplexity_ratio={wanted:g}; use quality=default"
        )
    limit = settings.quality.max_perplexity_ratio
    if limit != wanted:
        raise SettingError(
            f"goal.perplexity_ratio={wanted:g} and quality.max_perplexity_ratio={limit:g} are two"
            " limits of the same; leave one out"
        )
