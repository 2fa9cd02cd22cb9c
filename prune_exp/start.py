"""How every command starts and ends: its environment, one line for an error, the exit code."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from prune_exp.errors import explain
from prune_exp.settings import Settings

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""What the user has not set already."""


@contextmanager
def command_line(program: str, *, schema: type = Settings, kept: str = "") -> Iterator[None]:
    """Exits with 1 and one line after an error, with 130 when interrupted.

    HYDRA_FULL_ERROR=1 lets the error through, as Hydra does; it is set here for Hydra in any case,
    which would otherwise word errors and exit by itself.
    """
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        yield
    except KeyboardInterrupt:
        print(f"{program}: interrupted{kept}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if wants_traceback:
            raise
        print(f"{program}: error: {explain(error, schema)}", file=sys.stderr)
        sys.exit(1)
