"""What the report shows of both models' answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prune_exp.machine.display import clip_text
from prune_exp.measurement.repetition import repeated_pct
from prune_exp.reporting.document.elements import Element, Paragraph, Table
from prune_exp.reporting.document.findings import Findings

OUTPUTS = 3
LONGEST_OUTPUT = 600
NO_OUTPUT = "(nothing to see: it ended at once, or wrote only spaces)"


def show_outputs(found: Findings) -> list[Element]:
    """What both models went on to write, and where the pruned one did worst."""
    answers = _read_answers(found.samples)
    if not answers:
        missing = "speedup" in found.metrics
        said = "The store does not hold them." if missing else "None; speed was not measured."
        return [Paragraph(said)]
    worst = sorted(answers[OUTPUTS:], key=lambda one: one.more_repeated_pct, reverse=True)
    worst = [one for one in worst if one.more_repeated_pct > 0][:OUTPUTS]
    shown: list[Element] = [_tabulate_outputs(answers[:OUTPUTS])]
    if worst:
        shown += [Paragraph("The others that repeat themselves most:"), _tabulate_outputs(worst)]
    return shown


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """What both models wrote after a prompt."""

    prompt: str
    dense: str
    pruned: str
    more_repeated_pct: float
    """By how much more of the pruned one's answer repeats itself."""


def _read_answers(samples: Sequence[dict[str, Any]]) -> list[_Answers]:
    """By prompt, those of the first round."""
    first = {(one["prompt"], one["model"]): one for one in samples if one["round"] == 0}
    found = []
    for prompt in sorted({prompt for prompt, side in first if side == "dense"}):
        dense, pruned = first[prompt, "dense"], first.get((prompt, "pruned"))
        of_dense, of_pruned = (_repeated_pct(one) for one in (dense, pruned or dense))
        found.append(
            _Answers(
                prompt=dense["prompt_text"],
                dense=dense["text"],
                pruned="not in the store" if pruned is None else pruned["text"],
                more_repeated_pct=of_pruned - of_dense,
            )
        )
    return found


def _repeated_pct(sample: dict[str, Any]) -> float:
    return repeated_pct(sample.get("pieces") or sample["text"].split())


def _tabulate_outputs(answers: Sequence[_Answers]) -> Table:
    rows = [
        [
            clip_text(text, LONGEST_OUTPUT) if text.strip() else NO_OUTPUT
            for text in (one.prompt, one.dense, one.pruned)
        ]
        for one in answers
    ]
    return Table(["Prompt", "Dense", "Pruned"], rows, figures=False)
