"""What the report shows of the tasks that both models were asked."""

from prune_exp.machine.display import clip_text
from prune_exp.measurement.records import Interval
from prune_exp.reporting.document.elements import Element, Paragraph, Table
from prune_exp.reporting.document.findings import Findings
from prune_exp.tracking.figures import read_tasks

SHOWN = 5
LONGEST_QUESTION = 200


def show_tasks(found: Findings) -> list[Element]:
    """Both models' accuracy by task, and questions that only the dense one answers right."""
    tasks = read_tasks(found.metrics)
    if not tasks:
        return []
    rows = [
        [
            one.name,
            str(one.questions),
            f"{one.dense_accuracy_pct:.1f} %",
            f"{one.pruned_accuracy_pct:.1f} %",
            f"{one.change_points.value:+.1f}",
            _show_points(one.change_points),
        ]
        for one in tasks
    ]
    head = ["Task, right answers", "Asked", "Dense", "Pruned", "Points", "95 % interval"]
    shown: list[Element] = [Table(head, rows)]
    if lost := [one for one in found.flipped if one["change"] == "lost"][:SHOWN]:
        shown += [Paragraph("Questions that only the dense model answers right:"), _tabulate(lost)]
    return shown


def _show_points(change: Interval) -> str:
    return f"{change.low:+.1f} to {change.high:+.1f}"


def _tabulate(lost: list[dict[str, str]]) -> Table:
    keys = ("question", "right", "pruned")
    rows = [[clip_text(one[key], LONGEST_QUESTION) for key in keys] for one in lost]
    return Table(["Question", "Right", "The pruned model's answer"], rows, figures=False)
