"""Tiny models, made on the spot."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

GROUPED = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3")
"""Families whose heads can be removed."""


MODEL_TYPES = (*GROUPED, "gpt2", "opt", "gpt_neox")


EXTRA: dict[str, dict[str, Any]] = {
    "gemma3_text": {"sliding_window": 8, "sliding_window_pattern": 2},
    "gpt2": {"n_inner": 48, "n_positions": 256},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}
"""What families call by other names."""


def make_tiny(
    model_type: str, *, tie: bool = True, seed: int = 0, vocab: int = 300, **larger: Any
) -> Any:
    """A randomly initialised decoder: 4 layers, 4 query heads on 2 key/value heads.

    `larger` are sizes and the like by the config's names.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    sizes = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tie,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }
    if model_type in GROUPED:
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    config = AutoConfig.for_model(model_type, **sizes | EXTRA.get(model_type, {}) | larger)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def count_loads(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[Path]:
    """Folders of the models that a module has loaded since, a growing list."""
    load, loads = module.load_model, []

    def counted(folder: Path, **how: Any) -> Any:
        loads.append(folder)
        return load(folder, **how)

    monkeypatch.setattr(module, "load_model", counted)
    return loads
