"""What is contested is settled by exact costs, on text that the weights were not solved on."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prune_exp.model.architectures import layers_of
from prune_exp.pruning import refit, surgery
from prune_exp.pruning.jury import (
    BY_COST,
    LayerEvidence,
    convene_jury,
    cross_fitted_error,
    remove_cheapest,
    settle_layer,
)
from prune_exp.pruning.least_squares import LeastSquares
from prune_exp.pruning.plan import Settled
from prune_exp.pruning.refit import sum_channels
from prune_exp.pruning.rehearsal import start_rehearsal
from support.models import GROUPED, MODEL_TYPES, make_tiny
from support.plans import empty_plan

WIDTH, HIDDEN, DAMPING = 9, 3, 0.05
IDS = torch.randint(1, 300, (8, 24), generator=torch.Generator().manual_seed(1))


def mask(*gone: int, width: int = WIDTH) -> torch.Tensor:
    return torch.tensor([place in gone for place in range(width)])


def halves(seed: int = 0, tokens: int = 40) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Channels [tokens, width], related to one another, and the target [tokens, hidden], twice."""
    chance = torch.Generator().manual_seed(seed)
    mixed = torch.randn(WIDTH, WIDTH, generator=chance, dtype=torch.double)
    true = torch.randn(HIDDEN, WIDTH, generator=chance, dtype=torch.double)
    found = []
    for _ in range(2):
        x = torch.randn(tokens, WIDTH, generator=chance, dtype=torch.double) @ mixed
        noise = torch.randn(tokens, HIDDEN, generator=chance, dtype=torch.double)
        found.append((x, x @ true.T + noise))
    return found


def evidence_of(parts: list[tuple[torch.Tensor, torch.Tensor]], seed: int = 0) -> LayerEvidence:
    first, second = LeastSquares(), LeastSquares()
    for fit, (x, y) in zip((first, second), parts, strict=True):
        fit.add(x, y)
    chance = torch.Generator().manual_seed(100 + seed)
    weights = torch.randn(HIDDEN, WIDTH, generator=chance, dtype=torch.double)
    return LayerEvidence(halves=(first, second), weights=weights, damping=DAMPING)


def cheapest(
    evidence: LayerEvidence, agreed: set[int], contested: set[int], count: int
) -> set[int]:
    """Which contested channels go by the first half."""
    gone = remove_cheapest(
        evidence.halves[0], mask(*agreed), mask(*contested), count, evidence.weights, DAMPING
    )
    assert int(gone.sum()) == count
    return {*gone.nonzero()[:, 0].tolist()} - agreed


def objective(evidence: LayerEvidence, gone: set[int], agreed: set[int]) -> float:
    """What the refit minimizes without the channels `gone`, with the ridge of the first step.

    Weights of channels that are gone are held to nothing. Less the target's own square.
    """
    sums, cross = evidence.halves[0].sums()
    stay = [place for place in range(WIDTH) if place not in agreed]
    ridge = DAMPING * sums.diagonal()[stay].mean()
    left = [place for place in stay if place not in gone]
    prior = evidence.weights[:, left]
    system = sums[left][:, left] + ridge * torch.eye(len(left), dtype=torch.double)
    right = cross[:, left] + ridge * prior
    solved = torch.linalg.solve(system, right.T).T
    return float((solved * (solved @ system - 2 * right)).sum() + ridge * prior.square().sum())


@pytest.mark.parametrize("seed", range(8))
def test_the_contested_channels_that_cost_least_go_one_after_another(seed: int) -> None:
    evidence = evidence_of(halves(seed), seed)
    contested = {1, 2, 3, 5, 6, 7}
    for count in range(2, 7):
        gone: set[int] = set()
        while len(gone) < count - 1:
            left = contested - gone
            gone.add(min(left, key=lambda one: objective(evidence, gone | {one}, {0})))
        assert cheapest(evidence, {0}, contested, count) == gone


def test_of_two_channels_that_say_the_same_one_goes() -> None:
    parts = halves()
    for x, y in parts:
        x[:, 6] = 2 * x[:, 1]
        y += 100 * x[:, 1, None] + 20 * x[:, 2:4].sum(1, keepdim=True)
    evidence = evidence_of(parts)
    assert cheapest(evidence, set(), {1, 2, 3, 6}, 1) <= {1, 6}
    assert len(cheapest(evidence, set(), {1, 2, 3, 6}, 2) & {1, 6}) == 1, "the other is needed now"


def test_a_channel_that_is_always_silent_goes_first_whatever_its_weight() -> None:
    parts = halves()
    for x, _ in parts:
        x[:, 3] = 0.0
    evidence = evidence_of(parts)
    evidence.weights[:, 3] = 50.0
    assert cheapest(evidence, {0}, {1, 2, 3, 4}, 2) == {3}


