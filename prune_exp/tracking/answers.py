"""What both models answer to the same prompts, side by side, as MLflow's pages show tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from prune_exp.measurement.records import TaskComparison
from prune_exp.measurement.repetition import repeated_pct

TABLE = "answers.json"
FLIPPED = "flipped.json"
FLIPPED_COLUMNS = ("task", "change", "question", "right", "dense", "pruned")
COLUMNS = (
    "prompt",
    "dense",
    "pruned",
    "tokens_alike",
    "agreement",
    "dense_repeated_pct",
    "pruned_repeated_pct",
)


def tabulate_answers(samples: Sequence[dict[str, Any]]) -> dict[str, list[Any]] | None:
    """A column each for prompts, both texts, and how far they agree; None where nothing was asked.

    `tokens_alike` is the number of tokens before the first that differs, `agreement` that as a
    share of the longer answer. What is repeated are runs of tokens within an answer. A prompt that
    was asked several times has its first answers: texts do not change from round to round.
    """
    sides: dict[str, dict[int, dict[str, Any]]] = {"dense": {}, "pruned": {}}
    for sample in samples:
        sides[sample["model"]].setdefault(sample["prompt"], sample)
    both = sorted(sides["dense"].keys() & sides["pruned"].keys())
    rows = [_compare(sides["dense"][number], sides["pruned"][number]) for number in both]
    return {name: [row[name] for row in rows] for name in COLUMNS} if rows else None


def tabulate_flipped(tasks: Mapping[str, TaskComparison]) -> dict[str, list[str]] | None:
    """The questions that one of both models answers right; None where no task was asked."""
    rows = [{"task": name} | one for name, task in tasks.items() for one in task.flipped]
    return {key: [row[key] for row in rows] for key in FLIPPED_COLUMNS} if tasks else None


def _compare(dense: dict[str, Any], pruned: dict[str, Any]) -> dict[str, Any]:
    theirs, ours = (side.get("pieces") or side["text"].split() for side in (dense, pruned))
    alike, longest = _count_alike(theirs, ours), max(len(theirs), len(ours))
    return {
        "prompt": dense["prompt_text"],
        "dense": dense["text"],
        "pruned": pruned["text"],
        "tokens_alike": alike,
        "agreement": alike / longest if longest else 1.0,
        "dense_repeated_pct": repeated_pct(theirs),
        "pruned_repeated_pct": repeated_pct(ours),
    }


def _count_alike(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of what both begin with: in tokens, or else in words."""
    pairs = zip(one, other, strict=False)
    shorter = min(len(one), len(other))
    return next((place for place, (a, b) in enumerate(pairs) if a != b), shorter)
