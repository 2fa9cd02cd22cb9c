"""How much both models' answers repeat themselves, as weakened models do."""

from collections.abc import Mapping, Sequence
from typing import Any

from prune_exp.measurement.records import AnswerSide, Behaviour

RUN_TOKENS = 4
DEGENERATE_PCT = 50.0
"""An answer more of which repeats itself is degenerate."""


def repeated_pct(tokens: Sequence[Any], run_tokens: int = RUN_TOKENS) -> float:
    """How many of a text's runs of so many tokens came before in it, in per cent.

    This is seq-rep-4 of Welleck et al. 2019 (arXiv:1908.04319). 0 where a text is shorter.
    """
    runs = [tuple(tokens[start : start + run_tokens]) for start in range(len(tokens))]
    whole = [run for run in runs if len(run) == run_tokens]
    return 100 * (1 - len(set(whole)) / len(whole)) if whole else 0.0


def compare_behaviour(samples: Sequence[Mapping[str, Any]]) -> Behaviour | None:
    """Both models' answers to the same prompts, by what they repeat; None where nothing was asked.

    A prompt that was asked several times counts once: texts do not change from round to round.
    """
    sides: dict[str, dict[int, float]] = {"dense": {}, "pruned": {}}
    for sample in samples:
        sides[sample["model"]].setdefault(sample["prompt"], repeated_pct(sample["pieces"]))
    if not all(sides.values()):
        return None
    dense, pruned = (_describe_side(list(side.values())) for side in sides.values())
    return Behaviour(dense=dense, pruned=pruned)


def _describe_side(shares: list[float]) -> AnswerSide:
    degenerate = sum(share > DEGENERATE_PCT for share in shares)
    return AnswerSide(
        repeated_runs_pct=sum(shares) / len(shares),
        degenerate_answers_pct=100 * degenerate / len(shares),
    )
