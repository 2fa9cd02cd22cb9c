"""Whatever the device of a model, what is computed of it stays there."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prune_exp.measurement import quality
from prune_exp.model.next_tokens import NextTokens
from prune_exp.pruning import surgery, weight_masks
from prune_exp.pruning.calibration import ReadingSettings, compute_statistics
from prune_exp.settings.groups import PruningSettings
from prune_exp.text.corpus import TokenBlocks
from support.models import make_tiny
from support.plans import empty_plan

IDS = torch.randint(1, 300, (3, 16), generator=torch.Generator().manual_seed(1))


class Ones(TorchDispatchMode):
    """Answers 1 where a program asks for the values of a tensor that has none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return args[0].dtype == torch.bool or 1.0
        copied = func is torch.ops.aten._to_copy.default and args[0].is_meta
        if copied and (kwargs or {}).get("device") == torch.device("cpu"):
            return torch.ones(args[0].shape, dtype=args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def elsewhere() -> Iterator[Any]:
    """A tiny model on a device whose tensors do not add or join with the processor's."""
    model = make_tiny("llama").to("meta")
    with pytest.raises(RuntimeError, match="device"):
        torch.add(model.get_input_embeddings().weight, torch.zeros(300, 32))
    with Ones():
        yield model


def test_calibration_stays_on_the_models_device(elsewhere: Any) -> None:
    stream: dict[int, torch.Tensor] = {}
    reading = ReadingSettings(voting_blocks=2, gradient_blocks=1)
    found = compute_statistics(
        elsewhere, IDS, torch.full((300,), 1 / 300), reading, stream.__setitem__
    )
    assert {one.device.type for one in stream.values()} == {"meta"}
    assert found.mlp_inverse_moment_diag.shape == found.mlp_taylor.shape == (4, 48)
    assert found.mlp_inverse_moment_diag.is_meta
    assert found.vocab_taylor.is_meta


@pytest.mark.parametrize("heads", [(), (0, 1)])
def test_the_refit_stays_on_the_models_device(
    heads: tuple[int, ...], elsewhere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surgery, "assemble_pruned", lambda model, _: model)
    plan = empty_plan(
        layers=(1,),
        heads=dict.fromkeys((0, 2, 3), heads),
        channels=dict.fromkeys((0, 2, 3), (1, 2)),
    )
    read: list[int] = []

    def known(index: int) -> torch.Tensor:
        read.append(index)
        return torch.zeros(3, 16, 32)

    pruned = surgery.carry_out_plan(elsewhere, plan, IDS, dense_states_at=known)
    assert all(one.is_meta for one in pruned.parameters())
    assert pruned.model.layers[0].mlp.down_proj.weight.shape == (32, 46)
    assert read == ([] if heads else [2, 3, 4]), "states from disk lie on the processor"


def test_quality_and_masks_stay_on_the_models_device(elsewhere: Any) -> None:
    text = TokenBlocks(ids=IDS, bytes_scored=1, digest="d", source="s")
    found = quality.losses_by_document(elsewhere, text)
    assert (found.losses.tolist(), found.own_tokens.tolist()) == ([15.0] * 3, [15] * 3)
    head = elsewhere.get_output_embeddings().weight
    ours, theirs = (NextTokens(hidden=torch.zeros(16, 32), head=head) for _ in range(2))
    losses, _, _ = quality.compare_block(ours, IDS[0], theirs)
    assert losses.tolist() == [-1.0] * 15
    weights = PruningSettings(method="weight_masks", voters=["magnitude", "gradient", "random"])
    chosen: dict[str, Any] = {"sparsity": 0.2, "vote_threshold": 0.5, "seed": 0}
    assert weight_masks.zero_weights(elsewhere, IDS, weights, **chosen) > 0
