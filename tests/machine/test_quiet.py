"""Loggers that are told to say less for a while."""

import logging

import pytest

from prune_exp.machine.quiet import hush_loggers


def test_warnings_are_left_out_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    one, other = logging.getLogger("test.one"), logging.getLogger("test.other")
    one.setLevel(logging.INFO)
    with hush_loggers("test.one"):
        one.warning("about my own insides")
        one.error("wrong")
        other.warning("not hushed")
    one.info("said again")
    assert caplog.messages == ["wrong", "not hushed", "said again"]


def test_levels_come_back_after_an_error() -> None:
    with pytest.raises(RuntimeError), hush_loggers("test.third"):
        raise RuntimeError
    assert logging.getLogger("test.third").level == logging.NOTSET
