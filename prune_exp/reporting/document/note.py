"""A sweep's note in the MLflow UI: its trials, the best of them, where the report is."""

from prune_exp.machine.display import one_line
from prune_exp.reporting.document.markdown import escape_inline, render_table
from prune_exp.reporting.document.trials import (
    LONGEST_NAME,
    NOTED,
    TRIAL_HEAD,
    list_known_columns,
    list_reasons,
    place_of,
    trial_rows,
)
from prune_exp.tracking.read import Choice, TrackedTrial

LONGEST = 7000
"""MLflow cuts tags at 8000 characters."""


def sweep_note(trials: list[TrackedTrial], best: Choice | None) -> str:
    """Markdown that fits into a tag; of many trials the first, and the best one by name."""
    if best is None:
        lead = "No trial finished, so there is no report and no model."
    else:
        name = escape_inline(one_line(best.trial.name, LONGEST_NAME))
        lead = (
            f"Best: **{name}** (run {best.trial.run_id}), chosen for"
            f" {escape_inline(best.rule)}.{'' if best.feasible else ' No model was registered.'}"
            " The report is the artifact report.html, here and there."
        )
    whole = trial_rows(trials)
    shown_columns = [i for i in list_known_columns(whole) if i in NOTED]
    head = [TRIAL_HEAD[i] for i in shown_columns]
    rows = [[row[i] for i in shown_columns] for row in whole]
    marked = None if best is None else place_of(trials, best)
    for shown in range(len(rows), 0, -1):
        kept = marked if marked is not None and marked < shown else None
        left = len(rows) - shown
        more = f"\n\n{left} more trials are in report.md." if left else ""
        reasons = "".join(f"\n- {escape_inline(one)}" for one in list_reasons(trials[:shown]))
        why = f"\n{reasons}" if reasons else ""
        text = f"{lead}\n\n{render_table(head, rows[:shown], kept)}{why}{more}\n"
        if len(text) <= LONGEST:
            return text
    return f"{lead}\n"
