"""What may pass is tried again, what will not pass is raised at once."""

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)
from requests import ConnectionError as NoConnection

from prune_exp.settings.errors import SettingError
from prune_exp.tracking import attempts
from prune_exp.tracking.attempts import try_again


class Flaky:
    """Raises its errors one by one, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(attempts.time, "sleep", waited.append)
    return waited


PASSING = (
    MlflowException("API request failed"),
    MlflowException("busy", error_code=TEMPORARILY_UNAVAILABLE),
    NoConnection("refused"),
    OSError("database is locked"),
)


@pytest.mark.parametrize("error", PASSING)
def test_what_may_pass_is_tried_again(error: Exception, pauses: list[float]) -> None:
    flaky = Flaky(error, error)
    assert try_again(flaky) == "done"
    assert flaky.calls == 3
    assert pauses == list(attempts.PAUSES_S[:2])


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("no such run", error_code=RESOURCE_DOES_NOT_EXIST),
        MlflowException("bad name", error_code=INVALID_PARAMETER_VALUE),
        SettingError("mend it"),
        ValueError("a fault"),
    ],
)
def test_what_will_not_pass_is_raised_at_once(error: Exception) -> None:
    flaky = Flaky(error)
    with pytest.raises(type(error)):
        try_again(flaky)
    assert flaky.calls == 1


def test_what_does_not_pass_is_raised_in_the_end() -> None:
    flaky = Flaky(*[NoConnection("refused")] * 50)
    with pytest.raises(NoConnection):
        try_again(flaky)
    assert flaky.calls == len(attempts.PAUSES_S) + 1


def test_other_errors_pass_where_the_caller_says_so() -> None:
    assert try_again(Flaky(SettingError("no answer")), also=(SettingError,)) == "done"
