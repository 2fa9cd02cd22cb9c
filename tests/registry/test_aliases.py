"""Aliases move so that a kill loses no version that could be put back."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from prune_exp.registry import promotion
from prune_exp.registry.candidates import version_at
from prune_exp.registry.promotion import _move_champion, promote_model
from prune_exp.settings.command_schemas import PromoteSettings
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking.store import open_store

NAME = "m"


@pytest.fixture
def tracking(tmp_path: Path) -> TrackingSettings:
    """A store with four versions of a model; the first two were promoted."""
    tracking = TrackingSettings(root=str(tmp_path / "mlruns"), registered_model=NAME)
    open_store(tracking)
    client = MlflowClient()
    client.create_registered_model(NAME)
    for _ in range(4):
        client.create_model_version(NAME, source="/nowhere")
    _move_champion(NAME, "1", None)
    _move_champion(NAME, "2", "1")
    return tracking


def aliases() -> tuple[str | None, str | None]:
    return version_at(NAME, "champion"), version_at(NAME, "previous")


def killed_after(alias: str, monkeypatch: pytest.MonkeyPatch, version: str, expected: str) -> None:
    """Moves the champion and is killed once an alias has been set."""
    moved = MlflowClient.set_registered_model_alias

    def move(self: Any, name: str, which: str, to: str) -> None:
        moved(self, name, which, to)
        if which == alias:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(promotion.MlflowClient, "set_registered_model_alias", move)
        with pytest.raises(KeyboardInterrupt):
            _move_champion(NAME, version, expected)


def roll_back(tracking: TrackingSettings) -> int:
    return promote_model(PromoteSettings(rollback=True, tracking=tracking))


def test_the_champion_becomes_the_previous_one(tracking: TrackingSettings) -> None:
    assert aliases() == ("2", "1")
    _move_champion(NAME, "3", "2")
    assert aliases() == ("3", "2")
    assert roll_back(tracking) == 0
    assert aliases() == ("2", None)


@pytest.mark.parametrize("alias", ["champion", "previous"])
def test_a_kill_between_the_aliases_loses_nothing(
    alias: str, tracking: TrackingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after(alias, monkeypatch, "3", "2")
    assert roll_back(tracking) == 0
    assert aliases() == ("2", None)


def test_the_next_promotion_finishes_what_a_kill_left(
    tracking: TrackingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking.registered_model == NAME
    killed_after("champion", monkeypatch, "3", "2")
    _move_champion(NAME, "4", "3")
    assert aliases() == ("4", "3")


def fail_after(method: str, monkeypatch: pytest.MonkeyPatch, *, call: int = 1) -> None:
    """Kills, in a way that a test survives, once a method of MLflow's has run so often."""
    original = getattr(MlflowClient, method)
    left = [call]

    def act(self: Any, *args: Any, **how: Any) -> Any:
        answer = original(self, *args, **how)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(promotion.MlflowClient, method, act)


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("set_model_version_tag", 1),
        ("set_registered_model_alias", 1),
        ("set_model_version_tag", 2),
        ("delete_registered_model_alias", 1),
    ],
)
def test_a_rollback_that_was_cut_off_is_finished_by_the_next(
    method: str, call: int, tracking: TrackingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _move_champion(NAME, "3", "2")
    with monkeypatch.context() as patch:
        fail_after(method, patch, call=call)
        with pytest.raises(KeyboardInterrupt):
            roll_back(tracking)
    assert roll_back(tracking) == 0
    assert aliases() == ("2", None)
    assert tags_of("3")["promotion"] == "rolled back"
    assert not [key for key in tags_of("2") if key in ("promotion.undoes", "promotion.replaces")]
    _move_champion(NAME, "4", "2")
    assert aliases() == ("4", "2")


def tags_of(version: str) -> dict[str, str]:
    return dict(MlflowClient().get_model_version(NAME, version).tags)


def test_a_promotion_is_marked_as_such_once_its_alias_has_moved(tracking: TrackingSettings) -> None:
    assert tracking.registered_model == NAME
    MlflowClient().set_model_version_tag(NAME, "3", "promotion", "passed")
    _move_champion(NAME, "3", "2")
    assert tags_of("3")["promotion"] == "promoted"


@pytest.mark.parametrize("gates", [[], ["integrity"]])
def test_a_champion_asked_for_again_gets_what_a_kill_left_undone(
    gates: list[str], tracking: TrackingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after("champion", monkeypatch, "3", "2")
    monkeypatch.setattr(promotion, "judge_candidate", lambda _evidence, _asked: [])
    monkeypatch.setattr(promotion, "_describe_candidate", lambda _candidate: NAME)
    candidate: Any = SimpleNamespace(name=NAME, version="3")
    settings = PromoteSettings(tracking=tracking, gates=gates)
    assert promotion._audit_champion(settings, candidate) == 0
    assert aliases() == ("3", "2")
