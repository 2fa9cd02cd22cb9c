"""Hides the packages that pruning, measuring and training do without: a pytest plugin, too."""

import sys

NEEDLESS = ("hydra", "omegaconf", "mlflow", "optuna", "matplotlib", "rich", "pandas")


def hide_packages() -> None:
    """Has every import of one of them fail, whether it is installed or not."""
    for name in NEEDLESS:
        sys.modules[name] = None  # pyright: ignore[reportArgumentType]


hide_packages()
