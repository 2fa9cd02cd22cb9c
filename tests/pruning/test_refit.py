"""The refit makes a pruned model better, not different."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prune_exp.model.architectures import layers_of
from prune_exp.pruning import refit, surgery
from prune_exp.pruning.least_squares import LeastSquares
from support.models import GROUPED, MODEL_TYPES, make_tiny
from support.plans import empty_plan, plan_for
from support.tokenizers import make_tokenizer

IDS = torch.randint(1, 300, (4, 24), generator=torch.Generator().manual_seed(1))


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
            make_tiny("llama"), plan, ids, how=replace(surgery.REFIT, dtype=dtype)
        )
        for ids, dtype in ((IDS, "float32"), (IDS, "bfloat16"), (None, "float32"))
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
    def solve(x: torch.Tensor, y: torch.Tensor, prior: torch.Tensor, damping: float) -> Any:
        fit = LeastSquares()
        fit.add(x, y)
        return fit.solve(prior, damping)

    chance = torch.Generator().manual_seed(0)
    x, true = torch.randn(2, 50, 4, generator=chance), torch.randn(3, 4, generator=chance)
    prior = torch.zeros(3, 4)
    assert torch.allclose(solve(x, x @ true.T, prior, 1e-9), true, atol=1e-4)
    assert torch.allclose(solve(x, x @ true.T, prior, 1e9), prior, atol=1e-4)
    # one input: (sum x y + ridge * prior) / (sum x^2 + ridge), ridge = damping * sum x^2
    one, target = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]])
    found = solve(one, target, torch.tensor([[1.0]]), 0.5)
    assert float(found) == pytest.approx((3 + 8 + 2.5) / (5 + 2.5))


def test_text_may_be_added_piece_by_piece() -> None:
    chance = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 9, 4, generator=chance), torch.randn(6, 9, 3, generator=chance)
    whole, pieces = LeastSquares(), LeastSquares()
    whole.add(x, y)
    for rows in (slice(0, 1), slice(1, 5), slice(5, 6)):
        pieces.add(x[rows], y[rows])
    prior = torch.randn(3, 4, generator=chance)
    assert torch.allclose(pieces.solve(prior, 0.1), whole.solve(prior, 0.1), atol=1e-6)
    assert torch.equal(pieces.solve(prior, 0.1), pieces.solve(prior, 0.1)), "solving keeps the sums"


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("heads", [True, False])
def test_a_long_text_goes_through_in_spans(
    model_type: str, heads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_for("group") if heads and model_type in GROUPED else None
    if plan is None:
        left = dict.fromkeys((0, 2, 3), tuple(range(0, 20, 2)))
        plan = empty_plan(layers=(1,), heads=dict.fromkeys((0, 2, 3), ()), channels=left)
    whole = surgery.carry_out_plan(make_tiny(model_type), plan, IDS)
    width = layers_of(make_tiny(model_type))[0].width
    monkeypatch.setattr(refit, "SPAN_BYTES", 2 * 4 * IDS.shape[1] * width)
    most = []
    trace = refit.trace_layer
    monkeypatch.setattr(
        refit, "trace_layer", lambda *given: most.append(len(given[-1])) or trace(*given)
    )
    in_spans = surgery.carry_out_plan(make_tiny(model_type), plan, IDS)
    assert max(most) == 2 < len(IDS), "channels of two blocks at once"
    for one, other in zip(whole.parameters(), in_spans.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)
