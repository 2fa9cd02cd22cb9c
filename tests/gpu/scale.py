"""Memory and time of pruning and training large models, from shapes and rates: no measurement.

`python -m gpu.scale` prints the table of README.md. Rates are a GPU's datasheet times what
large products are known to reach; give measured ones as `--name=value`.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from gpu.shapes import config_of, pruned_config, shape_of_config
from prune_exp.settings.groups import DataSettings, RecoverySettings

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


NAMES = ("llama-1b", "llama-8b", "llama-70b")
SPARSITY = 0.5
TRAINED_TOKENS = 10_000_000


@dataclass(frozen=True)
class Need:
    """One model's needs."""

    held_gib: float
    """Weights in float32 and the largest activations of a refit."""
    streamed_gib: float
    """The residual stream before every layer, in bfloat16, on disk."""
    prune_s: float
    trained_gib: float
    """Student, its gradients, two moments and the best copy in float32; the teacher comes and
    goes before."""
    train_s: float


def need_of(name: str, rates: Rates) -> Need:
    """What pruning half of a model and training the rest come to."""
    config = config_of(name)
    shape = shape_of_config(config)
    left = shape_of_config(pruned_config(config, SPARSITY))
    data = DataSettings()
    tokens = data.calibration_blocks * data.context_tokens
    voting = data.voting_blocks * data.context_tokens
    trained = RecoverySettings()
    batch = trained.batch_blocks * trained.context_tokens
    stream = (shape.layers + 1) * tokens * shape.hidden * 2
    return Need(
        held_gib=(4 * shape.params_total + _activations(shape, tokens)) / GIB,
        streamed_gib=stream / GIB,
        prune_s=_prune_seconds(shape, left, tokens, voting, rates)
        + 2 * stream / 1e9 / rates.disk_gb_per_s,
        trained_gib=(20 * left.params_total + 24 * batch * left.hidden * left.layers) / GIB,
        train_s=(6 * left.params_total + 2 * shape.params_total)
        * TRAINED_TOKENS
        / (1e12 * rates.bfloat16_tflop_per_s),
    )


def _activations(shape: Any, tokens: int) -> float:
    """Bytes of a layer's refit: channels three times over, five streams, the system in float64."""
    return 4 * tokens * (3 * shape.width + 5 * shape.hidden) + 3 * 8 * shape.width**2


def _prune_seconds(shape: Any, left: Any, tokens: int, voting: int, rates: Rates) -> float:
    """Two readings in bfloat16, moments and systems in float32, factors in float64."""
    blocks = shape.layers * shape.params_layer
    heads = shape.query_heads * shape.head_dim
    forward = 2 * blocks * 2 * tokens
    moments = shape.layers * 2 * voting * (shape.width**2 + heads**2)
    solved = left.layers * 2 * tokens * left.width * (left.width + shape.hidden)
    factors = shape.layers * (shape.width**3 + heads**3) + left.layers * left.width**3 / 3
    solves = left.layers * 2 * left.width**2 * shape.hidden
    return (
        forward / rates.bfloat16_tflop_per_s
        + (moments + solved + 2 * blocks * voting) / rates.float32_tflop_per_s
        + (factors + solves) / rates.float64_tflop_per_s
    ) / 1e12


def table_lines(rates: Rates) -> Iterator[str]:
    """The table in Markdown."""
    yield "| model | held, GiB | streamed, GiB | prune, min | train, GiB | train, h | one GPU |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name in NAMES:
        need = need_of(name, rates)
        fits = [part <= rates.memory_gib for part in (need.held_gib, need.trained_gib)]
        verdict = {
            (True, True): "prunes and trains",
            (True, False): "prunes",
            (False, True): "trains",
            (False, False): "neither",
        }[fits[0], fits[1]]
        yield (
            f"| {name} | {need.held_gib:.0f} | {need.streamed_gib:.1f} | {need.prune_s / 60:.1f} |"
            f" {need.trained_gib:.0f} | {need.train_s / 3600:.1f} | {verdict} |"
        )


def main() -> None:
    """Prints the table; options change the rates."""
    known = {field.name for field in fields(Rates)}
    given = dict(option.removeprefix("--").split("=") for option in sys.argv[1:])
    assert given.keys() <= known, f"rates are {', '.join(sorted(known))}"
    rates = replace(Rates(), **{name: float(value) for name, value in given.items()})
    print("\n".join(table_lines(rates)))


if __name__ == "__main__":
    main()
