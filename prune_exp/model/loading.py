"""Load and save models, and what a loaded one is made of."""

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from prune_exp.machine.display import first_line
from prune_exp.model.architectures import check_variant
from prune_exp.settings.errors import SettingError

WEIGHTS_FILE = "model.safetensors"
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
    if not any(folder.glob("*.safetensors")):
        raise SettingError(f"model.path={folder} has no .safetensors file; only those are read")
    return config


def load_model(folder: Path, *, device: str = "cpu", dtype: str = "float32") -> Any:
    """Loads a checkpoint for inference; its weights come from safetensors only.

    Code that comes with it is never run, and what refers to such code is forgotten.

    Raises:
        SettingError: weights are missing, which would otherwise be made up at random.
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
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise SettingError(
            f"the checkpoint in {folder} lacks {len(missing)} weights, among them {missing[0]}; use"
            " a complete one"
        )
    vars(model.config).pop("auto_map", None)
    return model.to(device).eval().requires_grad_(False)


def load_skeleton(folder: Path) -> Any:
    """The checkpoint's model without weights, to ask for its shape before loading anything."""
    with silence_transformers(), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    model.tie_weights()
    return model


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


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes a checkpoint that stock `from_pretrained` loads."""
    with silence_transformers():
        model.save_pretrained(folder)
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
