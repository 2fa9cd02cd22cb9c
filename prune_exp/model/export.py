"""Write a pruned model, whole or not at all."""

import json
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

OLDER_ROPE = {"gpt_neox": ("rotary_emb_base", "rotary_pct")}
"""Families that have names of their own for the base and for the share of a head that turns."""


PAPERS = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
"""Names of files that have to go with a model wherever it goes."""
OF_DENSE = ".dense.txt"
"""How their names end beside a pruned model."""


class ExportError(RuntimeError):
    """The pruned model could not be written."""


def list_papers(dense: Path) -> dict[str, Path]:
    """Licences and notices in a dense model's folder, by the names under which they go along."""
    found = [path for name in PAPERS for path in sorted(dense.glob(name)) if path.is_file()]
    return {f"{path.stem}{OF_DENSE}": path for path in reversed(found)}


def export_model(
    model: Any,
    tokenizer: Any,
    target: Path,
    dtype: str = "float32",
    *,
    dense: Path | None = None,
) -> Path:
    """Writes a stock checkpoint to `target`, whole or not at all, and over nothing.

    The weights are written as `dtype`, licences and notices of the folder `dense` beside them. The
    model computes in float32 as before, with the values that were written.

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
        _tell_older_readers(scratch / target.name / "config.json")
        for name, path in list_papers(dense).items() if dense is not None else ():
            shutil.copyfile(path, scratch / target.name / name)
        os.replace(scratch / target.name, target)
    except Exception as error:
        raise ExportError(f"could not write the pruned model to {target}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for weight in model.parameters():
            weight.data = weight.data.float()
    return target


def _tell_older_readers(path: Path) -> None:
    """Adds a config's rotary settings under the names that they had before transformers 5.

    Readers that know only those would not complain, but turn by the default base.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    told = json.dumps(older_rope(config) | config, indent=2, sort_keys=True)
    path.write_text(f"{told}\n", encoding="utf-8")


def older_rope(config: dict[str, Any]) -> dict[str, Any]:
    """What `rope_parameters` of a config is called in transformers 4."""
    rope = config.get("rope_parameters")
    if not rope:
        return {}
    found: dict[str, Any] = {}
    if "full_attention" in rope:
        found["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    base, share = OLDER_ROPE.get(config["model_type"], ("rope_theta", "partial_rotary_factor"))
    found[base] = rope["rope_theta"]
    if "partial_rotary_factor" in rope:
        found[share] = rope["partial_rotary_factor"]
    if rope.get("rope_type", "default") != "default":
        apart = ("rope_theta", "partial_rotary_factor")
        found["rope_scaling"] = {key: rope[key] for key in rope if key not in apart}
    if rope.get("rope_type") == "longrope" and config["model_type"] == "phi3":
        factors = {key: rope[key] for key in ("short_factor", "long_factor")}
        found["rope_scaling"] = {"type": "longrope"} | factors  # no more, or it is refused
    return found


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
