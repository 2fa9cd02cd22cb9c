"""Stores that cannot be used are refused with what to type."""

import base64
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
import requests
from mlflow.artifacts import load_text
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking import store
from prune_exp.tracking.store import open_store, use_store


def test_a_deleted_experiment_is_said_to_be_deleted(tmp_path: Path) -> None:
    tracking = TrackingSettings(root=str(tmp_path / "mlruns"), experiment="tidied")
    experiment = open_store(tracking)
    client = MlflowClient()
    client.delete_experiment(experiment)
    with pytest.raises(SettingError, match=f"deleted.*--experiment-id {experiment}.*NAME"):
        open_store(tracking)
    client.restore_experiment(experiment)
    assert open_store(tracking) == experiment
    client.delete_experiment(experiment)
    other = TrackingSettings(root=tracking.root, experiment="other")
    assert open_store(other) != experiment


def new_artifact_place(root: Path) -> Path:
    """Where a run that starts now keeps its files."""
    experiment = open_store(TrackingSettings(root=str(root)))
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_text("x", "x.txt")
    assert load_text(f"runs:/{run.info.run_id}/x.txt") == "x"
    return Path(str(run.info.artifact_uri).removeprefix("file://"))


@pytest.mark.parametrize("how", ["renamed", "copied"])
def test_a_store_that_was_moved_keeps_its_runs_files_beside_it(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tmp_path / "a" / "mlruns"
    new_artifact_place(before)
    if how == "renamed":
        (tmp_path / "a").rename(tmp_path / "b")
    else:
        shutil.copytree(tmp_path / "a", tmp_path / "b")
    there = sorted(before.rglob("*"))
    after = tmp_path / "b" / "mlruns"
    capsys.readouterr()
    assert new_artifact_place(after).is_relative_to(after)
    assert "was elsewhere before" in capsys.readouterr().err
    assert sorted(before.rglob("*")) == there, "nothing is made or changed in the old place"
    assert new_artifact_place(after).is_relative_to(after)
    assert "was elsewhere before" not in capsys.readouterr().err


@pytest.mark.parametrize("place", ["own", "bucket"])
def test_a_place_that_the_user_chose_stays(place: str, tmp_path: Path) -> None:
    root = tmp_path / "mlruns"
    open_store(TrackingSettings(root=str(root)))
    (tmp_path / "own" / "artifacts").mkdir(parents=True)
    chosen = {"own": (tmp_path / "own" / "artifacts").as_uri(), "bucket": "s3://ours/artifacts"}
    experiment = MlflowClient().create_experiment("theirs", artifact_location=chosen[place])
    assert open_store(TrackingSettings(root=str(root), experiment="theirs")) == experiment
    assert mlflow.get_experiment(experiment).artifact_location == chosen[place]


def test_a_store_seen_through_a_link_is_where_it_was(tmp_path: Path) -> None:
    root = tmp_path / "mlruns"
    experiment = open_store(TrackingSettings(root=str(root)))
    (tmp_path / "link").symlink_to(root)
    place = mlflow.get_experiment(experiment).artifact_location
    open_store(TrackingSettings(root=str(tmp_path / "link")))
    assert mlflow.get_experiment(experiment).artifact_location == place


def test_mlflows_variable_stays_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = TrackingSettings(root=str(tmp_path / "mlruns"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    open_store(tracking)
    assert str(tmp_path) in mlflow.get_tracking_uri()
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team")
    use_store(tracking)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://team"


@contextmanager
def server(answer: Any) -> Iterator[str]:
    """A server on a free port; `answer` turns a request's credentials into a status and a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.headers.get("Authorization", ""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    own = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=own.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{own.server_address[1]}"
    finally:
        own.shutdown()
        own.server_close()


FOUND = json.dumps(
    {"experiment": {"experiment_id": "7", "name": "prune_exp", "lifecycle_stage": "active"}}
).encode()
LOGIN = "Basic " + base64.b64encode(b"ann:secret").decode()


@pytest.mark.parametrize(
    ("variables", "credentials"),
    [
        ({"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": "secret"}, LOGIN),
        ({"MLFLOW_TRACKING_TOKEN": "abc"}, "Bearer abc"),
    ],
)
def test_a_guarded_server_is_asked_with_mlflows_credentials(
    variables: dict[str, str], credentials: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(given: str) -> tuple[int, bytes]:
        return (200, FOUND) if given == credentials else (401, b"who are you?")

    with server(answer) as uri:
        tracking = TrackingSettings(uri=uri)
        with pytest.raises(
            SettingError, match=r"does not let you in \(401\).*MLFLOW_TRACKING_TOKEN"
        ):
            open_store(tracking)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert open_store(tracking) == "7"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (403, b"no", r"does not let you in \(403\)"),
        (404, b"nothing here", r"no MLflow there \(404\)"),
        (200, b"<html>log in</html>", "not with what MLflow understands"),
    ],
)
def test_a_server_that_answers_is_not_called_dead(status: int, body: bytes, words: str) -> None:
    with server(lambda _: (status, body)) as uri:
        for ask in (open_store, use_store):
            with pytest.raises(SettingError, match=words) as refused:
                ask(TrackingSettings(uri=uri))
            assert "\n" not in str(refused.value)


def test_a_server_that_is_not_there_does_not_answer() -> None:
    with pytest.raises(SettingError, match=r"127\.0\.0\.1:9 does not answer .*tracking\.root=DIR"):
        open_store(TrackingSettings(uri="http://ann:secret@127.0.0.1:9"))


@pytest.mark.parametrize(
    ("variables", "verify"),
    [
        ({}, True),
        ({"MLFLOW_TRACKING_INSECURE_TLS": "true"}, False),
        ({"MLFLOW_TRACKING_SERVER_CERT_PATH": "/etc/ours.pem"}, "/etc/ours.pem"),
    ],
)
def test_a_server_is_asked_with_mlflows_certificates(
    variables: dict[str, str], verify: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def refuse(_self: Any, _method: str, _url: str, **how: Any) -> None:
        seen.append(how["verify"])
        raise requests.ConnectionError

    monkeypatch.setattr(requests.Session, "request", refuse)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for ask in (open_store, use_store):
        with pytest.raises(SettingError, match="does not answer"):
            ask(TrackingSettings(uri="https://mlflow.invalid"))
    assert seen == [verify] * len(seen)
    assert len(seen) >= 2


@pytest.mark.parametrize(
    "uri", ["databricks", "databricks://team", "arn:aws:sagemaker:eu:1:x", "azureml://x"]
)
def test_an_experiment_elsewhere_gets_no_place_on_this_machine(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str | None] = []
    monkeypatch.setattr(store, "_use_uri", lambda _: None)
    monkeypatch.setattr(store, "_check_answers", lambda *_: None)
    monkeypatch.setattr(store.mlflow, "get_experiment_by_name", lambda _: None)
    monkeypatch.setattr(
        store.mlflow,
        "create_experiment",
        lambda _, **given: made.append(given["artifact_location"]) or "1",
    )
    monkeypatch.setattr(store, "show_experiment", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    assert open_store(TrackingSettings(uri=uri)) == "1"
    assert made == [None]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("uri", ["postgresql://ann:secret@h/d", "mysql+pymysql://h/d"])
def test_a_database_is_not_given_a_folder_of_this_machine(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[Any] = [None]
    client = SimpleNamespace(get_experiment_by_name=lambda _: known[0])
    monkeypatch.setattr(store, "MlflowClient", lambda _: client)
    monkeypatch.setattr(store, "_use_uri", lambda _: None)
    monkeypatch.setattr(store.mlflow, "get_experiment_by_name", lambda _: known[0])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match=r"experiments create -n prune_exp -l PLACE") as refused:
        open_store(TrackingSettings(uri=uri))
    assert "secret" not in str(refused.value)
    known[0] = SimpleNamespace(experiment_id="7", lifecycle_stage="active", tags={})
    monkeypatch.setattr(store, "show_experiment", lambda *_: None)
    assert open_store(TrackingSettings(uri=uri)) == "7"
    assert not list(tmp_path.iterdir())


def test_a_store_that_mlflow_does_not_know_is_one_line() -> None:
    with pytest.raises(SettingError, match=r"tracking\.uri=nonsense://x cannot be used") as refused:
        open_store(TrackingSettings(uri="nonsense://x"))
    assert "\n" not in str(refused.value)


def test_an_error_of_the_database_is_told_once_and_without_a_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    open_store(TrackingSettings(root=str(tmp_path)))
    capfd.readouterr()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("drop table tags")
    with pytest.raises(MlflowException):
        MlflowClient().create_run("0", tags={"a": "b"})
    assert "Traceback" not in capfd.readouterr().err
