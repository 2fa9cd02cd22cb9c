"""The origin's method as it is: weights become zero, nothing becomes smaller."""

from pathlib import Path
from typing import Any

import pytest
import torch

from prune_exp.model.architectures import layers_of, shape_of
from prune_exp.pruning.weight_masks import zero_weights
from prune_exp.reporting.insights import list_insights
from prune_exp.settings.groups import PruningSettings
from support.cli import command, runs_in
from support.models import make_tiny

IDS = torch.randint(1, 300, (2, 24), generator=torch.Generator().manual_seed(1))


def weights_of(model: Any) -> torch.Tensor:
    matrices = (p for block in layers_of(model) for p in block.module.parameters() if p.ndim == 2)
    return torch.cat([matrix.flatten() for matrix in matrices])


def zeroed(threshold: float, **given: Any) -> tuple[torch.Tensor, int]:
    """Which weights of the tiny model are gone at 40 %, and how many were reported."""
    pruning = PruningSettings(method="weight_masks", **given)
    model = make_tiny("llama")
    count = zero_weights(model, IDS, pruning, sparsity=0.4, vote_threshold=threshold, seed=0)
    return weights_of(model) == 0, count


def test_one_voter_takes_the_smallest_weights() -> None:
    gone, count = zeroed(1.0, voters=["magnitude"], ballot="fixed")
    dense = make_tiny("llama")
    wanted = round(0.4 * shape_of(dense).params_total)
    sizes = weights_of(dense).abs()
    assert count == int(gone.sum()) == pytest.approx(wanted, abs=2)
    assert sizes[gone].max() < sizes[~gone].min()


def test_agreement_only_ever_spares_weights() -> None:
    voters = ["magnitude", "gradient", "random"]
    masks = [zeroed(k / 3, voters=voters, ballot="fixed")[0] for k in (1, 2, 3)]
    assert (masks[2] <= masks[1]).all()
    assert (masks[1] <= masks[0]).all()
    each = [zeroed(1.0, voters=[voter], ballot="fixed")[0] for voter in ("magnitude", "gradient")]
    both, _ = zeroed(1.0, voters=["magnitude", "gradient"], ballot="fixed")
    assert torch.equal(both, each[0] & each[1])


@pytest.mark.parametrize("threshold", [1 / 3, 2 / 3, 1.0])
def test_the_adaptive_ballot_meets_the_request(threshold: float) -> None:
    _, count = zeroed(threshold, voters=["magnitude", "gradient", "random"], ballot="adaptive")
    assert count / shape_of(make_tiny("llama")).params_total == pytest.approx(0.4, abs=0.002)


def test_stochastic_masks_repeat_and_leave_the_rest_alone() -> None:
    pruning = PruningSettings(method="stochastic", voters=["random"], masks=6, elite=3)
    found = []
    for _ in range(2):
        model = make_tiny("llama")
        zero_weights(model, IDS, pruning, sparsity=0.4, vote_threshold=0.5, seed=0)
        found.append(weights_of(model))
    assert torch.equal(found[0], found[1])
    left = found[0] != 0
    assert torch.equal(found[0][left], weights_of(make_tiny("llama"))[left])
    assert 0.3 < float((~left).float().mean()) < 0.6


def test_zeros_are_not_called_removed(tiny_args: list[str], tmp_path: Path) -> None:
    done = command(*tiny_args, "pruning=weight_masks", "sparsity=0.4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = runs_in(tmp_path)
    found = run.data.metrics
    assert found["params_pruned_pct"] == 0
    assert found["weights_zeroed_pct"] == pytest.approx(40, abs=0.2)
    assert found["bandwidth_limit_speedup"] == found["weights_read_ratio"] == 1
    assert "none is gone" in " ".join(list_insights(found))


def test_more_zeros_than_the_blocks_hold_are_refused(tiny_args: list[str], tmp_path: Path) -> None:
    done = command(*tiny_args, "pruning=weight_masks", "sparsity=0.9", cwd=tmp_path)
    assert "lie in the layers' matrices" in done.stderr
    done = command(*tiny_args, "pruning=weight_masks", "pruning.voters=[wanda]", cwd=tmp_path)
    assert "use one of magnitude, gradient, random" in done.stderr
