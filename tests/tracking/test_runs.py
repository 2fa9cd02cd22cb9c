"""What every run says of where it comes from."""

import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking import runs, tags
from prune_exp.tracking.outcome import OF_THE_BEST
from prune_exp.tracking.read import Choice, read_trials
from prune_exp.tracking.reaping import fail_run
from prune_exp.tracking.store import open_store
from support.made_up_runs import store_sweep, trial


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runs.environment_tags()[tags.GIT_COMMIT] == "none"


def test_gpus_are_named_where_somebody_chose_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert runs.environment_tags()[tags.VISIBLE_GPUS] == "3"
    for none in ("", None):  # Ray gives an empty one to what asked for no GPU
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if none is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert tags.VISIBLE_GPUS not in runs.environment_tags()


def git(*arguments: str, folder: Path) -> str:
    name = ("-c", "user.name=t", "-c", "user.email=t@t")
    done = subprocess.run(
        ["git", *name, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_commit_is_the_packages_and_says_when_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "package" / "runs.py"
    module.parent.mkdir()
    module.write_text("", encoding="utf-8")
    git("init", "-q", folder=tmp_path)
    monkeypatch.setattr(runs, "__file__", str(module))
    assert runs.environment_tags()[tags.GIT_COMMIT] == "none", "not tracked there"
    git("add", ".", folder=tmp_path)
    git("commit", "-qm", "first", folder=tmp_path)
    commit = git("rev-parse", "HEAD", folder=tmp_path)
    assert runs.environment_tags()[tags.GIT_COMMIT] == commit
    module.write_text("changed", encoding="utf-8")
    assert runs.environment_tags()[tags.GIT_COMMIT] == f"{commit}-dirty"


def open_sweep(root: Path, earlier: str | None) -> str:
    try:
        return runs.start_sweep(
            TrackingSettings(root=str(root)),
            root,
            model_name="tiny",
            study="s",
            name="sparsity=0.3",
            overrides=[],
            earlier=earlier,
        )
    finally:
        runs.end_open_runs("FINISHED")


@pytest.mark.parametrize("how", ["kept", "deleted", "never there"])
def test_a_sweeps_run_that_is_gone_is_followed_by_a_new_one(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = open_sweep(tmp_path / "mlruns", None)
    client = MlflowClient()
    (experiment,) = [one for one in client.search_experiments() if one.name == "prune_exp"]
    parent = {tags.PARENT_RUN: first, tags.ROLE: "trial", tags.JOB_NUMBER: "4"}
    trial = client.create_run(experiment.experiment_id, tags=parent).info.run_id
    client.log_metric(trial, "cost", 1.0)
    client.set_terminated(trial, "FINISHED")
    if how == "deleted":
        client.delete_run(first)
    earlier = "0" * 32 if how == "never there" else first
    assert runs.finished_metrics(earlier) == ({} if how == "never there" else {4: {"cost": 1.0}})
    again = open_sweep(tmp_path / "mlruns", earlier)
    assert (again == first) is (how == "kept")
    assert ("is gone" in capsys.readouterr().err) is (how != "kept")
    found = [one.run_id for one in read_trials(again)]
    assert found == ([] if how == "never there" else [trial])


def test_a_sweep_that_goes_on_says_nothing_of_how_it_ended_before(tmp_path: Path) -> None:
    first = open_sweep(tmp_path / "mlruns", None)
    fail_run(first, "interrupted: the process was killed", interrupted=True)
    assert open_sweep(tmp_path / "mlruns", first) == first
    assert not {tags.ERROR, tags.INTERRUPTED} & MlflowClient().get_run(first).data.tags.keys()


def test_runs_are_left_where_the_store_cannot_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    open_store(TrackingSettings(root=str(tmp_path)))
    mlflow.start_run()
    mlflow.start_run(nested=True)

    def refuse(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("mlflow.tracking.fluent.MlflowClient.set_terminated", refuse)
    runs.leave_open_runs("FAILED")
    assert mlflow.active_run() is None


def test_tags_of_the_users_are_on_every_run_and_hide_no_tag_of_ours(tmp_path: Path) -> None:
    mine = {"team": "red", "link": "https://ann:hunter2@wiki/x"}
    tracking = TrackingSettings(root=str(tmp_path), tags=mine)
    given: dict[str, Any] = {"name": "n", "overrides": []}
    try:
        sweep = runs.start_sweep(
            tracking, tmp_path, model_name="tiny", study="s", earlier=None, **given
        )
        runs.start_trial(tracking, tmp_path, 0, sweep, device="cpu", params={}, **given)
        both = (sweep, str(runs.active_run_id()))
    finally:
        runs.end_open_runs("FINISHED")
    for run_id, role in zip(both, ("sweep", "trial"), strict=True):
        found = MlflowClient().get_run(run_id).data.tags
        assert found["team"] == "red"
        assert found["link"] == "https://***@wiki/x"
        assert found[tags.ROLE] == role


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"device": "mine"}, "tracking.tags.device is a tag that runs have by themselves"),
        ({"git_commit": "x"}, "try tracking.tags.my_git_commit=x"),
        ({"prune_exp.role": "x"}, "prune_exp.role, which is no name"),
        ({"mlflow.user": "x"}, "mlflow.user, which is no name"),
        ({"a b": "x"}, "is no name"),
        ({"": "x"}, "is no name"),
        ({"api_key": "x"}, "looks like a secret"),
        ({"long": "x" * 6000}, "has 6000 characters"),
    ],
)
def test_tags_that_runs_cannot_have_are_refused(given: dict[str, str], said: str) -> None:
    tags.check_tags({"team": "red", "Ticket-12_b": ""})
    with pytest.raises(SettingError) as refused:
        tags.check_tags(given)
    assert said in str(refused.value)


def test_no_key_of_ours_could_be_a_tag_of_the_users() -> None:
    ours = {value for name, value in vars(tags).items() if name.isupper() and type(value) is str}
    for key in ours:
        with pytest.raises(SettingError):
            tags.check_tags({key: "x"})


def test_a_sweeps_run_has_the_figures_of_its_best_trial(tmp_path: Path) -> None:
    few = {"params_pruned_pct": 20.0, "perplexity_ratio": 1.1}
    made = [trial(0, 0.3), trial(1, 0.5), trial(2, 0.2, metrics=few)]
    root, ids = store_sweep(tmp_path, made)
    for place in (1, 2):
        trials = read_trials(root)
        (best,) = [one for one in trials if one.run_id == ids[place]]
        runs.log_outcome(root, trials, Choice(trial=best, rule="the best quality"))
    found = MlflowClient().get_run(root).data
    assert found.tags[tags.BEST_RUN] == ids[2]
    assert few.items() <= found.metrics.items()
    left = {found.metrics[key] for key in OF_THE_BEST if key in found.metrics and key not in few}
    assert left
    assert all(map(math.isnan, left)), "another trial's speed is not its own"
