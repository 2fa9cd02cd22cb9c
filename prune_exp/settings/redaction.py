"""Keeps passwords out of what is tracked, printed, logged and written."""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SECRET = re.compile(
    r"password|passwd|passphrase|secret|credential|api[_-]?key"
    r"|token(?![a-z])|(?<![a-z])(?:db|my|user)?pass(?![a-z])",
    re.IGNORECASE,
)
"""In names: a token and no tokens or tokenizer, a pass and no compass or passages."""
QUERY_SECRET = re.compile(rf"([?&][\w-]*(?:{SECRET.pattern})[\w-]*=)[^&\s'\"]*", re.IGNORECASE)
YAML_LINE = re.compile(
    r"^([ \t]*(?:- )?['\"]?[+~]*)([\w./@-]+)([ \t]*[:=][ \t]*)(\S.*)$", re.MULTILINE
)
CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
INNER_NAME = re.compile(r"([\w.-]+)['\"]?\s*[:=]")
"""A name in front of what it stands for, inside a mapping or a list of settings."""


def redact(text: str) -> str:
    """Hides the user and password of every URI in a text, and secret-looking query parameters."""
    hidden = re.sub(r"://[^\s'\"]*@", "://***@", text)
    return QUERY_SECRET.sub(r"\1***", hidden)


def redact_sweep(folder: Path) -> None:
    """Takes passwords out of what Hydra writes into a sweep's folder, which may be the user's."""
    redact_files(folder, "multirun.yaml")


def is_secret(name: str) -> bool:
    """Whether a name says that what it stands for is a password or the like."""
    return SECRET.search(CAMEL.sub("_", name)) is not None


def list_secrets(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Which of nested values hold a password, by dotted name."""
    found: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += list_secrets(value, f"{prefix}{key}.")
        elif redact(str(value)) != str(value):
            found.append(f"{prefix}{key}")
    return found


def redact_override(text: str) -> str:
    """A command-line override without its value where a name in it says that it is a secret."""
    key, equals, value = text.partition("=")
    names = [key, *INNER_NAME.findall(value)]
    return f"{key}{equals}***" if equals and any(map(is_secret, names)) else redact(text)


def redact_logs() -> None:
    """Keeps passwords out of what this process logs, whatever handlers there are or will be."""
    if not isinstance(logging.getLogRecordFactory(), _RedactedRecords):
        logging.setLogRecordFactory(_RedactedRecords(logging.getLogRecordFactory()))


class _RedactedRecords:
    """Makes log records as before, without passwords."""

    def __init__(self, make_record: Callable[..., logging.LogRecord]) -> None:
        self.make_record = make_record

    def __call__(self, *args: Any, **facts: Any) -> logging.LogRecord:
        record = self.make_record(*args, **facts)
        try:
            text = record.getMessage()
        except Exception:  # words and arguments do not fit; handlers say so as they always do
            return record
        hidden = redact(text)
        if hidden != text:
            record.msg = hidden
            record.args = None
        return record


def redact_files(folder: Path, names: str = "*.yaml") -> None:
    """Takes passwords out of the YAML files of a folder, which must all be Hydra's own."""
    for path in folder.glob(names):
        text = path.read_text(encoding="utf-8")
        hidden = YAML_LINE.sub(_redact_line, redact(text))
        if hidden != text:
            path.write_text(hidden, encoding="utf-8")


def _redact_line(found: re.Match[str]) -> str:
    """A line of YAML, a setting or an override, without its value where its name is secret."""
    start, name, between, value = found.groups()
    shown = redact_override(f"{name}={value}").partition("=")[2]
    return f"{start}{name}{between}{shown}"
