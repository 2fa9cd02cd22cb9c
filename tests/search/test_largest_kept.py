"""A few trials find the largest cut that keeps quality."""

import math

import optuna
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution

from prune_exp.search.largest_kept import (
    CLOSE,
    FIRST,
    LargestKeptSampler,
    Measured,
    bracket_limit,
    explain_settled,
    is_settled,
    measured_in,
    next_sparsity,
    sampler_for,
)
from prune_exp.search.space import SearchChoice, SearchRange, Space
from prune_exp.search.study import INTERRUPTED, WARM
from prune_exp.settings.errors import SettingError
from prune_exp.settings.goals import FORESEEN
from prune_exp.settings.schema import Settings

LIMIT = math.log(1.1)


def measure(sparsity: float, factor: float, exponent: float) -> Measured:
    return Measured(sparsity=sparsity, rise=factor * sparsity**exponent)


def search(factor: float, exponent: float, *, trials: int = 4) -> list[Measured]:
    known: list[Measured] = []
    for _ in range(trials):
        if is_settled(known, tolerated=LIMIT, low=0.02, high=0.6):
            break
        at = next_sparsity(known, tolerated=LIMIT, low=0.02, high=0.6)
        known.append(measure(at, factor, exponent))
    return known


@given(factor=st.floats(0.15, 6), exponent=st.floats(1.0, 2.2))
def test_four_trials_come_close_to_the_largest_kept_cut(factor: float, exponent: float) -> None:
    largest = min((LIMIT / factor) ** (1 / exponent), 0.6)
    known = search(factor, exponent)
    kept = bracket_limit(known, LIMIT).kept
    assert all(0.02 <= one.sparsity <= 0.6 for one in known)
    if largest >= 0.04:
        assert kept is not None
        assert kept.sparsity >= 0.75 * largest
        assert kept.sparsity <= largest * (1 + 1e-9)


@given(
    rises=st.lists(st.floats(-0.05, 1) | st.just(math.inf), min_size=0, max_size=6),
    places=st.lists(st.floats(0.02, 0.6), min_size=6, max_size=6, unique=True),
)
def test_the_next_cut_lies_in_the_range_and_between_what_is_known(
    rises: list[float], places: list[float]
) -> None:
    known = [Measured(sparsity=s, rise=r) for s, r in zip(places, rises, strict=False)]
    found = next_sparsity(known, tolerated=LIMIT, low=0.02, high=0.6)
    assert 0.02 <= found <= 0.6
    bracket = bracket_limit(known, LIMIT)
    if bracket.kept is not None and bracket.lost is not None:
        below, above = bracket.kept.sparsity, bracket.lost.sparsity
        assume(not math.isclose(below, above, rel_tol=1e-12))  # hardly a float lies between
        assert bracket.kept.sparsity < found < bracket.lost.sparsity


def test_the_first_cut_is_small_and_one_far_off_moves_in_steps() -> None:
    assert next_sparsity([], tolerated=LIMIT, low=0.02, high=0.6) == FIRST
    assert next_sparsity([], tolerated=LIMIT, low=0.2, high=0.6) == 0.2
    lost = [Measured(sparsity=0.5, rise=math.inf)]
    assert next_sparsity(lost, tolerated=LIMIT, low=0.02, high=0.6) == pytest.approx(0.2)
    kept = [Measured(sparsity=0.1, rise=0.0)]
    assert next_sparsity(kept, tolerated=LIMIT, low=0.02, high=0.6) == pytest.approx(0.25)


def test_a_nan_is_lost() -> None:
    known = [Measured(sparsity=0.1, rise=math.nan)]
    assert bracket_limit(known, LIMIT).lost == known[0]


@pytest.mark.parametrize(
    ("points", "settled"),
    [
        ([], False),
        ([(0.1, 0.5 * LIMIT)], False),
        ([(0.1, 0.95 * LIMIT)], True),
        ([(0.6, 0.1 * LIMIT)], True),
        ([(0.1, 0.5 * LIMIT), (0.1 * CLOSE * 0.99, 2 * LIMIT)], True),
        ([(0.1, 0.5 * LIMIT), (0.2, 2 * LIMIT)], False),
        ([(0.2, 2 * LIMIT)], False),
        ([(0.2, 2 * LIMIT), (0.02, 1.5 * LIMIT)], True),
    ],
)
def test_it_ends_where_another_trial_would_gain_little(
    points: list[tuple[float, float]], settled: bool
) -> None:
    known = [Measured(sparsity=s, rise=r) for s, r in points]
    assert is_settled(known, tolerated=LIMIT, low=0.02, high=0.6) == settled


