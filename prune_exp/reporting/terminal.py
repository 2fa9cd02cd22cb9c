"""What a sweep or a trial shows at its end."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from prune_exp.reporting.document.trials import trial_rows
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking.domains import list_too_few
from prune_exp.tracking.read import CANDIDATE, Choice, TrackedTrial, store_uri

SHORT_HEAD = ["Trial", "Status", "Pruned", "Speed", "Memory", "Thr.put", "Bits/B", "PPL", "Kept"]
"""Column names for a terminal of 80 columns."""


def print_summary(
    trials: list[TrackedTrial],
    best: Choice | None,
    folder: Path,
    registered: str | None,
    tracking: TrackingSettings,
) -> None:
    """The table of trials and what to do next, on the terminal."""
    shown = Table(title="Trials, against the dense model", padding=(0, 0))
    for name in SHORT_HEAD:
        shown.add_column(name, overflow="fold")
    for row in trial_rows(trials):
        shown.add_row(*row)
    console = Console(markup=False, highlight=False, soft_wrap=False)
    console.print(shown)
    if best is None:
        console.print("No trial finished, so there is no report and no model.")
        return
    lines = [f"Best: {best.trial.name}, chosen for {best.rule}."]
    if few := list_too_few(best.trial.metrics):
        lines.append(few)
    lines.append("Next:")
    if tracking.uri is None:
        lines.append(f"  browse the runs   mlflow ui --backend-store-uri {store_uri(tracking)}")
    lines.append(f"  read the report   {folder / 'report.html'}")
    if registered:
        uri = f"models:/{registered}@{CANDIDATE}"
        lines.append(f'  load the model    mlflow.pyfunc.load_model("{uri}")')
    console.print("\n".join(lines), soft_wrap=True)
