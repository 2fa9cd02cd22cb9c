"""Write a pruned model, whole or not at all."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from prune_exp.machine.cache import digest_of, file_sha256
from prune_exp.model import loading

PARTIAL = ".partial"


class ExportError(RuntimeError):
    """The pruned model could not be written."""


def export_model(model: Any, tokenizer: Any, target: Path) -> Path:
    """Writes a stock checkpoint to `target`, whole or not at all, and over nothing.

    Raises:
        ExportError: `target` is there already, or writing failed, for instance because the disk
            is full.
    """
    if target.exists() or target.is_symlink():
        raise ExportError(f"{target} is there already, and nothing is written over it")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=PARTIAL, dir=target.parent))
    try:
        loading.save_model(model, tokenizer, scratch / target.name)
        os.replace(scratch / target.name, target)
    except Exception as error:
        raise ExportError(f"could not write the pruned model to {target}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def discard_partial(target: Path) -> None:
    """Removes what an export to `target` left that was killed."""
    for folder in target.parent.glob(f".{target.name}-*{PARTIAL}"):
        shutil.rmtree(folder, ignore_errors=True)


def weights_sha256(checkpoint: Path) -> str:
    """One digest for all weights files of a checkpoint; the file's own when there is one."""
    digests = [file_sha256(path) for path in sorted(checkpoint.glob("*.safetensors"))]
    return digests[0] if len(digests) == 1 else digest_of(digests)
