"""The tables on paper are what the sums give, and the sums are right where done by hand."""

import dataclasses
from pathlib import Path

import pytest

from gpu import scale
from prune_exp.pruning.refit import SPAN_BYTES


@pytest.fixture(scope="module")
def largest() -> scale.Task:
    return scale.task_of("llama-70b")


def test_the_readme_has_what_is_printed() -> None:
    text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    rates = scale.Rates()
    for line in [*scale.memory_lines(rates), *scale.time_lines(rates)]:
        assert f"\n{line}\n" in text


def test_memory_by_hand(largest: scale.Task) -> None:
    hidden, width, vocab, tokens = 8192, 28672, 128256, 64 * 512
    attention, mlp = 2 * hidden * hidden + 2 * 1024 * hidden, 3 * hidden * width
    layer = attention + mlp + 2 * hidden
    assert largest.dense.params_layer == layer
    assert largest.dense.params_total == 80 * layer + 2 * vocab * hidden + hidden
    stream, span = 4 * tokens * hidden, 4 * tokens * width
    assert span > SPAN_BYTES, "the text goes through in several spans"
    working = 3 * stream + 28 * width**2 + 4 * hidden**2
    assert scale.working_bytes(largest) == working
    outside = 2 * vocab * hidden + hidden
    assert scale.offloaded_bytes(largest) == 4 * (outside + vocab * hidden + 2 * layer) + working


def test_with_layers_on_disk_memory_does_not_grow_with_them(largest: scale.Task) -> None:
    dense = largest.dense
    more = dataclasses.replace(
        dense, layers=2 * dense.layers, params_total=dense.params_total + 80 * dense.params_layer
    )
    deeper = dataclasses.replace(largest, dense=more)
    assert scale.offloaded_bytes(deeper) == scale.offloaded_bytes(largest)
    grown = scale.held_bytes(deeper) - scale.held_bytes(largest)
    assert grown == 4 * 80 * dense.params_layer


def test_what_fits() -> None:
    rates = scale.Rates(memory_gib=80)
    assert scale.verdict_of([81, 40, 81], rates) == (
        "prunes with `model.offload=true`, does not train"
    )
    assert scale.verdict_of([80, 40, 80], rates) == "prunes, trains"
    assert scale.verdict_of([90, 81, 70], rates) == "nothing"
