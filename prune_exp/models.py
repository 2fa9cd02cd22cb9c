"""Load, resize and save decoders. The only file that knows architectures' attribute names."""

import json
import os
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_exp.cache import cached_folder, digest_of, file_sha256
from prune_exp.packaged import package_file
from prune_exp.records import ModelShape
from prune_exp.settings import ModelSettings, SettingError

if TYPE_CHECKING:
    import torch
    from torch import nn

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where the dense model lies, and what identifies its weights."""

    folder: Path
    digest: str


def layers_of(model: Any) -> "nn.ModuleList":
    """The decoder blocks, in order."""
    return model.model.layers


def attention_of(layer: Any) -> Any:
    """The block's attention."""
    return layer.self_attn


def attention_output(layer: Any) -> "nn.Linear":
    """Reads the concatenated heads [.., heads * head_dim], writes the residual stream."""
    return layer.self_attn.o_proj


def mlp_inputs(layer: Any) -> tuple["nn.Linear", "nn.Linear"]:
    """The gate and up projections: row j of each makes channel j."""
    return layer.mlp.gate_proj, layer.mlp.up_proj


def mlp_output(layer: Any) -> "nn.Linear":
    """Reads the channels [.., width], writes the residual stream."""
    return layer.mlp.down_proj


def decoder_of(model: Any) -> Any:
    """The model without its language-model head; returns final hidden states."""
    return model.model


def head_of(model: Any) -> "nn.Linear":
    """The language-model head: hidden [.., hidden] to logits [.., vocab]."""
    return model.lm_head


def shape_of(model: Any) -> ModelShape:
    """Counts a model's sizes from its real tensors."""
    config, layer = model.config, layers_of(model)[0]
    attention = attention_of(layer)
    head_dim = attention.head_dim
    embedding = model.get_input_embeddings().weight
    tied = embedding is head_of(model).weight
    return ModelShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        width=mlp_output(layer).in_features,
        query_heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        vocab=embedding.shape[0],
        params_total=sum(p.numel() for p in model.parameters()),
        params_layer=sum(p.numel() for p in layer.parameters()),
        params_channel=sum(_row_params(m) for m in mlp_inputs(layer)) + config.hidden_size,
        params_query_head=head_dim * (_row_params(attention.q_proj) + config.hidden_size),
        params_kv_head=head_dim * (_row_params(attention.k_proj) + _row_params(attention.v_proj)),
        params_embedding_only=0 if tied else embedding.numel(),
        params_token=embedding.shape[1] * (1 if tied else 2),
    )


def _row_params(linear: "nn.Linear") -> int:
    return linear.in_features + (linear.bias is not None)


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
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise SettingError(
            f"model type {model_type!r} is not supported; supported are {', '.join(MODEL_TYPES)}"
        )
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
    gguf = package_file(package, ".gguf", setting="model.package")
    target = cache_dir / "models" / f"{package}-{version(package)}-{gguf.stat().st_size}"
    return cached_folder(target, lambda folder: _convert_gguf(gguf, folder))


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
        str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
    )
    plain = loaded.config.to_dict()
    plain.pop("quantization_config", None)
    plain.pop("_name_or_path", None)
    config = AutoConfig.for_model(**plain)
    model = from_state(config, loaded.state_dict())
    model.generation_config = loaded.generation_config
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    save(model, tokenizer, folder)


def load(folder: Path) -> Any:
    """Loads a checkpoint in fp32 for inference; its weights come from safetensors only."""
    import torch
    from transformers import AutoModelForCausalLM

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, attn_implementation="sdpa"
        )
    return model.eval().requires_grad_(False)


def skeleton(folder: Path) -> Any:
    """The checkpoint's model without weights, to ask for its shape before loading anything."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with quiet(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    model.tie_weights()
    return model


def load_tokenizer(folder: Path) -> Any:
    """Loads a checkpoint's tokenizer; remote code is never run."""
    from transformers import AutoTokenizer

    with quiet():
        return AutoTokenizer.from_pretrained(folder)


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


