"""Keeps passwords out of what Hydra logs and writes."""

import logging
from pathlib import Path

from prune_exp.settings import redact


class Redact(logging.Filter):
    """A logging filter; `conf/config.yaml` gives it to Hydra's handlers."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record pass, without passwords."""
        record.msg, record.args = redact(record.getMessage()), None
        return True


def redact_files(folder: Path) -> None:
    """Takes passwords out of the YAML files of a folder."""
    for path in folder.glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        if redact(text) != text:
            path.write_text(redact(text), encoding="utf-8")
