"""What both models answer to the same prompts, side by side, as MLflow's pages show tables."""

from collections.abc import Sequence
from typing import Any

TABLE = "answers.json"
COLUMNS = ("prompt", "dense", "pruned", "tokens_alike", "agreement")


def tabulate_answers(samples: Sequence[dict[str, Any]]) -> dict[str, list[Any]] | None:
    """A column each for prompts, both texts, and how far they agree; None where nothing was asked.

    `tokens_alike` is the number of tokens before the first that differs, `agreement` that as a
    share of the longer answer. A prompt that was asked several times has its first answers: texts
    do not change from round to round.
    """
    sides: dict[str, dict[int, dict[str, Any]]] = {"dense": {}, "pruned": {}}
    for sample in samples:
        sides[sample["model"]].setdefault(sample["prompt"], sample)
    both = sorted(sides["dense"].keys() & sides["pruned"].keys())
    rows = [_compare(sides["dense"][number], sides["pruned"][number]) for number in both]
    return {name: [row[name] for row in rows] for name in COLUMNS} if rows else None


def _compare(dense: dict[str, Any], pruned: dict[str, Any]) -> dict[str, Any]:
    alike, longest = _count_alike(dense, pruned)
    return {
        "prompt": dense["prompt_text"],
        "dense": dense["text"],
        "pruned": pruned["text"],
        "tokens_alike": alike,
        "agreement": alike / longest if longest else 1.0,
    }


def _count_alike(dense: dict[str, Any], pruned: dict[str, Any]) -> tuple[int, int]:
    """Length of what both begin with, and that of the longer one: tokens, or else words."""
    one, other = (side.get("pieces") or side["text"].split() for side in (dense, pruned))
    pairs = zip(one, other, strict=False)
    alike = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    return alike, max(len(one), len(other))
