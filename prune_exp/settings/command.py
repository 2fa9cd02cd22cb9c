"""How every command starts and ends: its environment, one line for an error, the exit code."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prune_exp.settings.checks import check_known
from prune_exp.settings.config_tree import conf_dir
from prune_exp.settings.explanation import explain_error
from prune_exp.settings.redaction import redact_logs
from prune_exp.settings.schema import Settings
from prune_exp.settings.surroundings import fill_in
from prune_exp.settings.unfilled import check_filled

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""What the user has not set already."""
NOT_FOR_US = ("MLFLOW_RUN_ID",)
"""What would make MLflow write into a run that is not ours."""


@contextmanager
def end_in_one_line(program: str, *, schema: type = Settings, kept: str = "") -> Iterator[None]:
    """Exits with 1 and one line after an error, with 130 when interrupted.

    HYDRA_FULL_ERROR=1 lets the error through, as Hydra does; it is set here for Hydra in any case,
    which would otherwise word errors and exit by itself.
    """
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    redact_logs()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in NOT_FOR_US:
        if os.environ.pop(name, None):
            print(f"note: {name} is set, and not used: runs are made anew", file=sys.stderr)
    try:
        yield
    except KeyboardInterrupt:
        print(f"{program}: interrupted{kept}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if wants_traceback:
            raise
        print(f"{program}: error: {explain_error(error, schema)}", file=sys.stderr)
        sys.exit(1)


def run_command(name: str, schema: type, act: Callable[[Any], int]) -> None:
    """Composes `conf/<name>.yaml`, runs `act` on the typed settings, and exits with its code.

    Errors of the user's become one line and exit code 1.
    """
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    codes: list[int] = []
    errors: list[Exception] = []

    def task(config: Any) -> None:
        try:
            check_filled(config, HydraConfig.get())
            settings = OmegaConf.to_object(config)
            check_known(settings)
            fill_in(settings, HydraConfig.get())
            codes.append(act(settings))
        except Exception as error:  # Hydra would add a line of its own
            errors.append(error)

    with end_in_one_line(f"prune_exp.{name}", schema=schema):
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(task)()
        for error in errors:
            raise error
    sys.exit(max(codes, default=0))
