"""Calls to the store that are tried again, because a server restarts and a database is locked."""

import time
from collections.abc import Callable
from typing import TypeVar

from mlflow.exceptions import MlflowException
from requests import RequestException

T = TypeVar("T")
PAUSES_S = (1, 5, 15, 30)
"""Waits between attempts; MLflow itself tries some kinds of error again, each time."""
PASSING = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "ABORTED")
"""MLflow's codes of errors that may be gone a little later."""


def try_again(call: Callable[[], T], *, also: tuple[type[Exception], ...] = ()) -> T:
    """What a call gives, tried again after errors that may pass, and after those in `also`.

    Raises:
        Exception: the last error, or one that would not pass.
    """
    for pause in PAUSES_S:
        try:
            return call()
        except (MlflowException, RequestException, OSError, *also) as error:
            if isinstance(error, MlflowException) and error.error_code not in PASSING:
                raise
            time.sleep(pause)
    return call()
