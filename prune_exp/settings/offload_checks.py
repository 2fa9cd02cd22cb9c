"""Refuses what cannot be done with a model whose layers stay on disk."""

from prune_exp.settings.errors import SettingError
from prune_exp.settings.schema import Settings


def check_offload(settings: Settings) -> None:
    """Raises SettingError where `model.offload` meets what needs the whole model at once."""
    if not settings.model.offload:
        return
    for given, instead in _list_refused(settings).items():
        raise SettingError(
            f"model.offload=true leaves the layers on disk, and {given} needs all of them at once;"
            f" use {instead}, or model.offload=false"
        )


def _list_refused(settings: Settings) -> dict[str, str]:
    """What was given and cannot be done, each with what to type in its place."""
    pruning = settings.pruning
    refused = {
        f"recovery={settings.recovery.name}": (settings.recovery.name != "none", "recovery=none"),
        f"pruning.method={pruning.method}": (
            pruning.method != "structured",
            "pruning.method=structured",
        ),
        "pruning.rehearse": (bool(pruning.rehearse), "pruning.rehearse=[]"),
        "pruning.elect=true": (pruning.elect, "pruning.elect=false"),
        "pruning.rehearse_vocab": (bool(pruning.rehearse_vocab), "pruning.rehearse_vocab=[]"),
        f"data.calibration={settings.data.calibration}": (
            settings.data.calibration != "documents",
            "data.calibration=documents",
        ),
        "quality.tasks": (bool(settings.quality.tasks), "quality.tasks=[]"),
        "tracking.promote=true": (settings.tracking.promote, "tracking.promote=false"),
    }
    return {given: instead for given, (applies, instead) in refused.items() if applies}
