"""Refuses chosen options whose files say ??? for a setting that nobody has given.

The typed schema has a default there, and OmegaConf keeps that: nothing else would notice.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prune_exp.settings.errors import SettingError

MISSING = "???"
GLOBAL = "# @package _global_"
"""First line of options whose settings are not those of their own group."""


def check_filled(config: Any, hydra: Any) -> None:
    """Raises SettingError where a chosen option wants a setting that has no value.

    `hydra` is Hydra's own node, which knows what was chosen and typed, and where options lie. A
    null that was typed is a value.
    """
    typed = {str(one).lstrip("+").partition("=")[0] for one in hydra.overrides.task}
    folders = [Path(one.path) for one in hydra.runtime.config_sources if one.schema == "file"]
    for group, chosen in hydra.runtime.choices.items():
        for option in chosen if _is_several(chosen) else [chosen]:
            for key in _wanted_keys(folders, group, option):
                if key not in typed and not key.startswith("hydra.") and _is_default(config, key):
                    raise SettingError(f"{group}={option} needs {key}; type {key}=...")


def _is_default(config: Any, key: str) -> bool:
    """Whether a setting still has the value that the schema has."""
    from omegaconf import OmegaConf

    schema = OmegaConf.structured(OmegaConf.get_type(config))
    return OmegaConf.select(config, key) == OmegaConf.select(schema, key)


def _is_several(chosen: Any) -> bool:
    """Whether a group has several options at once."""
    return not isinstance(chosen, str) and chosen is not None


def _wanted_keys(folders: list[Path], group: str, option: str | None) -> Iterator[str]:
    """Dotted names of the settings that an option leaves to the user."""
    if option is None or group.startswith("hydra/"):
        return
    files = [folder / group / f"{option}.yaml" for folder in folders]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        return
    from omegaconf import OmegaConf

    prefix = "" if found.read_text(encoding="utf-8").startswith(GLOBAL) else f"{group}."
    values = OmegaConf.to_container(OmegaConf.load(found), resolve=False)
    yield from _missing_in(values, prefix)


def _missing_in(values: Any, prefix: str) -> Iterator[str]:
    for key, value in values.items() if isinstance(values, dict) else ():
        if value == MISSING:
            yield f"{prefix}{key}"
        yield from _missing_in(value, f"{prefix}{key}.")
