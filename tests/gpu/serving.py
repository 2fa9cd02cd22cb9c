"""How fast pruned models are served beside the dense one, request by request in turns."""

import time
from dataclasses import dataclass
from typing import Any

import torch

from gpu.shapes import config_of, pruned_config, random_model
from prune_exp.machine.device import wait_for_device
from prune_exp.measurement.backends.protocol import ServeSpec
from prune_exp.measurement.backends.transformers import StaticCacheModel
from prune_exp.measurement.bandwidth import measure_rates
from prune_exp.measurement.footprint import Footprint, footprint_of
from prune_exp.measurement.intervals import middle_ratio
from prune_exp.measurement.worker import Stamps

RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked of the models."""

    batches: tuple[int, ...]
    compiled_batches: tuple[int, ...]
    """Those that are also served with a compiled step; compiling takes long."""
    prompt_tokens: int
    new_tokens: int
    rounds: int
    sparsities: tuple[float, ...]
    dtype: str


LOADS = {
    "tiny": Load(
        batches=(1, 4),
        compiled_batches=(1,),
        prompt_tokens=12,
        new_tokens=4,
        rounds=2,
        sparsities=(0.5,),
        dtype="float32",
    ),
    "llama-8b": Load(
        batches=(1, 8, 64),
        compiled_batches=(1, 8),
        prompt_tokens=512,
        new_tokens=32,
        rounds=5,
        sparsities=(0.3, 0.5),
        dtype="bfloat16",
    ),
}
LOADS["llama-1b"] = LOADS["llama-8b"]


def serve_shape(name: str, device: str, report: Any) -> None:
    """Serves dense and pruned shapes with random weights; reports after every batch size."""
    load = LOADS[name]
    rates = measure_rates(torch.get_num_threads(), device, load.dtype)
    report(shape=name, rates=rates)
    torch._dynamo.config.recompile_limit = 64  # one code object steps all models and batches
    dense = config_of(name)
    configs = {"dense": dense} | {f"{s:.0%}": pruned_config(dense, s) for s in load.sparsities}
    models = {side: random_model(one, device, load.dtype) for side, one in configs.items()}
    footprints = {side: footprint_of(model) for side, model in models.items()}
    for compiled in (False, True):
        served = {side: _serve(one, load, device, compiled) for side, one in models.items()}
        for batch in load.compiled_batches if compiled else load.batches:
            times = _take_turns(served, load, batch, device, dense.vocab_size)
            report(
                shape=name,
                compiled=compiled,
                batch=batch,
                prompt_tokens=load.prompt_tokens,
                sides={
                    side: _sum_up(times, side, footprints[side], load, batch, rates)
                    for side in served
                },
            )


def _serve(model: Any, load: Load, device: str, compiled: bool) -> StaticCacheModel:
    room = load.prompt_tokens + load.new_tokens
    return StaticCacheModel(
        model,
        ServeSpec(
            folder="",
            backend="transformers",
            dtype=load.dtype,
            cache="static",
            compile=compiled,
            device=device,
            threads=torch.get_num_threads(),
            sequences=max(load.batches),
            cache_tokens=room,
        ),
    )


Times = dict[str, list[dict[str, float]]]
"""By side, of every round, seconds of the prompt's pass and of a token after it."""


def _take_turns(
    served: dict[str, StaticCacheModel], load: Load, batch: int, device: str, vocab: int
) -> Times:
    """Times of all sides, who takes turns to be first; the first round is not counted."""
    ids = torch.randint(2, vocab, (batch, load.prompt_tokens)).tolist()
    times: Times = {side: [] for side in served}
    for number in range(load.rounds + 1):
        order = list(served) if number % 2 else list(reversed(served))
        for side in order:
            stamps = Stamps(load.new_tokens, None)
            wait_for_device(device)
            start = time.perf_counter()
            served[side].generate(ids, load.new_tokens, stamps.arrived)
            wait_for_device(device)
            steps = (stamps.times[-1] - stamps.times[0]) / (load.new_tokens - 1)
            if number:
                times[side].append({"prefill_s": stamps.times[0] - start, "decode_s": steps})
    return times


def _sum_up(
    times: Times, side: str, footprint: Footprint, load: Load, batch: int, rates: dict[str, float]
) -> dict[str, Any]:
    """A side's medians, its speedups over the dense side, and its share of the bandwidth."""
    found: dict[str, Any] = {}
    for what in ("prefill_s", "decode_s"):
        ours = [one[what] for one in times[side]]
        dense = [one[what] for one in times["dense"]]
        found[what] = sorted(ours)[len(ours) // 2]
        if side != "dense":
            ratio = middle_ratio(dense, ours, resamples=RESAMPLES)
            found[what.replace("_s", "_speedup")] = [ratio.value, ratio.low, ratio.high]
    read = footprint.decode_bytes(batch, load.prompt_tokens, load.new_tokens)
    found["share_of_bandwidth"] = read / found["decode_s"] / 1e9 / rates["read_bandwidth_gb_per_s"]
    found["tokens_per_s"] = batch / found["decode_s"]
    found["weights_mib"] = footprint.weight_bytes / 2**20
    return found