def test_optuna_asks_it_and_reads_what_trials_found() -> None:
    study = optuna.create_study(direction="maximize", sampler=LargestKeptSampler(1.1))
    space = {"sparsity": FloatDistribution(0.02, 0.6)}
    for ratio in (1.03, 1.4, None):
        trial = study.ask(space)  # pyright: ignore[reportArgumentType]
        if ratio is None:
            trial.set_user_attr(INTERRUPTED, True)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            trial.set_user_attr(FORESEEN, ratio)
            study.tell(trial, 1.0)
    known = measured_in(study)
    assert [one.rise for one in known] == pytest.approx([math.log(1.03), math.log(1.4)])
    assert known[0].sparsity == FIRST
    assert known[1].sparsity > FIRST
    following = study.ask(space).params["sparsity"]  # pyright: ignore[reportArgumentType]
    assert known[0].sparsity < following < known[1].sparsity


def space_of(**searched: tuple[float, float]) -> Space:
    ranges: dict[str, SearchRange | SearchChoice] = {
        key: SearchRange(low=low, high=high, integer=False, log=False)
        for key, (low, high) in searched.items()
    }
    return Space(fixed=(), listed={}, searched=ranges)


def settings_of(limit: float = 1.1, *, judged: bool = True) -> Settings:
    made = Settings()
    made.search.sampler = "largest_kept"
    made.quality.max_perplexity_ratio = limit
    made.quality.enabled = judged
    return made


def test_only_an_interval_of_sparsity_with_something_to_lose_is_taken() -> None:
    fine = space_of(sparsity=(0.02, 0.5))
    assert sampler_for(Settings(), fine) is None
    assert sampler_for(settings_of(), fine) is not None
    listed = Space(fixed=(), listed={"seed": ("0", "1")}, searched=fine.searched)
    for settings, space, said in (
        (settings_of(), space_of(vote_threshold=(0.2, 1)), "searches sparsity alone"),
        (settings_of(), listed, "searches sparsity alone"),
        (settings_of(judged=False), fine, "needs quality to be judged"),
        (settings_of(1.0), fine, "leaves nothing to lose"),
    ):
        with pytest.raises(SettingError, match=said):
            sampler_for(settings, space)


def test_a_study_is_settled_by_this_sampler_alone() -> None:
    space = space_of(sparsity=(0.02, 0.5))
    said = "sparsity=0.1 keeps quality; another trial would gain little"
    for sampler, why in ((LargestKeptSampler(1.1), said), (None, "")):
        study = optuna.create_study(direction="maximize", sampler=sampler)
        assert not explain_settled(study, space)
        trial = study.ask({"sparsity": FloatDistribution(0.02, 0.5)})
        trial.set_user_attr(FORESEEN, 1.095)
        study.tell(trial, 1.0)
        assert explain_settled(study, space) == why


def test_what_another_study_found_ends_nothing() -> None:
    """Its settings were others; the next sparsity follows from it all the same."""
    space = space_of(sparsity=(0.02, 0.5))
    study = optuna.create_study(direction="maximize", sampler=LargestKeptSampler(1.1))
    known = study.ask({"sparsity": FloatDistribution(0.02, 0.5)})
    known.set_user_attr(FORESEEN, 1.095)
    known.set_user_attr(WARM, "other/0")
    study.tell(known, 1.0)
    assert not explain_settled(study, space)
    own = study.ask({"sparsity": FloatDistribution(0.02, 0.5)})
    assert own.params["sparsity"] > known.params["sparsity"]
    own.set_user_attr(FORESEEN, 1.02)
    study.tell(own, 1.0)
    study.enqueue_trial({"sparsity": 0.11})
    lost = study.ask({"sparsity": FloatDistribution(0.02, 0.5)})
    lost.set_user_attr(FORESEEN, 1.5)
    lost.set_user_attr(WARM, "other/1")
    study.tell(lost, 1.0)
    own = study.ask({"sparsity": FloatDistribution(0.02, 0.5)})
    assert own.params["sparsity"] > 0.11, "a cut that others lost is no limit once there are own"
    own.set_user_attr(FORESEEN, 1.099)
    study.tell(own, 1.0)
    assert "keeps quality" in explain_settled(study, space)


@pytest.mark.parametrize(("ratio", "ends"), [(1.5, "loses quality"), (None, "failed")])
def test_a_study_without_a_kept_cut_ends_at_the_least_one(ratio: float | None, ends: str) -> None:
    space = space_of(sparsity=(0.02, 0.5))
    study = optuna.create_study(direction="maximize", sampler=LargestKeptSampler(1.1))
    tried = []
    while not (why := explain_settled(study, space)):
        trial = study.ask({"sparsity": FloatDistribution(0.02, 0.5)})
        tried.append(trial.params["sparsity"])
        if ratio is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            trial.set_user_attr(FORESEEN, ratio)
            study.tell(trial, 1.0)
    assert tried == pytest.approx([0.1, 0.04, 0.02]), "the same is not tried again"
    assert why == f"no cut was found that keeps quality: even sparsity=0.02 {ends}"


def test_who_was_not_judged_is_neither_kept_nor_lost() -> None:
    study = optuna.create_study(direction="maximize", sampler=LargestKeptSampler(1.1))
    study.tell(study.ask({"sparsity": FloatDistribution(0.02, 0.5)}), 1.0)
    assert measured_in(study) == []
