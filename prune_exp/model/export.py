"""Write a pruned model, whole or not at all."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from prune_exp.machine.cache import digest_of, file_sha256
from prune_exp.machine.staging import make_partial
from prune_exp.model import loading
from prune_exp.model.offload import whole_state
from prune_exp.settings.choices import EXPORT_DTYPES


class ExportError(RuntimeError):
    """The pruned model could not be written."""


def export_model(model: Any, tokenizer: Any, target: Path, dtype: str = "float32") -> Path:
    """Writes a stock checkpoint to `target`, whole or not at all, and over nothing.

    The weights are written as `dtype`. The model computes in float32 as before, with the values
    that were written.

    Raises:
        ExportError: `target` is there already, or writing failed, for instance because the disk
            is full.
    """
    if target.exists() or target.is_symlink():
        raise ExportError(f"{target} is there already, and nothing is written over it")
    scratch = make_partial(target)
    try:
        _convert_weights(model, dtype)
        loading.save_model(model, tokenizer, scratch / target.name, whole_state(model))
        os.replace(scratch / target.name, target)
    except Exception as error:
        raise ExportError(f"could not write the pruned model to {target}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for weight in model.parameters():
            weight.data = weight.data.float()
    return target


def _convert_weights(model: Any, dtype: str) -> None:
    """Gives weights another type in place; buffers (rotary frequencies, scales) keep theirs.

    Weights of layers that stay on disk have got it there.
    """
    for name, weight in model.named_parameters():
        if not weight.is_meta:
            weight.data = convert_weight(name, weight.data, dtype)


def convert_weight(name: str, weight: torch.Tensor, dtype: str) -> torch.Tensor:
    """A weight as it is written.

    Raises:
        ExportError: it has values that are no numbers, or that the type cannot hold.
    """
    converted = weight.to(getattr(torch, dtype))
    if not bool(torch.isfinite(converted).all()):
        if not bool(torch.isfinite(weight).all()):
            raise ExportError(f"{name} has values that are no numbers")
        raise ExportError(
            f"{name} has values that {dtype} cannot hold; type model.export_dtype=float32"
        )
    return converted


def choose_export_dtype(wanted: str, dense: Path) -> str:
    """The type that `auto` stands for: that of most of the dense checkpoint's weights."""
    if wanted != "auto":
        return wanted
    found = loading.read_dtype(dense)
    return found if found in EXPORT_DTYPES else "float32"


def weights_bytes(checkpoint: Path) -> int:
    """Size of all weights files of a checkpoint."""
    return sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))


def weights_sha256(checkpoint: Path) -> str:
    """One digest for all weights files of a checkpoint; the file's own when there is one."""
    digests = [file_sha256(path) for path in sorted(checkpoint.glob("*.safetensors"))]
    return digests[0] if len(digests) == 1 else digest_of(digests)
