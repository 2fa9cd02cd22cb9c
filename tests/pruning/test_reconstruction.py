"""A layer before removed ones learns to do their work, and never becomes worse."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prune_exp.model.architectures import layers_of
from prune_exp.pruning import surgery
from prune_exp.pruning.layer_stream import LayerStream
from prune_exp.pruning.reconstruction import (
    JUDGED_EVERY,
    ReconstructionSettings,
    choose_judges,
    train_layer,
)
from prune_exp.pruning.targets import weigh_tokens
from support.models import MODEL_TYPES, make_tiny
from support.plans import empty_plan

HOW = ReconstructionSettings(epochs=4, step=0.02, seed=0)


def text(blocks: int, seed: int) -> torch.Tensor:
    return torch.randint(1, 300, (blocks, 24), generator=torch.Generator().manual_seed(seed))


def task_of(ids: torch.Tensor, model_type: str = "llama") -> tuple[Any, Any, Any, Any]:
    """A layer, how it is called, its inputs, and what one with other weights makes of them."""
    model = make_tiny(model_type)
    stream = LayerStream(model, ids)
    layer = layers_of(model)[0]
    other = replace(layer, module=deepcopy(layer.module))
    chance = torch.Generator().manual_seed(7)
    for weight in other.module.parameters():
        apart = torch.randn(weight.shape, generator=chance)
        weight.add_(0.2 * weight.square().mean().sqrt() * apart)
    target = stream.run(other, 0, stream.hidden)
    return layer.module, lambda block: stream.call(layer, 0, block), stream.hidden, target


def weights_of(module: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def error_of(call: Any, hidden: torch.Tensor, target: torch.Tensor) -> float:
    with torch.no_grad():
        apart = torch.cat([call(block[None]) for block in hidden]) - target
    return float((apart * weigh_tokens(target)).square().mean())


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_layer_learns_what_another_does(model_type: str) -> None:
    module, call, hidden, target = task_of(text(40, seed=1), model_type)
    judged = [0, 19, 38]
    before = error_of(call, hidden[judged], target[judged])
    left = train_layer(module, call, hidden, target, HOW)
    assert left < 0.3
    after = error_of(call, hidden[judged], target[judged])
    assert left == pytest.approx(after / before, rel=1e-4)
    assert not any(weight.requires_grad for weight in module.parameters())


def test_the_first_step_by_hand() -> None:
    module, call, hidden, target = task_of(text(2, seed=1))
    before = weights_of(module)
    once = ReconstructionSettings(epochs=1, step=0.01, seed=0)
    assert train_layer(module, call, hidden, target, once) < 1
    for name, weight in module.named_parameters():
        # Adam's first step is its rate in every place; of ten steps' warm-up this is the first
        wanted = 0.1 * 0.01 * before[name].square().mean().sqrt()
        moved = (weight - before[name]).abs()
        assert float(moved.median()) == pytest.approx(float(wanted), rel=0.01), name
        assert float(moved.max()) <= 1.01 * float(wanted), name


@pytest.mark.parametrize("step", [50.0, 1e30])
def test_what_does_not_help_is_not_kept(step: float) -> None:
    module, call, hidden, target = task_of(text(20, seed=1))
    before = weights_of(module)
    assert train_layer(module, call, hidden, target, replace(HOW, step=step)) == 1.0
    assert same(weights_of(module), before)


def test_one_block_cannot_be_judged_and_is_not_trained_on() -> None:
    module, call, hidden, target = task_of(text(1, seed=1))
    before = weights_of(module)
    assert train_layer(module, call, hidden, target, HOW) == 1.0
    assert same(weights_of(module), before)


def test_where_nothing_is_wrong_nothing_is_learned() -> None:
    module, call, hidden, _ = task_of(text(4, seed=1))
    before = weights_of(module)
    target = torch.cat([call(block[None]) for block in hidden])
    assert train_layer(module, call, hidden, target, HOW) == 1.0
    assert same(weights_of(module), before)


def test_blocks_that_judge_are_not_learned_from() -> None:
    module, call, hidden, target = task_of(text(17, seed=1))
    learned: list[int] = []

    def watched(block: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            same_as = (hidden == block).flatten(1).all(1)
            learned.append(int(same_as.nonzero()[0]))
        return call(block)

    train_layer(module, watched, hidden, target, replace(HOW, epochs=1))
    judges = choose_judges(17)
    assert sorted(learned) == [block for block in range(17) if block not in judges]


def same(
    some: dict[str, torch.Tensor], others: dict[str, torch.Tensor], within: float = 0.0
) -> bool:
    return all(
        torch.allclose(weight, others[name], rtol=0, atol=within) for name, weight in some.items()
    )


def test_weights_that_were_there_are_left_alone() -> None:
    """They may be mapped from somebody's file."""
    module, call, hidden, target = task_of(text(20, seed=1))
    there = dict(module.named_parameters())
    before = weights_of(module)
    assert train_layer(module, call, hidden, target, HOW) < 1
    assert same(there, before)
    assert not any(there[name] is weight for name, weight in module.named_parameters())


