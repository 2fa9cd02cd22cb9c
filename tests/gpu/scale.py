"""Memory and time of pruning and training large models, from shapes and rates: no measurement.

`python -m gpu.scale` prints the tables of README.md. Rates are a GPU's datasheet times what large
products are known to reach; give measured ones as `--name=value`.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from gpu.shapes import config_of, pruned_config, shape_of_config
from prune_exp.measurement.quality import BLOCKS_A_READING
from prune_exp.model.shape import ModelShape
from prune_exp.pruning.refit import SPAN_BYTES
from prune_exp.settings.groups import DataSettings, PruningSettings, RecoverySettings

GIB = 2**30


@dataclass(frozen=True)
class Rates:
    """What a GPU does, and what it has."""

    memory_gib: float = 78.0
    bfloat16_tflop_per_s: float = 400.0
    """Half of an H100's peak."""
    float32_tflop_per_s: float = 40.0
    float64_tflop_per_s: float = 25.0
    """Cholesky factors and triangular solves."""
    disk_gb_per_s: float = 1.0
    """Reading or writing, of the checkpoint, the cache and the output."""
    gpus: float = 8.0
    """In the cluster."""


NAMES = ("llama-1b", "llama-8b", "llama-70b")
SPARSITY = 0.5
TRAINED_TOKENS = 10_000_000
KINDS_OF_TEXT = 6
"""That are judged: the one to be kept, and five others."""
CHECKPOINT = 2
"""Bytes of a parameter on disk, as in bfloat16."""
READINGS = 3
"""Of the whole checkpoint with its layers on disk: calibration, gradients, refit."""


@dataclass(frozen=True)
class Task:
    """A model, what is left of it, and the text."""

    dense: ModelShape
    left: ModelShape
    tied: bool
    tokens: int
    """That calibrate."""
    voting: int
    """Those of them that the voters see."""
    gradient: int
    """Those of them that gradients are taken on."""
    judged_blocks: int
    judged: int
    """Tokens that quality is judged on."""
    batch: int
    """Tokens of a training step."""

    @property
    def embedding(self) -> int:
        """Parameters of the embedding; the head has as many."""
        return self.dense.vocab * self.dense.hidden


def task_of(name: str) -> Task:
    """Half of a model's parameters removed with default settings."""
    config = config_of(name)
    data, training = DataSettings(), RecoverySettings()
    blocks = KINDS_OF_TEXT * data.heldout_blocks
    return Task(
        dense=shape_of_config(config),
        left=shape_of_config(pruned_config(config, SPARSITY)),
        tied=config.tie_word_embeddings,
        tokens=data.calibration_blocks * data.context_tokens,
        voting=data.voting_blocks * data.context_tokens,
        gradient=data.gradient_blocks * data.context_tokens,
        judged_blocks=blocks,
        judged=blocks * data.context_tokens,
        batch=training.batch_blocks * training.context_tokens,
    )


def working_bytes(task: Task) -> float:
    """What calibration or the refit hold besides weights, whichever is more.

    Calibration: three residual streams in float32; of the layer's channels the sum of products in
    float32 and, in float64, itself, its factor and its inverse; of the heads the sum. The refit:
    six streams; a span's channels three times; of those left the system, its copy and the factor in
    float64, and both right sides. A layer that is trained: six streams; its weights, their
    gradients, two moments and the best copy.
    """
    stream = 4 * task.tokens * task.dense.hidden
    width, left = task.dense.width, task.left.width
    heads = task.dense.query_heads * task.dense.head_dim
    calibrating = 3 * stream + (4 + 3 * 8) * width**2 + 4 * heads**2
    channels = min(SPAN_BYTES, 4 * task.tokens * width)
    refitting = 6 * stream + 3 * channels + 3 * 8 * left**2 + 2 * 8 * left * task.dense.hidden
    training = 6 * stream + 5 * 4 * task.left.params_layer
    return max(calibrating, refitting, training)


def held_bytes(task: Task) -> float:
    """Pruning a loaded model: its weights and a copy of its head in float32."""
    return 4 * (task.dense.params_total + task.embedding) + working_bytes(task)


def offloaded_bytes(task: Task) -> float:
    """Pruning one with its layers on disk: what is in no layer, a head's copy, two layers."""
    outside = task.dense.params_total - task.dense.layers * task.dense.params_layer
    weights = outside + task.embedding + 2 * task.dense.params_layer
    return 4 * weights + working_bytes(task)


def stream_bytes(task: Task) -> float:
    """The residual stream before every layer and after the last, in bfloat16, on disk."""
    return (task.dense.layers + 1) * task.tokens * task.dense.hidden * 2


def trained_bytes(task: Task) -> float:
    """Training what is left, or before that the teacher beside it, whichever is more.

    In float32 the student, and of its layers gradients, two moments and the best copy; the layers
    again in bfloat16; activations; the dense head in both types.
    """
    layers = task.left.layers * task.left.params_layer
    a_token = task.left.layers * (24 * task.left.hidden + 8 * task.left.width)
    training = (4 + 8 + 4 + 2) * layers + task.batch * a_token
    teaching = 4 * task.dense.params_total
    return 4 * task.left.params_total + 6 * task.embedding + max(training, teaching)


