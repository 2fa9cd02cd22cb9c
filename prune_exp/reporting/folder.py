"""The files of a report, and which of them in a folder are an earlier report's."""

import json
from pathlib import Path

from prune_exp.settings.errors import SettingError

FIGURES = "report.json"
PAGES = (FIGURES, "report.md", "report.html")
"""In the order in which they are put in place: the first one tells whose the others are."""
PLOTS: tuple[str, ...] = (
    "dashboard_overview.png",
    "detailed_comparison.png",
    "pareto.png",
    "votes.png",
    "roofline.png",
)
OURS = {"run_id", "chosen_for", "root_run_id"}
"""What the figures of every report have."""


def check_report_folder(folder: Path, setting: str) -> None:
    """Raises SettingError where a report would take the place of files that are no earlier report.

    `setting` is what the folder was given with.
    """
    there = [name for name in (*PAGES, *PLOTS) if (folder / name).exists()]
    if there and not _is_report(folder / FIGURES):
        raise SettingError(
            f"{setting}={folder} has {', '.join(there)}, which no report of ours wrote and which"
            " one would replace; give another folder"
        )


def _is_report(path: Path) -> bool:
    """Whether it is a file with the figures of a report."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.keys() >= OURS
