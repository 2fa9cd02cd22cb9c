"""Libraries that are told to say less."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hush_loggers(*names: str) -> Iterator[None]:
    """Without what these loggers say below an error; as they were afterwards."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