def from_state(config: Any, state: dict[str, "torch.Tensor"]) -> Any:
    """Builds a model around existing tensors, without a second copy of them."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    missing = model.load_state_dict(state, strict=False, assign=True).missing_keys
    model.tie_weights()
    assert not [key for key in missing if key != "lm_head.weight"], missing
    _restore_buffers(model, config)
    return model.eval().requires_grad_(False)


def _restore_buffers(model: Any, config: Any) -> None:
    """Computes the buffers that checkpoints do not hold (rotary frequencies)."""
    decoder = decoder_of(model)
    decoder.rotary_emb = type(decoder.rotary_emb)(config=config)


def keep_heads(layer: Any, kept: Sequence[int]) -> None:
    """Removes all query heads but `kept` from a block, in place.

    A key/value head goes when no query head of its group is left; groups that stay must be equal
    in size, or stock attention could not run the block.
    """
    attention = attention_of(layer)
    per_group, dim = attention.num_key_value_groups, attention.head_dim
    groups = sorted({head // per_group for head in kept})
    left = len(kept) // len(groups)
    assert sorted(kept) == list(kept), kept
    assert all(sum(head // per_group == g for head in kept) == left for g in groups), kept
    queries, keys = _blocks(kept, dim), _blocks(groups, dim)
    attention.q_proj = _rows(attention.q_proj, queries)
    attention.k_proj = _rows(attention.k_proj, keys)
    attention.v_proj = _rows(attention.v_proj, keys)
    attention.o_proj = _columns(attention.o_proj, queries)
    attention.num_key_value_groups = left


def keep_channels(layer: Any, kept: Sequence[int]) -> None:
    """Removes all MLP channels but `kept` from a block, in place."""
    import torch

    index = torch.tensor(kept, dtype=torch.long)
    layer.mlp.gate_proj = _rows(layer.mlp.gate_proj, index)
    layer.mlp.up_proj = _rows(layer.mlp.up_proj, index)
    layer.mlp.down_proj = _columns(layer.mlp.down_proj, index)
    layer.mlp.intermediate_size = len(kept)


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
    trimmed = from_state(config, state)
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


def _blocks(heads: Sequence[int], dim: int) -> "torch.Tensor":
    import torch

    starts = torch.tensor(heads, dtype=torch.long) * dim
    return (starts[:, None] + torch.arange(dim)).flatten()


def _rows(linear: "nn.Linear", index: "torch.Tensor") -> "nn.Linear":
    bias = None if linear.bias is None else linear.bias[index]
    return _linear(linear.weight[index], bias)


def _columns(linear: "nn.Linear", index: "torch.Tensor") -> "nn.Linear":
    return _linear(linear.weight[:, index].contiguous(), linear.bias)


def _linear(weight: "torch.Tensor", bias: "torch.Tensor | None") -> "nn.Linear":
    import torch
    from torch import nn

    new = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    new.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        new.bias = nn.Parameter(bias.detach(), requires_grad=False)
    assert new.weight.dtype == torch.float32
    return new


def rebuild(model: Any, kept_layers: Sequence[int]) -> Any:
    """A stock model of the kept blocks, whose config says their (equal) new shape."""
    import copy

    from torch import nn

    config, blocks = copy.deepcopy(model.config), layers_of(model)
    first = blocks[kept_layers[0]]
    attention = attention_of(first)
    config.num_hidden_layers = len(kept_layers)
    config.intermediate_size = mlp_output(first).in_features
    config.head_dim = attention.head_dim
    config.num_attention_heads = attention.q_proj.out_features // attention.head_dim
    config.num_key_value_heads = attention.k_proj.out_features // attention.head_dim
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in kept_layers]
    model.model.layers = nn.ModuleList(blocks[i] for i in kept_layers)
    pruned = from_state(config, model.state_dict())
    pruned.generation_config = model.generation_config
    return pruned
