"""Aliases move so that a kill loses no version that could be put back."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from prune_exp.registry import promotion
from prune_exp.registry.candidates import version_at
from prune_exp.registry.gates import Verdict
from prune_exp.registry.promotion import _move_champion, promote_model
from prune_exp.settings.command_schemas import PromoteSettings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking import tags
from prune_exp.tracking.store import open_store

NAME = "m"


@pytest.fixture
def tracking(tmp_path: Path) -> TrackingSettings:
    """A store with four versions of a model; the first two were promoted."""
    tracking = TrackingSettings(root=str(tmp_path / "mlruns"), registered_model=NAME)
    experiment = open_store(tracking)
    client = MlflowClient()
    client.create_registered_model(NAME)
    run = client.create_run(experiment, tags={tags.ROLE: "trial"})
    for _ in range(4):
        client.create_model_version(NAME, source="/nowhere", run_id=run.info.run_id)
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


@pytest.mark.parametrize("role", [None, "sweep"])
def test_aliases_of_a_model_that_is_not_ours_are_not_touched(
    role: str | None, tmp_path: Path
) -> None:
    """Other people call their versions champion and previous too."""
    tracking = TrackingSettings(root=str(tmp_path / "mlruns"), registered_model="theirs")
    experiment = open_store(tracking)
    client = MlflowClient()
    client.create_registered_model("theirs")
    run_id = None
    if role is not None:
        run_id = client.create_run(experiment, tags={tags.ROLE: role}).info.run_id
    for alias in ("previous", "champion"):
        made = client.create_model_version("theirs", source="/nowhere", run_id=run_id)
        client.set_registered_model_alias("theirs", alias, str(made.version))
    with pytest.raises(SettingError, match="was not registered by a trial"):
        roll_back(tracking)
    assert version_at("theirs", "champion") == "2"
    assert version_at("theirs", "previous") == "1"
    assert not client.get_model_version("theirs", "1").tags


@pytest.mark.parametrize(
    ("given", "named"),
    [({"version": 3}, "version"), ({"run_id": "x", "gates": ["reload"]}, "run_id")],
)
def test_a_rollback_that_names_something_else_is_refused(
    given: dict[str, Any], named: str, tracking: TrackingSettings
) -> None:
    with pytest.raises(SettingError, match=f"knows no {named}"):
        promote_model(PromoteSettings(rollback=True, tracking=tracking, **given))
    assert aliases() == ("2", "1")


def test_a_mark_of_a_version_that_was_deleted_does_not_block(
    tracking: TrackingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking.registered_model == NAME
    with monkeypatch.context() as patch:
        fail_after("set_registered_model_alias", patch)
        with pytest.raises(KeyboardInterrupt):
            roll_back(tracking)
    assert version_at(NAME, "champion") == "1"
    client = MlflowClient()
    client.delete_registered_model_alias(NAME, "previous")
    client.delete_model_version(NAME, "2")
    _move_champion(NAME, "3", "1")
    assert aliases() == ("3", "1")


def test_what_was_rolled_back_is_judged_again_only_by_its_number(
    tracking: TrackingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where nobody has named it, nor where a sweep would promote it again."""
    _move_champion(NAME, "3", "2")
    roll_back(tracking)
    monkeypatch.setattr(promotion, "judge_candidate", lambda _evidence, _asked: [])
    monkeypatch.setattr(promotion, "_describe_candidate", lambda _candidate: NAME)
    monkeypatch.setattr(promotion, "check_kept_text", lambda _one, _other: None)
    monkeypatch.setattr(promotion, "check_base_model", lambda _one, _other: None)
    monkeypatch.setattr(promotion, "folder_sha256", lambda _folder: "digest")
    monkeypatch.setattr(promotion, "at_version", lambda _name, _version, _scratch: None)
    chosen: Any = SimpleNamespace(name=NAME, version="3", root=Path())
    monkeypatch.setattr(promotion, "choose_candidate", lambda _settings, _scratch: chosen)
    rolled_back = pytest.raises(SettingError, match="was rolled back; name it with version=3")
    for given, unattended in ((None, False), ("latest", False), ("x", True)):
        asked = PromoteSettings(tracking=tracking, run_id=given)
        with rolled_back:
            promote_model(asked, unattended=unattended)
    assert aliases() == ("2", None)
    assert promote_model(PromoteSettings(tracking=tracking, version=3)) == 0
    assert aliases() == ("3", "2")
    chosen.version = "4"
    assert promote_model(PromoteSettings(tracking=tracking)) == 0


@pytest.mark.parametrize("passed", [True, False])
def test_a_second_promotion_of_the_same_version_leaves_its_verdicts(
    passed: bool,
    tracking: TrackingSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both judged it; the first one has made it the champion by now."""
    monkeypatch.setattr(promotion, "_describe_candidate", lambda _candidate: NAME)
    monkeypatch.setattr(promotion, "known_version", lambda _trial, _name: None)
    candidate: Any = SimpleNamespace(name=NAME, version="3", trial=None)
    _move_champion(NAME, "3", "2")
    before = tags_of("3")
    verdict = Verdict(name="reload", passed=passed, sentence="x")
    settings = PromoteSettings(tracking=tracking)
    code = promotion._act_on_verdicts(settings, candidate, "2", [verdict], "digest")
    assert code == (0 if passed else 1)
    assert tags_of("3") == before
    assert aliases() == ("3", "2")
    assert "has become the champion meanwhile" in capsys.readouterr().out


def test_a_judged_version_is_ours_though_its_run_is_gone(tracking: TrackingSettings) -> None:
    client = MlflowClient()
    _move_champion(NAME, "3", "2")
    for version in ("2", "3"):
        client.set_model_version_tag(NAME, version, "promotion", "promoted")
    client.delete_run(str(client.get_model_version(NAME, "3").run_id))
    assert roll_back(tracking) == 0
    assert aliases() == ("2", None)
