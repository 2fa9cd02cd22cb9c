"""Write a pruned model, whole or not at all."""

import os
import shutil
from pathlib import Path
from typing import Any

from prune_exp.machine.cache import digest_of, file_sha256
from prune_exp.model import loading


class ExportError(RuntimeError):
    """The pruned model could not be written."""


def export_model(model: Any, tokenizer: Any, target: Path) -> Path:
    """Writes a stock checkpoint to `target`, whole or not at all.

    Raises:
        ExportError: writing failed, for instance because the disk is full.
    """
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        loading.save_model(model, tokenizer, partial)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, Exception):
            raise ExportError(f"could not write the pruned model to {target}: {error}") from error
        raise
    return target


def weights_sha256(checkpoint: Path) -> str:
    """One digest for all weights files of a checkpoint; the file's own when there is one."""
    digests = [file_sha256(path) for path in sorted(checkpoint.glob("*.safetensors"))]
    return digests[0] if len(digests) == 1 else digest_of(digests)
