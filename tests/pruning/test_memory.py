"""Pruning holds one dense model: what it adds is far less than a second one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from prune_exp.machine.memory import memory_mib, reset_peak
from prune_exp.pruning import surgery
from prune_exp.pruning.calibration import ReadingSettings, compute_statistics
from support.models import make_tiny
from support.plans import empty_plan

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
WIDTH = 1024
IDS = torch.randint(1, 300, (2, 16), generator=torch.Generator().manual_seed(1))


@contextmanager
def adds_less_than(mib: float) -> Iterator[None]:
    """The peak of the body above what was there before it."""
    level = memory_mib("VmRSS")
    assert reset_peak()
    yield
    assert memory_mib("VmHWM") - level < mib


def make_model(layers: int) -> Any:
    sizes: dict[str, Any] = {
        "hidden_size": 512,
        "intermediate_size": WIDTH,
        "num_hidden_layers": layers,
    }
    return make_tiny("llama", **sizes, head_dim=128)


def calibrate(model: Any) -> None:
    reading = ReadingSettings(voting_blocks=2, gradient_blocks=1)
    compute_statistics(model, IDS, torch.full((300,), 1 / 300), reading, lambda *_: None)


def halve_channels(model: Any) -> Any:
    layers = model.config.num_hidden_layers
    gone = tuple(range(WIDTH // 2))
    each = dict.fromkeys(range(layers), gone)
    plan = empty_plan(layers=(1,), heads=dict.fromkeys(range(layers), ()), channels=each)
    return surgery.carry_out_plan(model, plan, IDS)


def test_no_two_dense_copies_are_held() -> None:
    small = make_model(2)
    calibrate(small)  # what a first call brings into memory stays there
    halve_channels(small)
    model = make_model(24)
    dense_mib = sum(one.numel() for one in model.parameters()) * 4 / 2**20
    assert dense_mib > 150, "large beside what any layer needs"
    with adds_less_than(0.6 * dense_mib):
        calibrate(model)
    with adds_less_than(0.6 * dense_mib):
        pruned = halve_channels(model)
    assert pruned.config.intermediate_size == WIDTH // 2
