"""Find, load, rebuild and save models."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_exp.architectures import Heads, blocks_of, check_variant, part
from prune_exp.cache import cached_folder, digest_of, file_sha256
from prune_exp.packaged import package_file, package_parts
from prune_exp.records import ModelShape
from prune_exp.settings import ModelSettings, SettingError

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHTS_FILE = "model.safetensors"
STOCK_FILES = (".safetensors", ".json", ".jinja", ".md", ".txt", ".model")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where the dense model lies, and what identifies its weights."""

    folder: Path
    digest: str


def decoder_of(model: Any) -> Any:
    """The model without its language-model head; returns final hidden states."""
    return model.base_model


def head_of(model: Any) -> "nn.Linear":
    """The language-model head: hidden [.., hidden] to logits [.., vocab]."""
    return model.get_output_embeddings()


def shape_of(model: Any) -> ModelShape:
    """Counts a model's sizes from its real tensors."""
    config, blocks = model.config, blocks_of(model)
    first = blocks[0]
    embedding = model.get_input_embeddings().weight
    tied = embedding is head_of(model).weight
    query_params, group_params = first.head_params
    return ModelShape(
        layers=len(blocks),
        hidden=config.hidden_size,
        width=first.width,
        query_heads=first.heads.queries,
        kv_heads=first.heads.groups,
        head_dim=first.heads.dim,
        free_heads=first.family.free_heads,
        vocab=embedding.shape[0],
        params_total=sum(p.numel() for p in model.parameters()),
        params_layer=sum(p.numel() for p in first.module.parameters()),
        params_channel=first.channel_params,
        params_query_head=query_params,
        params_kv_head=group_params,
        params_embedding_only=0 if tied else embedding.numel(),
        params_token=embedding.shape[1] * (1 if tied else 2),
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Reads and checks a checkpoint's config.json without importing torch.

    Raises:
        SettingError: no such folder, no config, or an architecture that cannot be pruned.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise SettingError(f"model.path={folder} is not a folder; give one that holds a checkpoint")
    if not path.is_file():
        raise SettingError(f"model.path={folder} has no config.json; it is not a checkpoint folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingError(f"{path} is not valid JSON: {error}") from None
    check_variant(config)
    if not any(folder.glob("*.safetensors")):
        raise SettingError(f"model.path={folder} has no .safetensors file; only those are read")
    return config


def locate(settings: ModelSettings, cache_dir: Path) -> ModelSource:
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
    config = read_config(folder)
    return ModelSource(folder=folder, digest=digest_of(config, _weights_digest(folder, cache_dir)))


def _weights_digest(folder: Path, cache_dir: Path) -> list[str]:
    """sha256 of every weights file, remembered by path, size and time of change."""
    digests = []
    for path in sorted(folder.glob("*.safetensors")):
        stat = path.stat()
        key = digest_of(str(path), stat.st_size, stat.st_mtime_ns)
        note = cache_dir / "digests" / key
        if not note.is_file():
            note.parent.mkdir(parents=True, exist_ok=True)
            partial = note.with_suffix(f".{os.getpid()}")
            partial.write_text(file_sha256(path), encoding="ascii")
            os.replace(partial, note)
        digests.append(note.read_text(encoding="ascii"))
    return digests


def _from_package(package: str, cache_dir: Path) -> Path:
    parts = package_parts(package) or [package_file(package, ".gguf", setting="model.package")]
    size = sum(one.stat().st_size for one in parts)
    target = cache_dir / "models" / f"{package}-{version(package)}-{size}"
    return cached_folder(target, lambda folder: _convert_parts(parts, folder))


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
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SettingError(f"model.hub_id={hub_id} at {revision} cannot be had: {first}") from None


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """Writes a stock fp32 checkpoint from a quantized GGUF file.

    The loader marks the model as quantized, which forbids saving it, so the weights move into a
    plain model built from the same config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

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
    save(model, tokenizer, folder)


def load(folder: Path, *, device: str = "cpu", dtype: str = "float32") -> Any:
    """Loads a checkpoint for inference; its weights come from safetensors only.

    Code that comes with it is never run, and what refers to such code is forgotten.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            attn_implementation="sdpa",
            trust_remote_code=False,
        )
    vars(model.config).pop("auto_map", None)
    return model.to(device).eval().requires_grad_(False)


def skeleton(folder: Path) -> Any:
    """The checkpoint's model without weights, to ask for its shape before loading anything."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with quiet(), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    model.tie_weights()
    return model


def load_tokenizer(folder: Path) -> Any:
    """Loads a checkpoint's tokenizer; remote code is never run."""
    from transformers import AutoTokenizer

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tokenizer.init_kwargs.pop("auto_map", None)
    return tokenizer


def foreign_parts(folder: Path) -> list[str]:
    """What a stock checkpoint has no need of: code, pickles, links, references to code."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink() or (path.is_file() and path.suffix not in STOCK_FILES):
            found.append(name)
        elif path.suffix == ".json" and "auto_map" in _json_keys(path):
            found.append(f"{name} (auto_map)")
    return found


def _json_keys(path: Path) -> set[str]:
    value = json.loads(path.read_text(encoding="utf-8"))
    return set(value) if isinstance(value, dict) else set()


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes a checkpoint that stock `from_pretrained` loads."""
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def quiet() -> Any:
    """Silences the library's own bars and warnings, and leaves its settings as they were."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def from_state(config: Any, state: dict[str, "torch.Tensor"], like: Any) -> Any:
    """Builds a model around existing tensors, without a second copy of them.

    Buffers that checkpoints do not hold (rotary frequencies, scales) come from `like`, a model
    of the same family.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    left = [name for name, value in model.named_parameters() if value.is_meta]
    assert not left, left
    _copy_buffers(model, like)
    return model.eval().requires_grad_(False)


def _copy_buffers(model: Any, like: Any) -> None:
    known = dict(like.named_buffers())
    for name, buffer in list(model.named_buffers()):
        if buffer.is_meta:
            owner, _, last = name.rpartition(".")
            part(model, owner)._buffers[last] = known[name].clone()


def keep_tokens(model: Any, kept: Sequence[int]) -> Any:
    """A stock model that knows only the tokens `kept`, whose ids are their places in it."""
    import copy

    import torch

    state, config = model.state_dict(), copy.deepcopy(model.config)
    index = torch.tensor(kept, dtype=torch.long)
    for weight in {id(m.weight): m.weight for m in _token_modules(model)}.values():
        rows = weight.detach()[index]
        for name, value in state.items():
            if value.data_ptr() == weight.data_ptr():
                state[name] = rows
    config.vocab_size = len(kept)
    generation = copy.deepcopy(model.generation_config)
    for settings in (config, generation):
        _renumber_special(settings, {old: place for place, old in enumerate(kept)})
    trimmed = from_state(config, state, model)
    trimmed.generation_config = generation
    return trimmed


def _token_modules(model: Any) -> tuple[Any, Any]:
    return model.get_input_embeddings(), head_of(model)


def _renumber_special(settings: Any, new: dict[int, int]) -> None:
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
        value = getattr(settings, name, None)
        if isinstance(value, list):
            setattr(settings, name, [new[i] for i in value if i in new])
        elif value is not None:
            setattr(settings, name, new.get(value))


def rebuild(model: Any, kept_layers: Sequence[int], heads: Heads) -> Any:
    """A stock model of the kept blocks, whose config says their (equal) new shape.

    `heads` is what every block that stays has left.
    """
    import copy

    from torch import nn

    config, blocks = copy.deepcopy(model.config), blocks_of(model)
    first = blocks[kept_layers[0]]
    config.num_hidden_layers = len(kept_layers)
    setattr(config, first.family.width, first.width)
    if first.family.free_heads:
        config.head_dim = heads.dim
        config.num_attention_heads = heads.queries
        config.num_key_value_heads = heads.groups
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in kept_layers]
    owner, _, name = first.family.blocks.rpartition(".")
    holder = part(model.base_model, owner) if owner else model.base_model
    setattr(holder, name, nn.ModuleList(blocks[i].module for i in kept_layers))
    pruned = from_state(config, model.state_dict(), model)
    pruned.generation_config = model.generation_config
    return pruned
