"""From samples of both models to what is said of their speed and memory."""

from dataclasses import dataclass, fields
from typing import Any

from prune_exp.measurement.footprint import MIB, Footprint
from prune_exp.measurement.intervals import middle_ratio
from prune_exp.measurement.records import (
    BatchSide,
    BatchSpeed,
    Interval,
    Machine,
    Speed,
    SpeedComparison,
)
from prune_exp.measurement.stopping import Pair
from prune_exp.settings.groups import BenchmarkSettings

SIDES = ("dense", "pruned")
Shapes = dict[str, dict[str, tuple[int, int]]]
"""By side and label of a batch: sequences, prompt tokens."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the processes answered, unprocessed."""

    pairs: list[Pair]
    stopped_by: str
    measured_s: float
    batches: dict[str, list[Pair]]
    memory: dict[str, list[dict[str, Any]]]
    """Memory after the warm-up in fresh processes, by side."""
    startup_s: dict[str, float]
    roof: dict[str, float]
    """What the machine's memory and arithmetic allow."""
    load: dict[str, float]
    facts: dict[str, Any]


def latency_ratio(pairs: list[Pair], settings: BenchmarkSettings) -> Interval:
    """Dense over pruned latency of whole requests: the speedup."""
    return _ratio_of_sides(pairs, "total_ms", settings)


def compare_speed(
    measured: Measured, settings: BenchmarkSettings, shapes: Shapes
) -> SpeedComparison:
    """Ratios of pairs, each side's figures, and how both stand against the machine's limits."""
    prints = {side: _read_footprint(measured.memory[side][0]) for side in SIDES}
    sides = {
        side: _speed_of(measured, side, prints[side], settings, shapes[side]) for side in SIDES
    }
    peaks = {side: [one["peak_memory_mib"] for one in measured.memory[side]] for side in SIDES}
    dense = sides["dense"]
    pruned = sides["pruned"]
    return SpeedComparison(
        dense=dense,
        pruned=pruned,
        speedup=latency_ratio(measured.pairs, settings),
        prefill_speedup=_ratio_of_sides(measured.pairs, "ttft_ms", settings),
        throughput_ratio=_ratio_of_sides(measured.pairs, "tpot_ms", settings),
        memory_ratio=middle_ratio(
            peaks["pruned"], peaks["dense"], resamples=settings.bootstrap_resamples
        ),
        bandwidth_limit_speedup=dense.mib_read_per_token / pruned.mib_read_per_token,
        machine=_machine_of(measured),
        prompts=len({pair["dense"]["prompt"] for pair in measured.pairs}),
        pairs=len(measured.pairs),
        stopped_by=measured.stopped_by,
        measured_s=measured.measured_s,
        batches=tuple(
            _compare_batch(label, pairs, prints, settings, shapes)
            for label, pairs in measured.batches.items()
        ),
        samples=tuple(sample for pair in measured.pairs for sample in pair.values()),
        facts=measured.facts
        | measured.load
        | measured.roof
        | {"stopped_by": measured.stopped_by, "startup_s": measured.startup_s},
    )


def _read_footprint(memory: dict[str, Any]) -> Footprint:
    return Footprint.from_facts(memory["footprint"])


def _machine_of(measured: Measured) -> Machine:
    found = measured.roof | measured.load
    return Machine(**{one.name: found[one.name] for one in fields(Machine)})


def _values_of(pairs: list[Pair], side: str, field: str) -> list[float]:
    """One model's values of a field, in the order of the pairs."""
    return [pair[side][field] for pair in pairs]


def _ratio_of_sides(pairs: list[Pair], field: str, settings: BenchmarkSettings) -> Interval:
    """Dense over pruned; the interval is about the prompts that were asked."""
    columns = (_values_of(pairs, side, field) for side in SIDES)
    return middle_ratio(*columns, resamples=settings.bootstrap_resamples)


def _speed_of(
    measured: Measured,
    side: str,
    footprint: Footprint,
    settings: BenchmarkSettings,
    shapes: dict[str, tuple[int, int]],
) -> Speed:
    import numpy as np

    pairs = measured.pairs
    new = settings.new_tokens
    total, ttft, tpot = (
        np.percentile(_values_of(pairs, side, field), (50, 90, 99)).tolist()
        for field in ("total_ms", "ttft_ms", "tpot_ms")
    )
    prompt = float(np.median(_values_of(pairs, side, "prompt_tokens")))
    read = footprint.decode_bytes(1, prompt, new)
    flop = footprint.decode_flop(1, prompt, new)
    prefill = footprint.prefill_flop(prompt)
    bandwidth = measured.roof["read_bandwidth_gb_per_s"] * 1e9
    return Speed(
        latency_ms_mean=float(np.mean(_values_of(pairs, side, "total_ms"))),
        latency_ms_p50=total[0],
        latency_ms_p90=total[1],
        latency_ms_p99=total[2],
        ttft_ms=ttft[0],
        ttft_ms_p90=ttft[1],
        ttft_ms_p99=ttft[2],
        tpot_ms=tpot[0],
        tpot_ms_p90=tpot[1],
        tpot_ms_p99=tpot[2],
        throughput_tokens_per_s=1000 / tpot[0],
        **_memory_figures(measured.memory[side], footprint, shapes, new),
        mib_read_per_token=read / MIB,
        bandwidth_limit_tokens_per_s=bandwidth / read,
        share_of_bandwidth=1000 / tpot[0] * read / bandwidth,
        decode_flop_per_byte=flop / read,
        decode_gflop_per_s=flop / tpot[0] / 1e6,
        prefill_flop_per_byte=prefill / footprint.prefill_bytes(prompt),
        prefill_gflop_per_s=prefill / ttft[0] / 1e6,
        startup_s=measured.startup_s[side],
    )


def _memory_figures(
    rounds: list[dict[str, Any]],
    footprint: Footprint,
    shapes: dict[str, tuple[int, int]],
    new: int,
) -> dict[str, float]:
    """The peak and what it consists of, MiB; the last token's keys and values are never made."""
    import numpy as np

    peak = float(np.median([one["peak_memory_mib"] for one in rounds]))
    weights = footprint.weight_bytes / MIB
    cache = max(size * footprint.kv_bytes(prompt + new - 1) for size, prompt in shapes.values())
    return {
        "peak_memory_mib": peak,
        "weights_mib": weights,
        "kv_cache_mib": cache / MIB,
        "kv_cache_measured_mib": rounds[0]["kv_cache_mib"],
        "buffers_mib": peak - weights - cache / MIB,
    }


def _compare_batch(
    label: str,
    pairs: list[Pair],
    prints: dict[str, Footprint],
    settings: BenchmarkSettings,
    shapes: Shapes,
) -> BatchSpeed:
    import numpy as np

    def one(side: str) -> BatchSide:
        size, prompt = shapes[side][label]
        total, ttft, tpot = (
            float(np.median(_values_of(pairs, side, field)))
            for field in ("total_ms", "ttft_ms", "tpot_ms")
        )
        flop = prints[side].decode_flop(size, prompt, settings.new_tokens)
        read = prints[side].decode_bytes(size, prompt, settings.new_tokens)
        return BatchSide(
            throughput_tokens_per_s=1000 * size * settings.new_tokens / total,
            ttft_ms=ttft,
            tpot_ms=tpot,
            decode_flop_per_byte=flop / read,
            decode_gflop_per_s=flop / tpot / 1e6,
        )

    return BatchSpeed(
        label=label,
        dense=one("dense"),
        pruned=one("pruned"),
        throughput_ratio=_ratio_of_sides(pairs, "total_ms", settings),
    )
