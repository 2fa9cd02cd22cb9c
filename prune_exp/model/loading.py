"""Load and save models, and what a loaded one is made of."""

import json
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
)
from transformers.utils import logging

from prune_exp.machine.display import first_line
from prune_exp.model.architectures import check_variant
from prune_exp.settings.errors import SettingError

WEIGHTS_FILE = "model.safetensors"
HEADS = ("lm_head.weight", "embed_out.weight")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")
"""How checkpoints call the language-model head and the embedding."""
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Types of weights by their names in safetensors; masks, which some files hold, have others."""
ONLY_SAMPLING = (
    "temperature",
    "top_p",
    "min_p",
    "top_h",
    "typical_p",
    "top_k",
    "epsilon_cutoff",
    "eta_cutoff",
)
ONLY_BEAMS = ("early_stopping", "length_penalty")
"""Settings of generation that count where it samples, or has several beams."""
CONSTANTS = (".attn.masked_bias",)
"""How numbers end that transformers wrote as weights of GPT-2 once; they are the same in all."""
ADAPTER = "adapter_config.json"
STOCK_FILES = (".safetensors", ".json", ".jinja", ".md", ".txt", ".model")


def read_model_config(folder: Path) -> dict[str, Any]:
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
    if (folder / ADAPTER).is_file():
        raise SettingError(
            f"model.path={folder} holds an adapter ({ADAPTER}) beside the model, which would be put"
            " on top of it; merge it, or move its files elsewhere where it is merged already"
        )
    if not any(folder.glob("*.safetensors")):
        raise SettingError(f"model.path={folder} has no .safetensors file; only those are read")
    return config


def load_model(folder: Path, *, device: str = "cpu", dtype: str = "float32") -> Any:
    """Loads a checkpoint for inference; its weights come from safetensors only.

    Code that comes with it is never run, and what refers to such code is forgotten.

    Raises:
        SettingError: weights are missing, which would otherwise be made up at random, or belong to
            another kind of model, and would be lost.
    """
    with silence_transformers():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            attn_implementation="sdpa",
            trust_remote_code=False,
            output_loading_info=True,
        )
    model, found = loaded
    _check_weights(folder, found)
    _remember_own_head(model)
    settle_generation(model.generation_config)
    vars(model.config).pop("auto_map", None)
    return model.to(device).eval().requires_grad_(False)


def load_skeleton(folder: Path) -> Any:
    """The checkpoint's model without weights, to ask for its shape before loading anything.

    Raises:
        SettingError: as `load_model` does, or the weights are of other sizes than the config says.
    """
    with silence_transformers():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        try:
            model, found = kind.from_pretrained(
                None,
                config=config,
                state_dict=_read_contents(folder),
                device_map="meta",
                output_loading_info=True,
            )
        except RuntimeError as error:
            raise SettingError(
                f"the weights in {folder} are not of the sizes that its config.json says"
                f" ({first_line(error)}); use the config.json that they came with"
            ) from None
    _check_weights(folder, found)
    if model.config.tie_word_embeddings and not _is_tied(model) and not _has_own_head(folder):
        model.tie_weights()
    _remember_own_head(model)
    return model


def list_weights_files(folder: Path) -> list[Path]:
    """The files that `from_pretrained` reads; others may lie beside them.

    Raises:
        SettingError: one of them is not there.
    """
    index = folder / f"{WEIGHTS_FILE}.index.json"
    names = [WEIGHTS_FILE]
    if not (folder / WEIGHTS_FILE).is_file() and index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    for name in names:
        if not (folder / name).is_file():
            raise SettingError(f"the checkpoint in {folder} lacks {name}; use a complete one")
    return [folder / name for name in names]


def _read_contents(folder: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's weights by name, without their values."""
    found = {}
    for path in list_weights_files(folder):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                kind = TYPES.get(part.get_dtype(), torch.uint8)
                found[name] = torch.empty(part.get_shape(), dtype=kind, device="meta")
    return found


def read_dtype(folder: Path) -> str:
    """The type that most of a checkpoint's numbers have."""
    counts: Counter[torch.dtype] = Counter()
    for weight in _read_contents(folder).values():
        if weight.is_floating_point():
            counts[weight.dtype] += weight.numel()
    ((most, _),) = counts.most_common(1)
    return str(most).removeprefix("torch.")


def _check_weights(folder: Path, found: dict[str, Any]) -> None:
    """Raises SettingError where a checkpoint has other weights than its model needs."""
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise SettingError(
            f"the checkpoint in {folder} lacks {len(missing)} weights, among them {missing[0]}; use"
            " a complete one"
        )
    other = sorted(key for key in found["unexpected_keys"] if not key.endswith(CONSTANTS))
    if other:
        raise SettingError(
            f"the checkpoint in {folder} has {len(other)} weights that a causal language model has"
            f" no place for, among them {other[0]}, as classifiers and reward models do; they would"
            " be lost, so use the language model itself"
        )


def _has_own_head(folder: Path) -> bool:
    """Whether a checkpoint holds a language-model head that is not its embedding."""
    ends = {"head": HEADS, "embedding": EMBEDDINGS}
    kept: dict[str, torch.Tensor] = {}
    for path in list_weights_files(folder):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                kept |= {role: file.get_tensor(name) for role in ends if name.endswith(ends[role])}
    return len(kept) == len(ends) and not torch.equal(kept["head"], kept["embedding"])


def _is_tied(model: Any) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _remember_own_head(model: Any) -> None:
    """Has the config say so where the head is not the embedding, whatever it said before.

    A model that is built from the config would otherwise lose its head.
    """
    if not _is_tied(model):
        model.config.tie_word_embeddings = False


def settle_generation(config: Any) -> None:
    """Takes out what the config's own way of decoding does not heed, such as a temperature.

    Many published configs have it. The library loads them, and refuses to write them once anything
    else in them has changed.
    """
    try:
        config.validate(strict=True)
        return
    except ValueError:
        pass
    unheeded = [*(() if config.do_sample else ONLY_SAMPLING)]
    unheeded += [*(ONLY_BEAMS if (config.num_beams or 1) == 1 else ())]
    for name in unheeded:
        setattr(config, name, None)


def load_tokenizer(folder: Path) -> Any:
    """Loads a checkpoint's tokenizer; remote code is never run.

    Raises:
        SettingError: it is missing or damaged.
    """
    try:
        with silence_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # parsers in three languages, each with its own kinds
        raise SettingError(
            f"the tokenizer in {folder} cannot be read ({first_line(error)}); put the one that the"
            " model came with there"
        ) from None
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


def save_model(
    model: Any, tokenizer: Any, folder: Path, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Writes a checkpoint that stock `from_pretrained` loads.

    `weights` are all of the model's by name, where they are not with the model.
    """
    with silence_transformers():
        model.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)


@contextmanager
def silence_transformers() -> Any:
    """Silences the library's own bars and warnings, and leaves its settings as they were."""
    level = logging.get_verbosity()
    bar = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
