"""What vLLM knows of the checkpoints that are shipped, where it is installed."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from support.shipping import save_tiny

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3", "gpt2", "opt", "gpt_neox")


@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_has_the_architecture_that_a_config_names(family: str, tmp_path: Path) -> None:
    vllm = pytest.importorskip("vllm")
    config: Any = AutoConfig.from_pretrained(save_tiny(tmp_path / "model", family))
    (named,) = config.architectures
    assert named in vllm.ModelRegistry.get_supported_archs()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_names_one_stock_architecture(family: str, tmp_path: Path) -> None:
    import transformers

    config: Any = AutoConfig.from_pretrained(save_tiny(tmp_path / "model", family))
    (named,) = config.architectures
    assert hasattr(transformers, named)
