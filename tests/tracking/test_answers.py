"""Both models' answers stand side by side, and how far they agree."""

from typing import Any

from prune_exp.tracking.answers import tabulate_answers
from support.made_up_runs import samples


def sample(model: str, *pieces: str, prompt: int = 0) -> dict[str, Any]:
    text = "".join(pieces)
    return {
        "model": model,
        "prompt": prompt,
        "prompt_text": "Once",
        "text": text,
        "pieces": [*pieces],
    }


def test_the_agreement_is_what_both_begin_with() -> None:
    table = tabulate_answers(
        [
            sample("dense", "a", "b", "c", "d"),
            sample("pruned", "a", "b", "x", "d"),
            sample("dense", "a", prompt=1),
            sample("pruned", "a", prompt=1),
            sample("dense", "b", prompt=2),
            sample("pruned", prompt=2),
            sample("dense", prompt=3),
            sample("pruned", prompt=3),
            sample("dense", "alone", prompt=4),
        ]
    )
    assert table is not None
    assert table["tokens_alike"] == [2, 1, 0, 0]
    assert table["agreement"] == [0.5, 1.0, 0.0, 1.0]
    assert table["pruned"] == ["abxd", "a", "", ""]


def test_earlier_runs_without_tokens_are_compared_by_words() -> None:
    table = tabulate_answers(samples(["Once upon"]))
    assert table is not None
    assert table["tokens_alike"] == [2]


def test_nothing_asked_is_no_table() -> None:
    assert tabulate_answers([]) is None
