"""A report comes from the store alone."""

import json
import math
import shutil
from pathlib import Path

import mlflow
import pytest

from prune_exp.reporting.document.findings import look_up_findings
from prune_exp.reporting.plots.gallery import PLOTS
from prune_exp.reporting.write import make_report, report_run, to_json
from prune_exp.settings.command_schemas import ReportSettings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking import tags as keys
from prune_exp.tracking.store import open_store, use_store
from support import made_up_runs as made_up
from support.made_up_runs import findings, store_sweep, trial
from support.pages import DRAWN, section


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[str]]:
    """A store with three trials, the second of which failed."""
    root = tmp_path_factory.mktemp("store") / "mlruns"
    trials = [trial(0, 0.1), trial(1, 0.9, status="FAILED", metrics={}), trial(2, 0.5)]
    trials[1].tags[keys.ERROR] = "MeasurementError: gave up\nafter a while"
    parent, children = store_sweep(root, trials)
    return root, parent, children


def wanted(root: Path, run_id: str, output: Path) -> ReportSettings:
    return ReportSettings(
        run_id=run_id, output=str(output), tracking=TrackingSettings(root=str(root))
    )


def test_a_sweep_is_reported_from_its_store_alone(
    swept: tuple[Path, str, list[str]], tmp_path: Path
) -> None:
    root, parent, children = swept
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    hidden = root.with_name("hidden")
    root.rename(hidden)
    try:
        assert report_run(wanted(moved, parent, tmp_path / "out")) == 0
    finally:
        hidden.rename(root)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("report.md", "report.html", "report.json"),
        *PLOTS,
    }
    figures = json.loads((tmp_path / "out" / "report.json").read_text())
    assert figures["run_id"] == children[0]
    assert figures["metrics"]["params_pruned_pct"] == 10
    assert [one["status"] for one in figures["trials"]] == ["FINISHED", "FAILED", "FINISHED"]
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "MeasurementError: gave up after a while" in text
    assert "Once dense" in text


def test_a_trial_is_reported_among_its_sweep(
    swept: tuple[Path, str, list[str]], tmp_path: Path
) -> None:
    root, parent, children = swept
    assert report_run(wanted(root, children[2], tmp_path)) == 0
    figures = json.loads((tmp_path / "report.json").read_text())
    assert (figures["run_id"], figures["root_run_id"]) == (children[2], parent)
    assert figures["chosen_for"] == "asked for by its id"
    assert len(figures["trials"]) == 3


def test_the_best_one_is_that_of_the_sweeps_own_rule(
    swept: tuple[Path, str, list[str]], tmp_path: Path
) -> None:
    trials = [trial(0, 0.1), trial(1, 0.5)]
    for one in trials:
        one.params["tracking.best"] = "speedup"
    parent, children = store_sweep(tmp_path / "mlruns", trials)
    use_store(TrackingSettings(root=str(tmp_path / "mlruns")))
    assert look_up_findings(parent).best.trial.run_id == children[1]
    use_store(TrackingSettings(root=str(swept[0])))
    assert look_up_findings(swept[1]).best.trial.run_id == swept[2][0]


def test_what_cannot_be_reported_is_one_line(
    swept: tuple[Path, str, list[str]], tmp_path: Path
) -> None:
    root, _, children = swept
    file = tmp_path / "file"
    file.touch()
    experiment = open_store(TrackingSettings(root=str(root)))
    others = {}
    for role in ("dense", ""):
        given = {keys.ROLE: role} if role else {}
        with mlflow.start_run(experiment_id=experiment, tags=given) as run:
            others[role] = run.info.run_id
    for run_id, output, said in (
        ("f" * 32, tmp_path / "x", "is not in this store"),
        (children[1], tmp_path / "x", "is FAILED and has no result: MeasurementError"),
        (children[0], file / "below", "cannot be written"),
        (others["dense"], tmp_path / "x", "is the row of the dense model; give that of a trial"),
        (others[""], tmp_path / "x", "is no run of a trial; give that of a trial or of a sweep"),
    ):
        with pytest.raises(SettingError, match=said):
            report_run(wanted(root, run_id, output))
        assert not (tmp_path / "x").exists()
    failed = trial(0, status="FAILED", metrics={})
    parent, _ = store_sweep(tmp_path / "none", [failed])
    with pytest.raises(SettingError, match="of which none finished"):
        report_run(wanted(tmp_path / "none", parent, tmp_path / "x"))


def test_an_earlier_report_leaves_nothing_behind(tmp_path: Path) -> None:
    for name in (*PLOTS, "notes.txt"):
        (tmp_path / name).write_bytes(b"old")
    bare = trial(0, metrics=made_up.figures(speed=False))
    make_report(findings([bare], samples=[]), tmp_path)
    assert not (tmp_path / "roofline.png").exists()
    assert (tmp_path / "pareto.png").read_bytes() != b"old"
    assert (tmp_path / "notes.txt").read_bytes() == b"old"


def test_figures_that_are_no_numbers_are_null_in_json() -> None:
    odd = trial(0, metrics=made_up.figures() | {"perplexity_ratio": math.inf, "x": math.nan})
    figures = to_json(findings([odd]), DRAWN)
    assert figures["metrics"]["perplexity_ratio"] is None
    json.dumps(figures, allow_nan=False)
    assert "inf" in section(findings([odd]), "Improvements")
