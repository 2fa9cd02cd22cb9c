"""The performance report: a function of what the store holds, nothing typed in."""

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

from prune_exp.reporting.document.content import compose_document
from prune_exp.reporting.document.findings import Findings, gather_findings, look_up_findings
from prune_exp.reporting.document.html import to_html
from prune_exp.reporting.document.markdown import to_markdown
from prune_exp.reporting.document.note import sweep_note
from prune_exp.reporting.folder import PAGES, PLOTS, check_report_folder
from prune_exp.reporting.insights import conclude, list_insights
from prune_exp.reporting.plots.gallery import draw_plots
from prune_exp.settings.command_schemas import ReportSettings
from prune_exp.settings.errors import SettingError
from prune_exp.tracking.read import LATEST, Choice, TrackedTrial, find_latest, read_run
from prune_exp.tracking.runs import address_of_report, log_file, log_text, set_note
from prune_exp.tracking.store import use_store

FIGURES = "figures"
"""The folder among a run's artifacts that figures are in."""


def report_run(wanted: ReportSettings) -> int:
    """Writes a report to a folder and changes nothing in the store; returns the exit code.

    Raises:
        SettingError: there is no such run, it has no result, or the folder cannot be written or has
            other files of these names.
    """
    folder = Path(wanted.output).expanduser().absolute()
    check_report_folder(folder, "output")
    use_store(wanted.tracking)
    latest = wanted.run_id == LATEST
    found = look_up_findings(find_latest(wanted.tracking) if latest else wanted.run_id)
    try:
        make_report(found, folder)
    except OSError as error:
        raise SettingError(
            f"output={wanted.output} cannot be written ({error.strerror or error}); give a writable"
            " folder with output=DIR"
        ) from None
    print(f"{folder / 'report.html'}: {found.best.trial.name}, run {found.best.trial.run_id}")
    return 0


def write_report(
    root_run_id: str, trials: list[TrackedTrial], best: Choice, folder: Path
) -> list[Path]:
    """Makes the report in `folder` and stores it with the best run and with the sweep."""
    written = make_report(gather_findings(read_run(root_run_id), trials, best), folder)
    for run_id in dict.fromkeys((best.trial.run_id, root_run_id)):
        for path in written:
            if path.suffix == ".png":
                log_file(run_id, path, FIGURES)
            elif path.suffix != ".md":
                log_file(run_id, path)
        log_text(run_id, _point_to_figures(folder / "report.md"), "report.md")
    return written


def _point_to_figures(page: Path) -> str:
    """The page as it is stored, where figures have a folder of their own."""
    text = page.read_text(encoding="utf-8")
    for name in PLOTS:
        text = text.replace(f"]({name})", f"]({FIGURES}/{name})")
    return text


def write_note(root_run_id: str, trials: list[TrackedTrial], best: Choice | None) -> None:
    """Describes a sweep, or a trial alone, on its page in the MLflow UI."""
    link = "" if best is None else f"\n[Open the report]({address_of_report(root_run_id)}).\n"
    set_note(root_run_id, f"{sweep_note(trials, best)}{link}")


def make_report(found: Findings, folder: Path) -> list[Path]:
    """Makes all files and then moves them to `folder`, in place of those of an earlier report."""
    with tempfile.TemporaryDirectory(prefix="prune_exp-") as scratch:
        work = Path(scratch)
        drawn = draw_plots(found.best.trial, found.trials, found.samples, found.plan, work)
        page = compose_document(found, drawn)
        (work / "report.md").write_text(to_markdown(page), encoding="utf-8")
        (work / "report.html").write_text(to_html(page, work), encoding="utf-8")
        figures = json.dumps(to_json(found, drawn), indent=1, allow_nan=False)
        (work / "report.json").write_text(figures, encoding="utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        return [path for name in (*PAGES, *PLOTS) if (path := _move_into_place(work, folder, name))]


def _move_into_place(work: Path, folder: Path, name: str) -> Path | None:
    """Moves a file in place; where there is none, an earlier one goes."""
    if not (work / name).exists():
        (folder / name).unlink(missing_ok=True)
        return None
    return Path(shutil.move(work / name, folder / name))


def to_json(found: Findings, drawn: dict[str, str]) -> dict[str, Any]:
    """All figures and sentences, by the metrics' names. What is no number is null."""
    return {
        "run_id": found.best.trial.run_id,
        "name": found.best.trial.name,
        "chosen_for": found.best.rule,
        "root_run_id": found.root.run_id,
        "metrics": _finite_metrics(found.metrics),
        "params": found.params,
        "insights": list_insights(found.metrics),
        "conclusion": conclude(found.metrics),
        "machine": _replace_infinite(found.machine),
        "trials": [
            {
                "run_id": trial.run_id,
                "name": trial.name,
                "status": trial.status,
                "error": trial.error,
                "metrics": _finite_metrics(trial.metrics),
            }
            for trial in found.trials
        ],
        "not_drawn": {name: why for name, why in drawn.items() if why},
    }


def _finite_metrics(metrics: dict[str, float]) -> dict[str, float | None]:
    return {key: _replace_infinite(value) for key, value in sorted(metrics.items())}


def _replace_infinite(value: Any) -> Any:
    """The value with null for infinities and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _replace_infinite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_replace_infinite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
