"""A report takes the place of an earlier report, and of nothing else."""

import json
from pathlib import Path

import pytest

from prune_exp.reporting.folder import PAGES, PLOTS, check_report_folder
from prune_exp.reporting.write import make_report
from prune_exp.settings.errors import SettingError
from support.made_up_runs import findings


@pytest.mark.parametrize("name", [*PAGES, *PLOTS])
def test_files_of_others_are_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(SettingError, match=f"^output={tmp_path} has {name}, which no report of"):
        check_report_folder(tmp_path, "output")
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("content", ["[]", "{}", "x", json.dumps({"run_id": "a"})])
def test_figures_that_are_no_reports_vouch_for_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(content, encoding="utf-8")
    with pytest.raises(SettingError, match="give another folder"):
        check_report_folder(tmp_path, "output")


def test_an_earlier_report_may_be_replaced(tmp_path: Path) -> None:
    check_report_folder(tmp_path / "new", "output")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    check_report_folder(tmp_path, "output")
    make_report(findings(), tmp_path)
    check_report_folder(tmp_path, "output")
    (tmp_path / "report.md").unlink()
    check_report_folder(tmp_path, "output")