def test_a_seed_decides_the_order() -> None:
    found = []
    for seed in (0, 0, 1):
        module, call, hidden, target = task_of(text(20, seed=1))
        train_layer(module, call, hidden, target, replace(HOW, epochs=1, seed=seed))
        found.append(torch.cat([one.flatten() for one in module.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def carry_out(model_type: str, gone: tuple[int, ...], how: ReconstructionSettings | None) -> Any:
    left = [index for index in range(4) if index not in gone]
    plan = empty_plan(
        layers=gone,
        heads=dict.fromkeys(left, ()),
        channels=dict.fromkeys(left, tuple(range(0, 20, 2))),
    )
    return surgery.carry_out_plan(
        calm_model(model_type),
        plan,
        text(64, seed=2),
        how=replace(surgery.REFIT, reconstruction=how),
    )


def calm_model(model_type: str) -> Any:
    """A model whose second and third layers add less than the others, as a trained one's do."""
    model = make_tiny(model_type)
    for layer in layers_of(model)[1:3]:
        for projection in (layer.heads_out, layer.mlp_out):
            projection.weight.mul_(0.3)
    return model


@pytest.mark.parametrize("gone", [(1,), (1, 2)])
@pytest.mark.parametrize("model_type", ["gemma3_text", "gpt2", "gpt_neox", "opt"])
def test_a_model_without_some_layers_comes_closer(model_type: str, gone: tuple[int, ...]) -> None:
    ids = text(8, seed=3)
    dense = calm_model(model_type).base_model(ids).last_hidden_state
    plain, trained = (
        (carry_out(model_type, gone, how).base_model(ids).last_hidden_state - dense).square().mean()
        for how in (None, HOW)
    )
    assert float(trained) < 0.98 * float(plain)


def test_only_layers_before_removed_ones_are_trained() -> None:
    plain, trained = (carry_out("gpt2", (), how) for how in (None, HOW))
    assert same(weights_of(plain), weights_of(trained))
    plain, trained = (carry_out("gpt2", (2,), how) for how in (None, HOW))
    before, after = (layers_of(one) for one in (plain, trained))
    assert same(weights_of(before[0].module), weights_of(after[0].module))
    changed = [
        not torch.equal(one.weights("attn.c_attn"), other.weights("attn.c_attn"))
        for one, other in zip(before, after, strict=True)
    ]
    assert changed == [False, True, False]


@given(st.integers(1, 200))
def test_one_of_every_sixteen_blocks_judges(blocks: int) -> None:
    judges = choose_judges(blocks)
    assert [block // JUDGED_EVERY for block in judges] == list(range(-(-blocks // JUDGED_EVERY)))
    assert all(block < blocks for block in judges)


@pytest.mark.parametrize("files", [2, 3, 4])
def test_every_file_of_a_mix_judges(files: int) -> None:
    """They take turns, block by block; at equal distances one of two would never judge."""
    assert {block % files for block in choose_judges(64)} == {*range(files)}
