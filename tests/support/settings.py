"""Settings of trials on a tiny model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from prune_exp.settings.schema import Settings


def settings_for(folder: Path, text: Path, cache: Path, **data: Any) -> Settings:
    settings = Settings(cache_dir=str(cache))
    settings.model.path, settings.model.name = str(folder), "tiny"
    settings.pruning.voters = ["wanda"]
    settings.benchmark.enabled = False
    chosen: dict[str, Any] = {
        "path": str(text),
        "calibration": "generated",
        "context_tokens": 24,
        "calibration_blocks": 5,
        "heldout_blocks": 20,
    }
    settings.data = replace(settings.data, **chosen | data)
    return settings
