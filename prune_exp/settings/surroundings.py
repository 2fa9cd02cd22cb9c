"""What settings leave open and their surroundings decide: MLflow's variables, folders, a name.

Settings that were given always win; what a variable does, or does not do, is said once.
"""

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prune_exp.settings.goals import apply_goals, look_for_size
from prune_exp.settings.groups import ModelSettings, TrackingSettings
from prune_exp.settings.redaction import redact

SQLITE = "sqlite:///"
IN_PACKAGE = "pkg://"
"""What a path in an installed package begins with: pkg://PACKAGE/FILE."""
URI = "MLFLOW_TRACKING_URI"
EXPERIMENT = "MLFLOW_EXPERIMENT_NAME"


def fill_in(settings: Any, hydra: Any = None) -> None:
    """Completes the settings of a command in place.

    `hydra` is Hydra's own node, which knows what was typed and where. Without it, as in commands
    that track nothing, only the model is named.
    """
    if hydra is not None and hasattr(settings, "tracking"):
        _heed_variables(settings.tracking, _given_keys(hydra.overrides.task))
    if hasattr(settings, "model") and not settings.model.name:
        settings.model.name = name_model(settings.model)
    if hasattr(settings, "goal"):
        typed = _given_keys(hydra.overrides.task) if hydra is not None else set()
        apply_goals(settings, typed)
        look_for_size(settings, typed)
    if hydra is not None and hydra.job.chdir and hasattr(settings, "data"):
        _anchor_paths(settings, Path(hydra.runtime.cwd))


def _given_keys(overrides: list[str]) -> set[str]:
    return {str(one).lstrip("+").partition("=")[0] for one in overrides}


def _heed_variables(tracking: TrackingSettings, given: set[str]) -> None:
    uri = os.environ.get(URI)
    default = TrackingSettings()
    if uri and tracking.uri is None and not _is_given(tracking, default, "root", given):
        tracking.uri = uri
        note_once(
            f"{URI} is set: runs go to {redact(uri)}; tracking.root=DIR keeps them in a folder"
        )
    elif uri and tracking.uri != uri:
        wins = "root" if tracking.uri is None else "uri"
        chosen = redact(str(getattr(tracking, wins)))
        note_once(f"{URI} is set, and not used: tracking.{wins}={chosen} is given")
    name = os.environ.get(EXPERIMENT)
    if not name or name == tracking.experiment:
        return
    if _is_given(tracking, default, "experiment", given):
        note_once(
            f"{EXPERIMENT} is set, and not used: tracking.experiment={tracking.experiment} is given"
        )
        return
    tracking.experiment = name
    note_once(
        f"{EXPERIMENT} is set: the experiment is {name}; tracking.experiment=NAME names another"
    )


def _is_given(
    tracking: TrackingSettings, default: TrackingSettings, name: str, given: set[str]
) -> bool:
    """Whether a setting was typed, or set in a file to another value than the default."""
    return f"tracking.{name}" in given or getattr(tracking, name) != getattr(default, name)


_said: set[str] = set()


def note_once(text: str) -> None:
    """Says something on stderr the first time that it is said."""
    if text not in _said:
        _said.add(text)
        print(f"note: {text}", file=sys.stderr)


def list_said() -> frozenset[str]:
    """What this process has noted so far, or was told of, for a process that it starts."""
    return frozenset(_said)


def count_as_said(notes: Iterable[str]) -> None:
    """Has this process not repeat what the one that started it has noted."""
    _said.update(notes)


def forget_said() -> None:
    """Has everything said again, as in a new process."""
    _said.clear()


def name_model(model: ModelSettings) -> str:
    """A short name for a model that was given none: that of its hub id, folder or package."""
    source = model.hub_id or model.path or model.package or ""
    last = Path(source).expanduser().absolute().name if model.path else source.rpartition("/")[2]
    name = re.sub(r"[^\w. -]+", "-", last).strip("-. ")[:100]
    return name or "model"


def _anchor_entry(entry: str, folder: Path) -> str:
    """A file, with its share where it has one; those inside packages are found by themselves."""
    return entry if entry.startswith(IN_PACKAGE) else str(folder / Path(entry).expanduser())


def _anchor_paths(settings: Any, folder: Path) -> None:
    """Has relative paths mean what they meant when typed: the job's own folder is another one."""
    own_text = ["path"] if settings.data.package is None else []
    for group, names in (
        (settings, ["cache_dir"]),
        (settings.model, ["path"]),
        (settings.data, own_text),
        (settings.benchmark, ["prompts_path"]),
        (settings.quality, ["tasks_path"]),
        (settings.tracking, ["root", "signing_key"]),
    ):
        for name in names:
            value = getattr(group, name)
            if value is not None:
                setattr(group, name, str(folder / Path(value).expanduser()))
    for group, name in ((settings.data, "mix"), (settings.quality, "domains")):
        setattr(group, name, [_anchor_entry(one, folder) for one in getattr(group, name)])
    uri = settings.tracking.uri
    if uri is not None and uri.startswith(SQLITE):
        settings.tracking.uri = f"{SQLITE}{folder / uri.removeprefix(SQLITE)}"
