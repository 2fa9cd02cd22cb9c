"""What repeats itself within an answer, by hand."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_exp.measurement.repetition import compare_behaviour, repeated_pct


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.0),
        ("abc", 0.0),
        ("abcd", 0.0),
        ("abcdefgh", 0.0),
        ("aaaaaaaa", 80.0),  # five runs, all the same
        ("abcdabcd", 20.0),  # abcd bcda cdab dabc abcd
    ],
)
def test_runs_that_came_before(text: str, expected: float) -> None:
    assert repeated_pct(text) == pytest.approx(expected)


@given(st.text(alphabet="ab", min_size=4, max_size=40))
def test_saying_everything_again_repeats_half_of_it_or_more(text: str) -> None:
    """Of 2n - 3 runs at most n are new: a run that begins in the second half came before."""
    size = len(text)
    assert 0 <= repeated_pct(text) < 100
    assert repeated_pct(text + text) >= 100 * (1 - size / (2 * size - 3)) - 1e-9


@given(st.permutations(range(20)))
def test_what_never_comes_again_is_not_repeated(tokens: list[int]) -> None:
    assert repeated_pct(tokens) == 0


def sample(model: str, prompt: int, pieces: str, turn: int = 0) -> dict[str, Any]:
    return {"model": model, "prompt": prompt, "round": turn, "pieces": [*pieces]}


def test_both_models_answers_are_means_over_prompts() -> None:
    found = compare_behaviour(
        [
            *(sample("dense", 0, "abcdefgh"), sample("pruned", 0, "aaaaaaaa")),
            *(sample("dense", 1, "abcdabcd"), sample("pruned", 1, "abcdabcd")),
            *(sample("dense", 0, "aaaaaaaa", 1), sample("pruned", 0, "abcdefgh", 1)),
        ]
    )
    assert found is not None
    assert found.metrics() == pytest.approx(
        {
            "dense/repeated_runs_pct": 10.0,
            "dense/degenerate_answers_pct": 0.0,
            "pruned/repeated_runs_pct": 50.0,
            "pruned/degenerate_answers_pct": 50.0,
        }
    )


def test_nothing_asked_is_no_behaviour() -> None:
    assert compare_behaviour([]) is None
