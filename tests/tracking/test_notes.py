"""Every run says what it is, what came of it and where the report is."""

from dataclasses import replace
from pathlib import Path

from mlflow.tracking import MlflowClient

from prune_exp.reporting.write import write_note
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking import runs, tags
from prune_exp.tracking.metrics import make_up_result
from prune_exp.tracking.notes import describe_end, describe_start
from prune_exp.tracking.read import choose_best, read_trials
from prune_exp.tracking.reaping import fail_run
from prune_exp.tracking.result import TrialResult
from support.made_up_runs import figures, store_sweep, trial

PARAMS = {"model.name": "tiny", "sparsity": "0.3"}
PAGE = "#/experiments/1/runs/x/artifacts/report.html"


def note_of(run_id: str) -> str:
    return MlflowClient().get_run(run_id).data.tags[tags.NOTE]


def test_a_trial_says_what_came_of_it() -> None:
    kept = describe_end(PARAMS, figures(0.1) | {"quality_maintained": 1.0}, None, PAGE)
    assert "30 % of the parameters of `tiny`" in kept
    assert "Speedup **1.10x** [1.05 to 1.15]" in kept
    assert "**Quality is maintained** (the limit is 1 times" in kept
    assert f"({PAGE})" in kept
    lost = describe_end(PARAMS, figures(0.5) | {"quality_maintained": 0.0}, None, PAGE)
    assert "**Quality is not maintained**" in lost
    untold = describe_end(PARAMS, figures(0.5, speed=False, quality=False), None, PAGE)
    assert "Quality was not judged." in untold
    assert "Speedup" not in untold
    three = {"heldout_documents": 3.0, "max_perplexity_ratio": 1.1}
    few = describe_end(PARAMS, figures(0.1) | three, None, PAGE)
    assert "There is no verdict on quality" in few
    surely = describe_end(PARAMS, figures(0.5) | three, None, PAGE)
    assert "**Quality is not maintained**" in surely, "three documents are enough to be sure"


def test_a_failure_is_told_as_it_is_and_not_acted_on() -> None:
    nasty = "<script>alert(1)</script> ` [x](javascript:y)\n\n# head"
    said = describe_end(PARAMS, {}, nasty, PAGE)
    assert said.count("`") == 4, "one line of code, which Markdown leaves alone"
    assert "\n#" not in said


def test_a_trial_that_runs_says_so_and_strange_settings_do_no_harm() -> None:
    assert "It runs" in describe_start(PARAMS)
    assert "a part" in describe_start({"sparsity": "much"})


def open_trial(root: Path, parent: str | None) -> str:
    runs.start_trial(
        TrackingSettings(root=str(root)),
        root,
        0,
        parent,
        name="s=0.30",
        overrides=[],
        device="cpu",
        params=PARAMS,
    )
    run_id = runs.active_run_id()
    assert run_id is not None
    return run_id


def test_a_run_describes_itself_from_its_start_to_its_end(tmp_path: Path) -> None:
    root, _ = store_sweep(tmp_path, [trial()])
    run_id = open_trial(tmp_path, root)
    assert "It runs" in note_of(run_id)
    result = make_up_result(TrialResult)
    shape = replace(result.dense_shape, params_total=2)
    runs.log_result(replace(result, dense_shape=shape, speed=None), tmp_path)
    runs.end_trial(None)
    assert "It runs" not in note_of(run_id)
    assert f"/runs/{root}/artifacts/report.html?" in note_of(run_id), "that of its sweep"
    alone = open_trial(tmp_path, None)
    runs.end_trial(ValueError("no text"))
    assert "**It failed:** `ValueError: no text`" in note_of(alone)


def test_a_killed_trial_is_described_by_who_ends_it(tmp_path: Path) -> None:
    run_id = open_trial(tmp_path, None)
    runs.leave_trial(None)
    fail_run(run_id, "interrupted: the process was killed", interrupted=True)
    assert "**It failed:** `interrupted: the process was killed`" in note_of(run_id)


def test_a_sweeps_note_links_to_its_report(tmp_path: Path) -> None:
    root, _ = store_sweep(tmp_path, [trial()])
    trials = read_trials(root)
    write_note(root, trials, choose_best(trials, "quality"))
    assert f"/runs/{root}/artifacts/report.html?" in note_of(root)
    write_note(root, trials, None)
    assert "report.html?" not in note_of(root), "there is none"
