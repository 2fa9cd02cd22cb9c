"""Passwords are hidden, and nothing else is."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from prune_exp.settings.redaction import (
    redact,
    redact_files,
    redact_logs,
    redact_override,
    redact_sweep,
)
from support.cli import command
from support.hostile import PASSWORD


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://me:{PASSWORD}@host/db",
        f"postgresql://me:at@{PASSWORD}@host/db",
        f"postgresql://me:slash/{PASSWORD}@host/db",
        f"http://host/api?user=me&password={PASSWORD}&x=1",
        f"http://host/api?access_token={PASSWORD}",
        f"could not open ['http://me:{PASSWORD}@host:1/']",
    ],
)
def test_passwords_in_uris_are_hidden(text: str) -> None:
    assert PASSWORD not in redact(text)
    assert "host" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "models:/pruned@candidate",
        "data.context_tokens=32",
        "sqlite:////a/b.db",
        "a@b",
        "model.path=/data/compass/m",
        "data.path=passages.txt",
        "tokenizer=bpe",
        "model={tokenizer: bpe, path: /secret/place}",
        "model.path=/home/token/m",
        "http://host/api?tokenizer=bpe&passages=3",
        "bypass=true",
    ],
)
def test_what_is_no_password_stays(text: str) -> None:
    assert redact(text) == redact_override(text) == text


@pytest.mark.parametrize(
    "text",
    [
        f"db.password={PASSWORD}",
        f"+api_key={PASSWORD}",
        f"hub.token={PASSWORD}",
        f"db={{user: me, passwd: {PASSWORD}}}",
        f"db={{user: me, 'accessToken': {PASSWORD}}}",
        f"db.pass={PASSWORD}",
        f"db_pass={PASSWORD}",
        f"db.dbpass={PASSWORD}",
        f"authtoken={PASSWORD}",
        f"hub.accessToken={PASSWORD}",
        f"awsSecretAccessKey={PASSWORD}",
        f"dsn='host=h password={PASSWORD}'",
        f"uri=http://me:{PASSWORD}@host",
    ],
)
def test_secret_overrides_are_hidden(text: str) -> None:
    assert PASSWORD not in redact_override(text)
    assert redact_override(text).startswith(text.partition("=")[0])


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    before = logging.getLogRecordFactory()
    redact_logs()
    redact_logs()
    yield caplog
    logging.setLogRecordFactory(before)


def test_logs_are_redacted_by_whatever_handler(records: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("anyones")
    log.warning("#%d : %s", 0, f"uri=http://me:{PASSWORD}@h")
    log.warning("%d%% done", 5)
    log.warning(f"{{'uri': 'http://me:{PASSWORD}@h'}} 100%")
    assert records.messages == ["#0 : uri=http://***@h", "5% done", "{'uri': 'http://***@h'} 100%"]
    assert records.records[1].args == (5,), "what hides nothing is left alone"
    made = logging.getLogRecordFactory()("x", logging.INFO, "f", 1, "%d", ("no number",), None)
    assert made.args == ("no number",), "the handler says what is wrong with it"


@pytest.mark.parametrize(
    "option",
    [
        "hydra/job_logging=disabled",
        "hydra/job_logging=none",
        "hydra/job_logging=stdout",
        "hydra/hydra_logging=disabled",
        "hydra/hydra_logging=none",
    ],
)
def test_hydras_own_logging_options_can_be_chosen(
    option: str, tiny_args: list[str], tmp_path: Path
) -> None:
    """A value that is refused is enough: logging is configured before."""
    done = command(*tiny_args, option, "sparsity=2", cwd=tmp_path)
    assert "sparsity=2 is not between 0 and 1" in done.stderr
    assert "configure" not in done.stderr


def test_files_keep_all_but_the_secrets(tmp_path: Path) -> None:
    text = f"""\
storage: postgresql://u:{PASSWORD}@h/d
hub:
  token: {PASSWORD}
  tokenizer: bpe
overrides:
  task:
  - +db.password={PASSWORD}
  - '+api_key={PASSWORD}'
  - db={{user: me, passwd: {PASSWORD}}}
  - data.context_tokens=32
empty:
last: kept
"""
    (tmp_path / "multirun.yaml").write_text(text, encoding="utf-8")
    redact_files(tmp_path)
    hidden = (tmp_path / "multirun.yaml").read_text(encoding="utf-8")
    assert PASSWORD not in hidden
    assert "storage: postgresql://***@h/d" in hidden
    for kept in (
        "tokenizer: bpe",
        "data.context_tokens=32",
        "empty:\n",
        "last: kept\n",
        "  task:\n",
    ):
        assert kept in hidden
    before = (tmp_path / "multirun.yaml").stat().st_mtime_ns
    redact_files(tmp_path)
    assert (tmp_path / "multirun.yaml").stat().st_mtime_ns == before


def test_a_users_own_files_in_a_sweeps_folder_stay_as_they_are(tmp_path: Path) -> None:
    text = f"storage: postgresql://u:{PASSWORD}@h/d\n"
    for name in ("multirun.yaml", "compose.yaml", "config.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    redact_sweep(tmp_path)
    changed = [path.name for path in tmp_path.iterdir() if path.read_text() != text]
    assert changed == ["multirun.yaml"]
