"""What votes must and must not do."""

import math
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from prune_exp.model.architectures import shape_of
from prune_exp.pruning.allocation import NOTHING
from prune_exp.pruning.consensus import (
    Ballot,
    agreed_units,
    cast_ballots,
    condemn,
    correlate_voters,
    count_nominations,
    count_votes,
    make_plan,
    needed_votes,
    redundant_pairs,
    removal_order,
)
from prune_exp.pruning.plan import Votes
from support.models import make_tiny

UNITS = 7


@st.composite
def score_tables(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """2 to 5 voters' scores of 2 groups of 7 units, without ties."""
    voters = draw(st.integers(2, 5))
    perms = st.permutations(range(UNITS))
    return {
        f"v{i}": torch.tensor([draw(perms), draw(perms)], dtype=torch.float) for i in range(voters)
    }


thresholds = st.floats(0.05, 1.0)


@given(score_tables(), st.integers(0, UNITS - 1), thresholds)
def test_a_fixed_ballot_leaves_a_number_that_there_may_be(
    scores: dict[str, torch.Tensor], count: int, threshold: float
) -> None:
    """Head counts that a config refuses would end the trial once it is written."""
    ballot = Ballot(kind="fixed", vote_threshold=threshold)
    whole = int(condemn(scores, count, ballot)[0].sum())
    even = condemn(scores, count, ballot, lambda gone: gone % 2 == 0)
    assert even.sum(-1).tolist() == [whole - whole % 2] * 2


def test_voters_agree_on_nothing_where_there_is_one_unit() -> None:
    """A model with one key/value head: its voters are not said to hold one opinion on heads."""
    shape = shape_of(make_tiny("llama", num_key_value_heads=1))
    chance = torch.Generator().manual_seed(0)
    units = {"layers": (1, 4), "heads": (4, 1), "mlp": (4, 48)}
    scores = {
        kind: {name: torch.rand(size, generator=chance) for name in ("a", "b")}
        for kind, size in units.items()
    }
    ballot = Ballot(kind="adaptive", vote_threshold=0.5)
    allocation = replace(NOTHING, channels=8)
    plan = make_plan(
        scores,
        shape,
        allocation,
        sparsity=0.1,
        ballot=ballot,
        token_ballot=ballot,
        head_unit="group",
    )
    assert set(plan.agreement) == {"layers", "mlp"}


def test_k_of_n_by_hand() -> None:
    assert [needed_votes(t, 4) for t in (0.01, 0.25, 0.26, 0.5, 0.75, 1.0)] == [1, 1, 2, 2, 3, 4]
    assert needed_votes(0.6, 5) == 3


def test_adaptive_order_by_hand() -> None:
    a = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    b = torch.tensor([[3.0, 0.0, 1.0, 2.0]])
    best_rank = removal_order({"a": a, "b": b}, 0.5)[0].tolist()
    worst_rank = removal_order({"a": a, "b": b}, 1.0)[0].tolist()
    # ranks: unit 0 (0, 3), 1 (1, 0), 2 (2, 1), 3 (3, 2). Units 0 and 1 tie at depth 0 with one
    # vote each; unit 1 has the lower mean rank.
    assert best_rank == [1, 0, 2, 3]
    # worst ranks 3, 1, 2, 3; units 0 and 3 both have two votes at depth 3, 0 the lower mean.
    assert worst_rank == [1, 2, 0, 3]


@given(score_tables(), st.integers(0, UNITS - 1), thresholds)
def test_adaptive_meets_the_budget_exactly(
    scores: dict[str, torch.Tensor], count: int, threshold: float
) -> None:
    mask = condemn(scores, count, Ballot(kind="adaptive", vote_threshold=threshold))
    assert mask.sum(-1).tolist() == [count, count]


@given(score_tables(), st.integers(0, UNITS - 1))
def test_fixed_is_union_and_intersection_at_the_ends(
    scores: dict[str, torch.Tensor], count: int
) -> None:
    votes = count_votes(scores, count)
    assert torch.equal(agreed_units(scores, count, 1 / len(scores)), votes > 0)
    assert torch.equal(agreed_units(scores, count, 1.0), votes == len(scores))


@given(score_tables(), st.integers(0, UNITS - 1), thresholds, thresholds)
def test_raising_the_threshold_never_removes_more(
    scores: dict[str, torch.Tensor], count: int, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    loose, strict = agreed_units(scores, count, low), agreed_units(scores, count, high)
    assert not (strict & ~loose).any()


@given(score_tables(), st.integers(0, UNITS - 1), thresholds)
def test_fixed_removes_only_agreed_units_and_keeps_groups_equal(
    scores: dict[str, torch.Tensor], count: int, threshold: float
) -> None:
    mask = condemn(scores, count, Ballot(kind="fixed", vote_threshold=threshold))
    agreed = agreed_units(scores, count, threshold)
    assert not (mask & ~agreed).any()
    assert len(set(mask.sum(-1).tolist())) == 1
    assert (~mask).any(-1).all()


@given(score_tables(), st.integers(0, UNITS - 1), thresholds, st.randoms())
def test_the_order_of_voters_changes_nothing(
    scores: dict[str, torch.Tensor], count: int, threshold: float, chance: object
) -> None:
    names = list(scores)
    chance.shuffle(names)  # type: ignore[attr-defined]
    renamed = {f"w{i}": scores[name] for i, name in enumerate(names)}
    for kind in ("adaptive", "fixed"):
        ballot = Ballot(kind=kind, vote_threshold=threshold)
        assert torch.equal(condemn(scores, count, ballot), condemn(renamed, count, ballot))


def test_agreement_by_hand() -> None:
    up = torch.arange(5.0)[None]
    table = correlate_voters({"a": up, "b": -up, "c": 2 * up + 1})
    assert math.isclose(table["a"]["b"], -1.0)
    assert math.isclose(table["a"]["c"], 1.0)
    assert [pair[:2] for pair in redundant_pairs(table, 0.95)] == [("a", "c")]


@given(score_tables(), st.integers(1, UNITS - 1), thresholds)
def test_an_adaptive_ballot_is_as_deep_as_it_must_be(
    scores: dict[str, torch.Tensor], count: int, threshold: float
) -> None:
    gone = condemn(scores, count, Ballot(kind="adaptive", vote_threshold=threshold))
    held, depth = cast_ballots(
        scores, gone, count, Ballot(kind="adaptive", vote_threshold=threshold)
    )
    needed = needed_votes(threshold, len(scores))
    assert (held.sum(0)[gone] >= needed).all()
    for group in range(2):
        shallower = count_votes(scores, int(depth[group]) - 1)[group]
        assert (shallower[gone[group]] < needed).any()


@given(score_tables(), st.integers(1, UNITS - 1), thresholds)
def test_a_fixed_ballot_holds_what_everyone_nominates(
    scores: dict[str, torch.Tensor], count: int, threshold: float
) -> None:
    gone = condemn(scores, count, Ballot(kind="fixed", vote_threshold=threshold))
    held, depth = cast_ballots(scores, gone, count, Ballot(kind="fixed", vote_threshold=threshold))
    assert depth.tolist() == [count, count]
    assert (held.sum(-1) == count).all()
    if gone.any():
        votes = count_nominations(
            "mlp", scores, gone, count, Ballot(kind="fixed", vote_threshold=threshold), 1
        )
        shared = sum(sum(shares) for shares in votes.nominated.values())
        assert shared >= 2 * needed_votes(threshold, len(scores)) - 0.02


def test_votes_by_hand() -> None:
    """Both must agree: a ranks 0 1 2 3, b ranks 1 0 3 2; two go at depth 2, three at depth 4."""
    scores = {"a": torch.tensor([[0.0, 1, 2, 3]]), "b": torch.tensor([[1.0, 0, 3, 2]])}
    gone = torch.tensor([[True, True, False, False]])
    found = count_nominations(
        "mlp", scores, gone, 2, Ballot(kind="adaptive", vote_threshold=1.0), 1
    )
    assert found == Votes(depth=(0.5,), nominated={"a": (1.0,), "b": (1.0,)})
    either = torch.tensor([[True, False, False, False]])
    found = count_nominations(
        "mlp", scores, either, 1, Ballot(kind="adaptive", vote_threshold=0.5), 1
    )
    assert found == Votes(depth=(0.25,), nominated={"a": (1.0,), "b": (0.0,)})
    found = count_nominations(
        "layers", scores, either, 1, Ballot(kind="adaptive", vote_threshold=0.5), 1
    )
    assert found.nominated == {"a": (1, 0, 0, 0), "b": (0, 1, 0, 0)}


def test_groups_of_a_layer_make_one_figure() -> None:
    scores = {"a": torch.tensor([[0.0, 1], [1, 0]]), "b": torch.tensor([[1.0, 0], [1, 0]])}
    gone = torch.tensor([[True, False], [False, True]])
    found = count_nominations(
        "heads", scores, gone, 1, Ballot(kind="adaptive", vote_threshold=0.5), 2
    )
    assert found == Votes(depth=(0.5,), nominated={"a": (1.0,), "b": (0.5,)})
