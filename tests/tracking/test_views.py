"""MLflow's pages show an experiment as we mean it, and what the user says of it stays."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking import tags, views
from prune_exp.tracking.metrics import metric_keys
from prune_exp.tracking.outcome import FAILED, FINISHED, HYPERVOLUME
from prune_exp.tracking.store import open_store


def tags_of(experiment: str) -> dict[str, str]:
    return dict(MlflowClient().get_experiment(experiment).tags)


def test_the_view_has_columns_that_runs_have() -> None:
    state = json.loads(views.view_state())
    names = [one.removeprefix("metrics.`").removesuffix("`") for one in state["selectedColumns"]]
    assert {*names} <= {*metric_keys(speed=True, quality=True), HYPERVOLUME, FINISHED, FAILED}
    assert len(names) == 10
    assert state["columnOrder"] == state["selectedColumns"]


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (None, False),
        ("", False),
        (views.OLD_NOTES[0], False),
        ("Ours, since May.", True),
    ],
)
def test_an_older_experiment_gets_the_view_and_keeps_what_its_user_said(
    before: str | None, kept: bool, tmp_path: Path
) -> None:
    tracking = TrackingSettings(root=str(tmp_path))
    open_store(TrackingSettings(root=str(tmp_path), experiment="another"))
    given = {} if before is None else {tags.NOTE: before}
    experiment = MlflowClient().create_experiment("prune_exp", tags=given)
    assert open_store(tracking) == experiment
    found = tags_of(experiment)
    assert found[tags.VIEW] == views.view_state()
    link = f"(#/experiments/{experiment}/runs?viewStateShareKey=prune_exp"
    assert (found[tags.NOTE] == before) if kept else (link in found[tags.NOTE])


def test_a_new_experiment_has_them_at_once(tmp_path: Path) -> None:
    found = tags_of(open_store(TrackingSettings(root=str(tmp_path))))
    assert {tags.VIEW, tags.NOTE, tags.PRIMARY_METRIC, tags.EXPERIMENT_KIND} <= found.keys()


def test_who_may_not_change_an_experiment_can_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise MlflowException("forbidden")

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    assert open_store(TrackingSettings(root=str(tmp_path)))


def test_nothing_is_written_where_all_is_as_it_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = TrackingSettings(root=str(tmp_path))
    open_store(tracking)
    said: list[Any] = []
    monkeypatch.setattr(MlflowClient, "set_experiment_tag", lambda *given: said.append(given))
    open_store(tracking)
    assert not said
