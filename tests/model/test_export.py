"""A checkpoint is written whole or not at all."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from prune_exp.model import loading
from prune_exp.model.export import (
    ExportError,
    choose_export_dtype,
    export_model,
    weights_sha256,
)
from support.models import make_tiny
from support.tokenizers import make_tokenizer


def test_a_full_disk_leaves_no_partial_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny("llama")

    def full(_model: Any, _tokenizer: Any, folder: Path, _weights: Any) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loading, "save_model", full)
    with pytest.raises(ExportError, match="No space left"):
        export_model(model, make_tokenizer(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 64,
}
GEMMA = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
}


@pytest.mark.parametrize(
    ("kind", "rope", "older"),
    [
        ("llama", LLAMA3, {"rope_theta": 5e5, "factor": 8.0}),
        ("qwen2", {"rope_type": "default", "rope_theta": 1e6}, {"rope_theta": 1e6}),
        ("qwen3", {"rope_type": "linear", "rope_theta": 1e6, "factor": 2.0}, {"factor": 2.0}),
        ("gemma3_text", GEMMA, {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "factor": 8.0}),
        ("phi3", LONG, {"rope_theta": 1e4, "type": "longrope"}),
        (
            "gpt_neox",
            {"rope_type": "default", "rope_theta": 5e4, "partial_rotary_factor": 0.5},
            {"rotary_emb_base": 5e4, "rotary_pct": 0.5},
        ),
        ("gpt2", None, {}),
    ],
)
def test_readers_of_older_configs_turn_by_the_same_base(
    kind: str, rope: dict[str, Any] | None, older: dict[str, Any], tmp_path: Path
) -> None:
    """They do not know `rope_parameters`, and would say nothing; the library still knows both."""
    given: dict[str, Any] = {} if rope is None else {"rope_parameters": rope}
    model = make_tiny(kind, **given)  # pyright: ignore[reportArgumentType]
    folder = export_model(model, make_tokenizer(), tmp_path / "model")
    written = json.loads((folder / "config.json").read_text())
    told = written | written.get("rope_scaling", {})
    assert {name: told[name] for name in older} == older
    assert ("rope_scaling" in written) == ("factor" in older or kind == "phi3")
    ids = torch.arange(1, 200)[None]
    stock = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(stock(ids).logits, model(ids).logits)
    written.pop("rope_parameters", None)
    (folder / "config.json").write_text(json.dumps(written))
    as_before = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(as_before(ids).logits, model(ids).logits)


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_nothing_is_written_over(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "model"
    if kind == "folder":
        target.mkdir()
        (target / "mine").write_text("mine", encoding="utf-8")
    elif kind == "file":
        target.write_text("mine", encoding="utf-8")
    else:
        (tmp_path / "elsewhere").mkdir()
        target.symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExportError, match="there already"):
        export_model(make_tiny("llama"), make_tokenizer(), target)
    assert sorted(tmp_path.rglob("*")) == before


def test_weights_survive_export_bit_for_bit(tmp_path: Path) -> None:
    import torch

    model = make_tiny("llama")
    target = export_model(model, make_tokenizer(), tmp_path / "model")
    again = loading.load_model(target)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert len(weights_sha256(target)) == 64


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt_neox"])
def test_what_is_judged_is_what_was_written(kind: str, dtype: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = make_tiny(kind)
    ids = torch.arange(20)[None]
    whole = model(ids).logits
    target = export_model(model, make_tokenizer(), tmp_path / "model", dtype)
    assert loading.read_dtype(target) == dtype
    assert AutoModelForCausalLM.from_pretrained(target).dtype == getattr(torch, dtype)
    now = model(ids).logits
    assert now.dtype == torch.float32
    assert not torch.equal(now, whole)
    assert torch.equal(now, loading.load_model(target)(ids).logits)


@pytest.mark.parametrize(
    ("stored", "wanted", "written"),
    [
        ("bfloat16", "auto", "bfloat16"),
        ("float16", "auto", "float16"),
        ("float32", "auto", "float32"),
        ("float64", "auto", "float32"),
        ("bfloat16", "float32", "float32"),
    ],
)
def test_the_type_is_the_dense_checkpoints_unless_told(
    stored: str, wanted: str, written: str, tmp_path: Path
) -> None:
    import torch

    model = make_tiny("llama").to(getattr(torch, stored))
    model.model.norm.float()  # some keep a few of their weights in another type
    model.save_pretrained(tmp_path)
    assert choose_export_dtype(wanted, tmp_path) == written


def test_values_that_a_type_cannot_hold_are_said(tmp_path: Path) -> None:
    model = make_tiny("llama")
    model.model.layers[0].mlp.down_proj.weight.data[0, 0] = 1e6
    with pytest.raises(ExportError, match=r"cannot hold; type model\.export_dtype=float32"):
        export_model(model, make_tokenizer(), tmp_path / "model", "float16")
    assert list(tmp_path.iterdir()) == []
    assert model.dtype.itemsize == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_no_numbers_are_not_written(dtype: str, tmp_path: Path) -> None:
    model = make_tiny("llama")
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(ExportError, match=r"layers\.1\.mlp\.down_proj.*no numbers"):
        export_model(model, make_tokenizer(), tmp_path / "model", dtype)
    assert list(tmp_path.iterdir()) == []


def test_licences_and_notices_of_the_dense_model_go_along(tmp_path: Path) -> None:
    dense = tmp_path / "dense"
    dense.mkdir()
    for name in ("LICENSE", "LICENSE.md", "NOTICE.txt", "USE_POLICY.md", "README.md"):
        (dense / name).write_text(name, encoding="utf-8")
    (dense / "LICENSES").mkdir()
    target = export_model(make_tiny("llama"), make_tokenizer(), tmp_path / "model", dense=dense)
    found = {path.name: path.read_text(encoding="utf-8") for path in target.glob("*.dense.txt")}
    assert found == {
        "LICENSE.dense.txt": "LICENSE",
        "NOTICE.dense.txt": "NOTICE.txt",
        "USE_POLICY.dense.txt": "USE_POLICY.md",
    }
    assert not loading.foreign_parts(target)


def test_masks_in_a_checkpoint_are_no_weights(tmp_path: Path) -> None:
    """As those of early GPT-NeoX checkpoints, which have more numbers than the weights."""
    import torch
    from safetensors.torch import save_file

    weights = {"w": torch.ones(4, dtype=torch.float16), "mask": torch.ones(99, dtype=torch.bool)}
    save_file(weights, tmp_path / "model.safetensors")
    assert loading.read_dtype(tmp_path) == "float16"
