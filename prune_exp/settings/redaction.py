"""Keeps passwords out of what is tracked, printed, logged and written."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECRET = re.compile(r"pass|secret|token(?!s)|credential|api_?key", re.IGNORECASE)
QUERY_SECRET = re.compile(rf"([?&][\w-]*(?:{SECRET.pattern})[\w-]*=)[^&\s'\"]*", re.IGNORECASE)


def redact(text: str) -> str:
    """Hides the user and password of every URI in a text, and secret-looking query parameters."""
    hidden = re.sub(r"://[^\s'\"]*@", "://***@", text)
    return QUERY_SECRET.sub(r"\1***", hidden)


def redact_override(text: str) -> str:
    """A command-line override without its value where anything in it looks like a secret."""
    key, equals, _ = text.partition("=")
    return f"{key}{equals}***" if SECRET.search(text) and equals else redact(text)


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


def redact_files(folder: Path) -> None:
    """Takes passwords out of the YAML files of a folder."""
    for path in folder.glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        if redact(text) != text:
            path.write_text(redact(text), encoding="utf-8")
