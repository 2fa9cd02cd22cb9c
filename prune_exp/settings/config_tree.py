"""Where the config tree lies and which groups it has."""

from pathlib import Path


def conf_dir() -> Path:
    """The config tree: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def group_names() -> list[str]:
    """The config groups."""
    return sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
