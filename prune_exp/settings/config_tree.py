"""Where the config tree lies and which groups it has."""

from pathlib import Path
from typing import Any


def conf_dir() -> Path:
    """The config tree: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def group_names() -> list[str]:
    """The config groups."""
    return sorted(path.name for path in conf_dir().iterdir() if path.is_dir())


def typed_options(hydra: Any) -> list[str]:
    """Where the command line said that configs are, as options to be typed again.

    `hydra` is Hydra's own node.
    """
    own = [one.path for one in hydra.runtime.config_sources if one.provider == "command-line"]
    name = hydra.job.config_name
    named = [] if name in (None, "config") else [f"--config-name={name}"]
    return [*(f"--config-dir={path}" for path in own), *named]
