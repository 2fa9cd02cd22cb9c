"""Checkpoints that are not quite what their config says: read rightly, or refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from prune_exp.model import assembly, loading
from prune_exp.model.architectures import head_of, shape_of
from prune_exp.pruning import surgery
from prune_exp.settings.errors import SettingError
from support.models import make_tiny
from support.plans import empty_plan
from support.tokenizers import make_tokenizer

Weights = dict[str, torch.Tensor]
FAMILIES = ["llama", "gpt2", "opt", "gpt_neox", "phi3"]


def save_changed(folder: Path, change: Callable[[Weights], Any], kind: str = "llama") -> Path:
    """A tied checkpoint whose weights were changed afterwards, but not its config."""
    make_tiny(kind).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def put_head(weights: Weights) -> None:
    chance = torch.Generator().manual_seed(7)
    weights["lm_head.weight"] = 0.3 * torch.randn(300, 32, generator=chance)


def repeat_embedding(weights: Weights) -> None:
    (name,) = [one for one in weights if one.endswith(loading.EMBEDDINGS)]
    weights["lm_head.weight"] = weights[name].clone()


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_head_of_its_own_is_kept_whatever_the_config_says(kind: str, tmp_path: Path) -> None:
    folder = save_changed(tmp_path / "dense", put_head, kind)
    own = load_file(folder / "model.safetensors")["lm_head.weight"]
    skeleton = loading.load_skeleton(folder)
    dense = loading.load_model(folder)
    assert shape_of(skeleton) == shape_of(dense)
    tied = loading.load_skeleton(save_changed(tmp_path / "tied", lambda _: None, kind))
    assert shape_of(dense).params_total - shape_of(tied).params_total == own.numel()
    pruned = surgery.carry_out_plan(dense, empty_plan(layers=(1,)), None)
    loading.save_model(pruned, make_tokenizer(), tmp_path / "pruned")
    assert torch.equal(head_of(loading.load_model(tmp_path / "pruned")).weight, own)
    config = json.loads((tmp_path / "pruned" / "config.json").read_text(encoding="utf-8"))
    assert config["tie_word_embeddings"] is False


@pytest.mark.parametrize("kind", FAMILIES)
def test_an_embedding_that_is_stored_twice_is_one(kind: str, tmp_path: Path) -> None:
    folder = save_changed(tmp_path / "dense", repeat_embedding, kind)
    skeleton = loading.load_skeleton(folder)
    assert shape_of(skeleton) == shape_of(loading.load_model(folder))
    assert skeleton.config.tie_word_embeddings


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("tie", [True, False])
def test_a_skeleton_has_the_models_shape(kind: str, tie: bool, tmp_path: Path) -> None:
    make_tiny(kind, tie=tie).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    (tmp_path / "consolidated.safetensors").write_bytes(b"another format")
    skeleton = loading.load_skeleton(tmp_path)
    assert {one.device.type for one in skeleton.parameters()} == {"meta"}
    assert shape_of(skeleton) == shape_of(loading.load_model(tmp_path))


def test_what_has_another_head_is_refused_by_name(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    config = make_tiny("llama").config
    classifier = AutoModelForSequenceClassification.from_config(config)
    classifier.save_pretrained(tmp_path / "classifier")
    reward = save_changed(
        tmp_path / "reward", lambda weights: weights.update({"v_head.weight": torch.ones(1, 32)})
    )
    for folder, name in ((tmp_path / "classifier", "score.weight"), (reward, "v_head.weight")):
        for read in (loading.load_skeleton, loading.load_model):
            with pytest.raises(SettingError, match=f"no place for, among them {name}") as refused:
                read(folder)
            assert "\n" not in str(refused.value)


def test_weights_that_old_checkpoints_have_besides_are_no_reason(tmp_path: Path) -> None:
    def add_frequencies(weights: Weights) -> None:
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    folder = save_changed(tmp_path, add_frequencies)
    assert shape_of(loading.load_skeleton(folder)) == shape_of(loading.load_model(folder))


def test_a_constant_that_old_gpt2_checkpoints_have_is_no_reason(tmp_path: Path) -> None:
    def add_constant(weights: Weights) -> None:
        weights["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)

    folder = save_changed(tmp_path, add_constant, "gpt2")
    assert shape_of(loading.load_skeleton(folder)) == shape_of(loading.load_model(folder))


def test_an_adapter_beside_a_model_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    """It would be put on top of weights that may have it already."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SettingError, match=r"adapter_config\.json\) beside the model.*merge it"):
        loading.read_model_config(folder)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8"])
def test_quantized_checkpoints_are_refused(method: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": method}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(SettingError, match=rf"is quantized \({method}\)"):
        loading.read_model_config(folder)


def test_what_is_missing_or_of_another_size_is_said_before_anything_is_loaded(
    tmp_path: Path,
) -> None:
    name = "model.layers.3.mlp.down_proj.weight"
    short = save_changed(tmp_path / "short", lambda weights: weights.pop(name))
    with pytest.raises(SettingError, match=f"lacks 1 weights, among them {name}"):
        loading.load_skeleton(short)
    narrow = save_changed(
        tmp_path / "narrow", lambda weights: weights.update({name: torch.ones(32, 40)})
    )
    with pytest.raises(SettingError, match=r"not of the sizes that its config\.json says"):
        loading.load_skeleton(narrow)
    make_tiny("llama").save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    (gone, *_) = sorted((tmp_path / "parts").glob("*.safetensors"))
    gone.unlink()
    with pytest.raises(SettingError, match=f"lacks {gone.name}"):
        loading.load_skeleton(tmp_path / "parts")


def test_generation_settings_that_contradict_each_other_can_be_written(tmp_path: Path) -> None:
    """A temperature without sampling, as many published checkpoints have it."""
    dense = tmp_path / "dense"
    make_tiny("llama").save_pretrained(dense)
    odd = {"temperature": 0.6, "top_p": 0.9, "length_penalty": 2.0, "eos_token_id": 0}
    (dense / "generation_config.json").write_text(json.dumps(odd), encoding="utf-8")
    model = loading.load_model(dense)
    smaller = assembly.keep_tokens(model, range(290))
    loading.save_model(smaller, make_tokenizer(), tmp_path / "smaller")
    written = json.loads((tmp_path / "smaller" / "generation_config.json").read_text())
    assert not {"temperature", "top_p", "length_penalty"} & written.keys()
    assert written["eos_token_id"] == 0
    fine = {"temperature": 0.6, "do_sample": True}
    (dense / "generation_config.json").write_text(json.dumps(fine), encoding="utf-8")
    kept = loading.load_model(dense).generation_config
    assert (kept.temperature, kept.do_sample) == (0.6, True)