def test_each_half_judges_what_the_other_taught() -> None:
    parts = halves()
    evidence = evidence_of(parts)
    told = 0.0
    sets = ([0, 1, 3, 4, 6, 7, 8], [0, 2, 3, 4, 5, 7, 8])
    for stay, (x, y), (other_x, other_y) in zip(sets, parts, parts[::-1], strict=True):
        gram = x[:, stay].T @ x[:, stay]
        ridge = DAMPING * gram.diagonal().mean() * torch.eye(len(stay), dtype=torch.double)
        right = y.T @ x[:, stay] + evidence.weights[:, stay] @ ridge
        solved = torch.linalg.solve(gram + ridge, right.T).T
        error = (other_x[:, stay] @ solved.T - other_y).square().sum() - other_y.square().sum()
        told += float(error)
    assert cross_fitted_error(evidence, mask(2, 5), mask(1, 6)) == pytest.approx(told)


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_no_set_would_have_been_less_wrong_on_what_was_left_out(seed: int, voters: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    evidence = evidence_of(halves(seed), seed)
    drawn = [torch.randperm(WIDTH, generator=chance)[:4].tolist() for _ in range(voters)]
    sets = {f"{number} alone": mask(*gone) for number, gone in enumerate(drawn)}
    gone, settled = settle_layer(2, evidence, sets)
    assert int(gone.sum()) == 4
    every = torch.stack([*sets.values()])
    assert bool(gone[every.all(0)].all()), "what all agree on goes"
    assert not bool((gone & ~every.any(0)).any()), "what nobody names stays"
    assert settled.agreed + settled.contested == int(every.any(0).sum())
    assert settled.changed == int((gone & ~every[0]).sum())
    errors = {name: cross_fitted_error(evidence, one, one) for name, one in sets.items()}
    if settled.by == BY_COST:
        how = (every.all(0), every.any(0) & ~every.all(0), 4, evidence.weights, DAMPING)
        by_half = [remove_cheapest(half, *how) for half in evidence.halves]
        assert cross_fitted_error(evidence, *by_half) < min(errors.values())
        both = evidence.halves[0].joined(evidence.halves[1])
        assert torch.equal(gone, remove_cheapest(both, *how))
    else:
        assert errors[settled.by] == min(errors.values())
        assert torch.equal(gone, sets[settled.by])


def test_where_nothing_is_contested_the_vote_decides() -> None:
    alike = {"the vote": mask(1, 2), "a alone": mask(1, 2)}
    gone, settled = settle_layer(0, evidence_of(halves()), alike)
    assert torch.equal(gone, mask(1, 2))
    assert settled == Settled(layer=0, agreed=2, contested=0, changed=0, by="the vote")


def test_a_set_whose_error_is_no_number_never_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([math.nan, 3.0, 1.0])
    monkeypatch.setattr("prune_exp.pruning.jury.cross_fitted_error", lambda *_: next(errors))
    sets = {"the vote": mask(1, 2), "a alone": mask(1, 3)}
    _, settled = settle_layer(0, evidence_of(halves()), sets)
    assert settled.by == BY_COST


SETS = {
    "the vote": dict.fromkeys((0, 2, 3), (0, 1, 2, 3)),
    "a alone": dict.fromkeys((0, 2, 3), (0, 1, 4, 5)),
}
PLAN = empty_plan(layers=(1,), heads=dict.fromkeys((0, 2, 3), ()), channels=SETS["the vote"])


def assert_same(one: LeastSquares, other: LeastSquares) -> None:
    """Products are taken in single precision."""
    for name in ("system", "cross"):
        wanted = getattr(other, name)
        allowed = 1e-5 * float(wanted.abs().max())
        assert torch.allclose(getattr(one, name), wanted, atol=allowed), name


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_sums_are_those_of_all_channels(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny(model_type)
    layer = layers_of(model)[0]
    run = start_rehearsal(model, PLAN, IDS, None, surgery.REFIT)
    whole = sum_channels(run, layer, 0, 2, slice(None))
    system, _ = whole.sums()
    assert system.shape == (layer.width, layer.width)
    monkeypatch.setattr(refit, "SPAN_BYTES", 3 * 4 * IDS.shape[1] * layer.width)
    first, second = (sum_channels(run, layer, 0, 2, half) for half in (slice(0, 3), slice(3, None)))
    assert_same(first.joined(second), whole)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_narrowed_sum_is_what_the_refit_solves(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved: list[LeastSquares] = []
    solve = LeastSquares.solve

    def keep(self: LeastSquares, *given: object) -> torch.Tensor:
        solved.append(self)
        return solve(self, *given)  # pyright: ignore[reportArgumentType]

    model = make_tiny(model_type)
    layer = layers_of(model)[0]
    run = start_rehearsal(model, PLAN, IDS, None, surgery.REFIT)
    narrow = sum_channels(run, layer, 0, 2, slice(None)).narrow(torch.arange(4, layer.width))
    monkeypatch.setattr(LeastSquares, "solve", keep)
    refit.refit_layer(run, layer, 0, 2)
    (own,) = solved
    assert_same(own, narrow)


@pytest.mark.parametrize("heads", [(), (0, 1)])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_jury_settles_every_layer_and_changes_nothing(
    model_type: str, heads: tuple[int, ...]
) -> None:
    model = make_tiny(model_type)
    own = heads if model_type in GROUPED else ()
    plan = replace(PLAN, heads=dict.fromkeys((0, 2, 3), own))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    channels, settled = convene_jury(model, plan, SETS, IDS, None, surgery.REFIT)
    assert [one.layer for one in settled] == [0, 2, 3]
    for layer, gone in channels.items():
        assert len(gone) == 4
        assert {0, 1} <= {*gone} <= {0, 1, 2, 3, 4, 5}, layer
    assert {(one.agreed, one.contested) for one in settled} == {(2, 4)}
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
