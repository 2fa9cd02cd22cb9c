"""How a checkpoint is served when nothing is asked for."""

from pathlib import Path
from typing import Any


def eager_serving(folder: Path, device: str = "cpu") -> Any:
    """What a measured process is told of a checkpoint when nothing is asked for."""
    from prune_exp.measurement.backends.protocol import ServeSpec

    return ServeSpec(
        folder=str(folder),
        backend="transformers",
        dtype="float32",
        cache="dynamic",
        compile=False,
        device=device,
        threads=1,
        sequences=3,
        cache_tokens=17,
    )
