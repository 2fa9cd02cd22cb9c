"""Layers that stay on disk are read when they are used, and let go afterwards."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from prune_exp.model import loading
from prune_exp.model.architectures import layers_of, shape_of
from prune_exp.model.export import export_model
from prune_exp.model.offload import at_hand, is_on_disk, open_model, whole_state
from prune_exp.settings.errors import SettingError
from support.models import MODEL_TYPES, make_tiny
from support.tokenizers import make_tokenizer

IDS = torch.randint(1, 300, (2, 24), generator=torch.Generator().manual_seed(1))


def open_from(folder: Path, scratch: Path) -> Any:
    scratch.mkdir(exist_ok=True)
    return open_model(folder, device="cpu", scratch=scratch, convert=lambda _, weight: weight)


def present(model: Any) -> list[int]:
    """Layers that have their weights."""
    return [
        number
        for number, layer in enumerate(layers_of(model))
        if not any(one.is_meta for one in layer.module.parameters())
    ]


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_it_computes_what_the_loaded_model_does(model_type: str, tie: bool, tmp_path: Path) -> None:
    make_tiny(model_type, tie=tie).save_pretrained(tmp_path / "m", max_shard_size="20KB")
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 2
    loaded = loading.load_model(tmp_path / "m")
    opened = open_from(tmp_path / "m", tmp_path / "scratch")
    assert is_on_disk(opened)
    assert not is_on_disk(loaded)
    assert present(opened) == []
    with torch.no_grad():
        assert torch.equal(opened(IDS).logits, loaded(IDS).logits)
    assert present(opened) == []
    assert list((tmp_path / "scratch").iterdir()) == []
    assert shape_of(opened) == shape_of(loaded)
    assert opened.generation_config.to_dict() == loaded.generation_config.to_dict()


def test_a_model_that_is_not_changed_is_written_as_it_is(tmp_path: Path) -> None:
    make_tiny("llama").to(torch.bfloat16).save_pretrained(tmp_path / "m")
    for name, model in {
        "loaded": loading.load_model(tmp_path / "m"),
        "opened": open_from(tmp_path / "m", tmp_path / "scratch"),
    }.items():
        export_model(model, make_tokenizer(), tmp_path / name)
    files = {path.name: path.read_bytes() for path in (tmp_path / "loaded").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "opened").iterdir()} == files


def test_what_is_changed_while_at_hand_is_kept(tmp_path: Path) -> None:
    make_tiny("llama").save_pretrained(tmp_path / "m")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    model = open_from(tmp_path / "m", tmp_path / "scratch")
    layer = layers_of(model)[1]
    with at_hand(layer.module), at_hand(layer.module):
        assert present(model) == [1]
        halved = torch.nn.Parameter(layer.mlp_out.weight[:, :24].clone(), requires_grad=False)
        layer.mlp_out.weight = halved
    assert present(model) == []
    assert layer.width == 24
    state = whole_state(model)
    assert state is not None
    assert torch.equal(state["model.layers.1.mlp.down_proj.weight"], halved)
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before


def test_a_layer_can_be_changed_again(tmp_path: Path) -> None:
    make_tiny("llama").save_pretrained(tmp_path / "m")
    model = open_from(tmp_path / "m", tmp_path / "scratch")
    layer = layers_of(model)[0]
    for width in (40, 24):
        with at_hand(layer.module):
            expected = layer.mlp_out.weight[:, -width:].clone()
            layer.mlp_out.weight = torch.nn.Parameter(expected, requires_grad=False)
    with at_hand(layer.module):
        assert torch.equal(layer.mlp_out.weight, expected)
        untouched = loading.load_model(tmp_path / "m").model.layers[0].mlp.up_proj.weight
        assert torch.equal(layer.part("mlp.up_proj").weight, untouched)
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["0.safetensors"]


def test_what_is_changed_before_an_error_is_not_kept(tmp_path: Path) -> None:
    make_tiny("llama").save_pretrained(tmp_path / "m")
    model = open_from(tmp_path / "m", tmp_path / "scratch")
    layer = layers_of(model)[1]

    def change_and_fail() -> None:
        with at_hand(layer.module):
            layer.mlp_out.weight = torch.nn.Parameter(torch.zeros(32, 48), requires_grad=False)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change_and_fail()
    assert present(model) == []
    with at_hand(layer.module):
        assert bool(layer.mlp_out.weight.any())


@pytest.mark.parametrize("model_type", ["gpt2", "opt"])
def test_a_base_models_names_are_known(model_type: str, tmp_path: Path) -> None:
    make_tiny(model_type).save_pretrained(tmp_path / "m")
    expected = loading.load_model(tmp_path / "m")(IDS).logits
    path = tmp_path / "m" / "model.safetensors"
    prefix = {"gpt2": "transformer.", "opt": "model."}[model_type]
    weights = {name.removeprefix(prefix): one.clone() for name, one in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    assert torch.equal(open_from(tmp_path / "m", tmp_path / "s")(IDS).logits, expected)


def test_a_head_of_its_own_is_kept_whatever_the_config_says(tmp_path: Path) -> None:
    make_tiny("llama", tie=False).save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    opened = open_from(tmp_path / "m", tmp_path / "s")
    assert torch.equal(opened(IDS).logits, loading.load_model(tmp_path / "m")(IDS).logits)
    assert not opened.config.tie_word_embeddings


def test_an_incomplete_checkpoint_is_refused(tmp_path: Path) -> None:
    make_tiny("llama").save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(SettingError, match=r"layers.2.mlp.up_proj"):
        open_from(tmp_path / "m", tmp_path / "s")
