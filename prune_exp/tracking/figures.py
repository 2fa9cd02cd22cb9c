"""The key figures of a trial: how they are called and written, the same everywhere."""

from collections.abc import Mapping
from dataclasses import dataclass

from prune_exp.measurement.records import TASK, Interval


@dataclass(frozen=True, kw_only=True)
class Task:
    """Both models' answers to the questions of a task, as metrics have them."""

    name: str
    questions: int
    dense_accuracy_pct: float
    pruned_accuracy_pct: float
    change_points: Interval


def read_tasks(metrics: Mapping[str, float]) -> list[Task]:
    """The tasks of a trial, by name."""
    ending = "/questions"
    names = sorted(
        key.removeprefix(TASK).removesuffix(ending)
        for key in metrics
        if key.startswith(TASK) and key.endswith(ending)
    )
    return [
        Task(
            name=name,
            questions=int(metrics[f"{TASK}{name}{ending}"]),
            dense_accuracy_pct=metrics[f"{TASK}{name}/dense_accuracy_pct"],
            pruned_accuracy_pct=metrics[f"{TASK}{name}/pruned_accuracy_pct"],
            change_points=Interval.read(metrics, f"{TASK}{name}/accuracy_change_points"),
        )
        for name in names
    ]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A metric that has a 95 % interval."""

    key: str
    """The metric's name."""
    name: str
    short_name: str
    """Where there is little room."""
    form: str
    """Python's format specification of its value."""
    unit: str
    """Written behind the value."""
    nothing: float
    """Its value where both models are alike."""

    def show_value(self, value: float) -> str:
        """A value with its unit."""
        return f"{value:{self.form}}{self.unit}"

    def show_ends(self, interval: Interval, form: str | None = None) -> str:
        """Both ends of an interval, or that they are not known; `form` in place of its own."""
        if self.knows_nothing_of(interval):
            return "not known"
        return f"{interval.low:{form or self.form}} to {interval.high:{form or self.form}}"

    def knows_nothing_of(self, interval: Interval) -> bool:
        """Whether it is a ratio that one document or the like judged."""
        return self.nothing == 1 and interval.tells_nothing


KEY_FIGURES = (
    Figure(key="speedup", name="Speedup", short_name="speedup", form=".2f", unit="x", nothing=1.0),
    Figure(
        key="text_speedup",
        name="Speedup for equal text",
        short_name="speedup for equal text",
        form=".2f",
        unit="x",
        nothing=1.0,
    ),
    Figure(
        key="latency_reduction_pct",
        name="Latency reduction",
        short_name="latency reduction",
        form=".1f",
        unit=" %",
        nothing=0.0,
    ),
    Figure(
        key="memory_reduction_pct",
        name="Memory saved",
        short_name="memory saved",
        form=".1f",
        unit=" %",
        nothing=0.0,
    ),
    Figure(
        key="throughput_gain_pct",
        name="Decode throughput gain, batch 1",
        short_name="throughput gain",
        form=".1f",
        unit=" %",
        nothing=0.0,
    ),
    Figure(
        key="prefill_speedup",
        name="Prefill speedup",
        short_name="prefill speedup",
        form=".2f",
        unit="x",
        nothing=1.0,
    ),
    Figure(
        key="perplexity_ratio",
        name="Perplexity ratio",
        short_name="perplexity ratio",
        form=".2f",
        unit="x",
        nothing=1.0,
    ),
)


def fits_cache_alone(m: Mapping[str, float]) -> bool:
    """Whether what the pruned model reads for a token fits in a cache that the dense model's does
    not fit in."""
    cache = m.get("machine/last_level_cache_mib", 0.0)
    dense, pruned = (m.get(f"{side}/mib_read_per_token", 0.0) for side in ("dense", "pruned"))
    return pruned <= cache < dense


HEADLINE = (
    "speedup",
    "latency_reduction_pct",
    "memory_reduction_pct",
    "throughput_gain_pct",
    "perplexity_ratio",
)
"""What is shown first, as cards."""


def key_figures(*keys: str) -> tuple[Figure, ...]:
    """Some of the key figures, by their metrics' names, in the order given."""
    by_key = {figure.key: figure for figure in KEY_FIGURES}
    return tuple(by_key[key] for key in keys)