def calibrate_s(task: Task, rates: Rates) -> float:
    """A reading in bfloat16, and in float32 where voters see it; moments, factors, gradients."""
    layers = task.dense.layers * task.dense.params_layer
    heads = task.dense.query_heads * task.dense.head_dim
    squares = task.dense.width**2 + heads**2
    single = 2 * layers * task.voting + 4 * layers * task.gradient
    single += task.dense.layers * 2 * task.voting * squares
    double = task.dense.layers * (task.dense.width**3 + heads**3)
    reading = 2 * layers * (task.tokens - task.voting)
    return _seconds(rates, reading, single, double) + _disk_s(rates, stream_bytes(task))


def refit_s(task: Task, rates: Rates) -> float:
    """The pruned stream through all layers, and again through what is left of them; systems.

    And forward and backward of one layer that is trained to stand in for removed ones.
    """
    both = task.dense.layers * task.dense.params_layer + task.left.layers * task.left.params_layer
    width, hidden = task.left.width, task.dense.hidden
    systems = task.left.layers * 2 * task.tokens * width * (width + hidden)
    solves = task.left.layers * (width**3 / 3 + 2 * width**2 * hidden)
    training = 6 * task.left.params_layer * task.tokens * PruningSettings.reconstruct_epochs
    products = 2 * both * task.tokens + training
    return _seconds(rates, products, systems, solves) + _disk_s(rates, stream_bytes(task))


def judge_s(task: Task, rates: Rates) -> float:
    """Both models read the held-out text in float32."""
    return _seconds(rates, 0, 2 * (task.dense.params_total + task.left.params_total) * task.judged)


def offload_s(task: Task, rates: Rates) -> float:
    """Reading and writing more with layers on disk: for pruning, and for judging both models."""
    both = task.dense.params_total + task.left.params_total
    judging = math.ceil(task.judged_blocks / BLOCKS_A_READING) * both
    pruning = READINGS * task.dense.params_total + 2 * task.left.params_total
    return _disk_s(rates, CHECKPOINT * (pruning + judging))


def train_s(task: Task, rates: Rates) -> float:
    """Forward and backward of the student and the teacher's reading, in bfloat16."""
    each = 6 * task.left.params_total + 2 * task.dense.params_total
    return _seconds(rates, each * TRAINED_TOKENS)


def _seconds(rates: Rates, bfloat16: float, float32: float = 0.0, float64: float = 0.0) -> float:
    """Time of some products, by their operations."""
    return (
        bfloat16 / rates.bfloat16_tflop_per_s
        + float32 / rates.float32_tflop_per_s
        + float64 / rates.float64_tflop_per_s
    ) / 1e12


def _disk_s(rates: Rates, count: float) -> float:
    return count / 1e9 / rates.disk_gb_per_s


def memory_lines(rates: Rates) -> Iterator[str]:
    """What is held and what lies on disk, in Markdown."""
    yield (
        "| model | parameters | pruned whole | layers on disk | training | stream on disk"
        " | changed layers on disk | one GPU |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for name in NAMES:
        task = task_of(name)
        held = [one(task) / GIB for one in (held_bytes, offloaded_bytes, trained_bytes)]
        disk = [stream_bytes(task) / GIB, CHECKPOINT * task.left.params_total / GIB]
        cells = [f"{task.dense.params_total / 1e9:.2f} billion"]
        cells += [f"{one:.1f}" for one in (*held, *disk)]
        yield f"| {name} | {' | '.join(cells)} | {verdict_of(held, rates)} |"


def verdict_of(held_gib: list[float], rates: Rates) -> str:
    """What one GPU can do of pruning whole, with layers on disk, and training."""
    whole, offloaded, trained = [one <= rates.memory_gib for one in held_gib]
    if not offloaded:
        return "nothing"
    pruning = "prunes" if whole else "prunes with `model.offload=true`"
    return f"{pruning}, {'trains' if trained else 'does not train'}"


def time_lines(rates: Rates) -> Iterator[str]:
    """Minutes of a trial without its benchmark, in Markdown."""
    yield (
        "| model | calibrate | refit | judge | more with layers on disk | train"
        f" | trials an hour on {rates.gpus:.0f} GPUs |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name in NAMES:
        task = task_of(name)
        steps = [one(task, rates) for one in (calibrate_s, refit_s, judge_s)]
        more = offload_s(task, rates)
        trial_s = sum(steps)
        if held_bytes(task) / GIB > rates.memory_gib:
            trial_s += more
        minutes = [f"{one / 60:.1f}" for one in (*steps, more, train_s(task, rates))]
        yield f"| {name} | {' | '.join(minutes)} | {rates.gpus * 3600 / trial_s:.0f} |"


def main() -> None:
    """Prints the tables; options change the rates."""
    known = {one.name for one in fields(Rates)}
    given = dict(option.removeprefix("--").split("=") for option in sys.argv[1:])
    assert given.keys() <= known, f"rates are {', '.join(sorted(known))}"
    changes: dict[str, Any] = {name: float(value) for name, value in given.items()}
    rates = replace(Rates(), **changes)
    print("\n".join([*memory_lines(rates), "", *time_lines(rates)]))


if __name__ == "__main__":
    main()
