"""Keeps passwords out of what is tracked, printed, logged and written."""

import logging
import re
from pathlib import Path

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


class Redact(logging.Filter):
    """A logging filter; `conf/config.yaml` gives it to Hydra's handlers."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record pass, without passwords."""
        record.msg = redact(record.getMessage())
        record.args = None
        return True


def redact_files(folder: Path) -> None:
    """Takes passwords out of the YAML files of a folder."""
    for path in folder.glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        if redact(text) != text:
            path.write_text(redact(text), encoding="utf-8")
