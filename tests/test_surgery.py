"""A pruned model is the dense model without some units; refit makes it better, not different."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GROUPED, MODEL_TYPES, empty_plan, make_tiny, make_tokenizer

from prune_exp.model import loading
from prune_exp.model.architectures import layers_of, shape_of, weight_matrix
from prune_exp.pruning import surgery
from prune_exp.pruning.plan import PruningPlan

IDS = torch.randint(1, 300, (4, 24), generator=torch.Generator().manual_seed(1))


def plan_for(kind: str) -> PruningPlan:
    """Layer 1 goes; of the others some heads and channels, different ones in each."""
    heads = {
        "group": {0: (0, 1), 2: (2, 3), 3: (0, 1)},
        "query": {0: (0, 2), 2: (1, 3), 3: (0, 3)},
    }[kind]
    return empty_plan(
        layers=(1,),
        heads=heads,
        channels={i: tuple(range(i, i + 20, 2)) for i in (0, 2, 3)},
    )


def silence(model: Any, plan: PruningPlan) -> None:
    """The dense model with the plan's units zeroed where they are read."""
    for index, block in enumerate(layers_of(model)):
        out, down = weight_matrix(block.heads_out), weight_matrix(block.mlp_out)
        if index in plan.layers:
            out.zero_()
            down.zero_()
            for one in (block.heads_out, block.mlp_out):
                if one.bias is not None:
                    one.bias.zero_()
            continue
        for head in plan.heads[index]:
            out[:, 8 * head : 8 * head + 8] = 0
        down[:, list(plan.channels[index])] = 0


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("kind", ["group", "query"])
def test_pruned_logits_equal_silenced_dense(model_type: str, kind: str, tmp_path: Path) -> None:
    plan = plan_for(kind)
    if model_type not in GROUPED:
        plan = replace(plan, heads=dict.fromkeys(plan.heads, ()))
    dense = make_tiny(model_type)
    silence(dense, plan)
    pruned = surgery.carry_out_plan(make_tiny(model_type), plan, None)
    expected = dense(IDS).logits
    assert torch.allclose(pruned(IDS).logits, expected, atol=1e-4)
    assert shape_of(pruned).params_total < shape_of(dense).params_total
    loading.save_model(pruned, make_tokenizer(), tmp_path / "pruned")
    torch.save(expected, tmp_path / "expected.pt")
    again = loading.load_model(tmp_path / "pruned")
    assert torch.allclose(again(IDS).logits, expected, atol=1e-4)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_stock_loading_and_cached_generation_in_a_fresh_process(
    model_type: str, tmp_path: Path
) -> None:
    plan = plan_for("group")
    if model_type not in GROUPED:
        plan = replace(plan, heads=dict.fromkeys(plan.heads, ()))
    pruned = surgery.carry_out_plan(make_tiny(model_type), plan, None)
    loading.save_model(pruned, make_tokenizer(), tmp_path / "pruned")
    script = (
        "import sys, torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "m = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()\n"
        "x = torch.arange(1, 9)[None]\n"
        "a = m.generate(x, max_new_tokens=6, do_sample=False, use_cache=True)\n"
        "b = m.generate(x, max_new_tokens=6, do_sample=False, use_cache=False)\n"
        "assert torch.equal(a, b), (a, b)\n"
        "print(f'{float(m(x).logits.double().sum()):.6f}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "pruned")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = float(pruned(torch.arange(1, 9)[None]).logits.double().sum())
    assert float(done.stdout) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("towards_dense", "at_most"), [(0.25, 0.97), (1.0, 0.9)])
def test_refit_brings_the_pruned_model_closer_on_unseen_text(
    towards_dense: float, at_most: float
) -> None:
    plan, dense = plan_for("group"), make_tiny("llama")
    calibration = torch.randint(1, 300, (64, 24), generator=torch.Generator().manual_seed(2))
    cut = surgery.carry_out_plan(make_tiny("llama"), plan, None)
    how = replace(surgery.REFIT, towards_dense=towards_dense)
    refit = surgery.carry_out_plan(make_tiny("llama"), plan, calibration, how=how)
    target = dense.model(IDS).last_hidden_state
    before = (cut.model(IDS).last_hidden_state - target).square().mean()
    after = (refit.model(IDS).last_hidden_state - target).square().mean()
    assert after < at_most * before


def test_a_refit_in_bfloat16_is_nearly_the_refit_in_float32() -> None:
    plan, dense = plan_for("group"), make_tiny("llama").model(IDS).last_hidden_state
    plain, reduced, cut = (
        surgery.carry_out_plan(
            make_tiny("llama"), plan, ids, how=replace(surgery.REFIT, bfloat16=bfloat16)
        )
        for ids, bfloat16 in ((IDS, False), (IDS, True), (None, False))
    )
    assert {value.dtype for value in reduced.parameters()} == {torch.float32}
    wanted = plain.model(IDS).last_hidden_state
    apart = (reduced.model(IDS).last_hidden_state - wanted).square().mean()
    assert 0 < apart < 0.02 * (cut.model(IDS).last_hidden_state - wanted).square().mean()
    assert apart < 0.02 * (dense - wanted).square().mean()


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_refit_of_nothing_changes_nothing(model_type: str) -> None:
    plan = empty_plan()
    dense = make_tiny(model_type)(IDS).logits
    refit = surgery.carry_out_plan(make_tiny(model_type), plan, IDS)
    assert torch.allclose(refit(IDS).logits, dense, atol=2e-3 * float(dense.abs().max()))


def test_refit_on_a_known_dense_stream_is_the_refit_on_a_computed_one(tmp_path: Path) -> None:
    from prune_exp.pruning.calibration import ReadingSettings, calibrate_model
    from prune_exp.text.corpus import Corpus, TokenBlocks

    text = TokenBlocks(ids=IDS, bytes_scored=1, digest="d", source="s")
    found = calibrate_model(
        make_tiny("llama"),
        "m",
        Corpus(calibration=text, heldout=text),
        make_tokenizer(),
        ReadingSettings(voting_blocks=2, gradient_blocks=1),
        cache_dir=tmp_path,
    )
    plan = replace(plan_for("group"), heads=dict.fromkeys((0, 2, 3), ()))
    plain = surgery.carry_out_plan(make_tiny("llama"), plan, IDS)(IDS).logits
    known = surgery.carry_out_plan(make_tiny("llama"), plan, IDS, dense_states_at=found.states_at)(
        IDS
    ).logits
    assert torch.allclose(known, plain, atol=0.02 * float(plain.abs().max()))
    wrong = surgery.carry_out_plan(
        make_tiny("llama"), plan, IDS, dense_states_at=lambda _: found.states_at(0)
    )
    assert not torch.allclose(wrong(IDS).logits, plain, atol=0.02 * float(plain.abs().max()))


def test_least_squares_by_hand() -> None:
    from prune_exp.pruning.refit import solve_least_squares as solve

    chance = torch.Generator().manual_seed(0)
    x, true = torch.randn(2, 50, 4, generator=chance), torch.randn(3, 4, generator=chance)
    prior = torch.zeros(3, 4)
    assert torch.allclose(solve(x, x @ true.T, prior, 1e-9), true, atol=1e-4)
    assert torch.allclose(solve(x, x @ true.T, prior, 1e9), prior, atol=1e-4)
    # one input: (sum x y + ridge * prior) / (sum x^2 + ridge), ridge = damping * sum x^2
    one, target = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]])
    found = solve(one, target, torch.tensor([[1.0]]), 0.5)
    assert float(found) == pytest.approx((3 + 8 + 2.5) / (5 + 2.5))
