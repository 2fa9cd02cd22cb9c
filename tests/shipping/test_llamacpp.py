"""Stock llama.cpp opens what is written, where it is installed (the extra `ship`)."""

from pathlib import Path
from typing import Any

import pytest

from prune_exp.shipping.comparison import Shipment, compare_file
from prune_exp.shipping.gguf_file import check_gguf, write_gguf
from prune_exp.shipping.gguf_model import ARCHITECTURES
from prune_exp.text.tokenizer import read_vocabulary, trim_tokenizer
from support.shipping import reference_of, save_tiny
from support.tokenizers import make_bpe_tokenizer, make_fallback_tokenizer

pytestmark = pytest.mark.slow

SIZES: dict[str, dict[str, Any]] = {"gemma3_text": {"query_pre_attn_scalar": 8}}


def ship(checkpoint: Path, kind: str = "f32", limit: float = 1e-4) -> Shipment:
    pytest.importorskip("xllamacpp")
    if kind == "q4_k_m":
        pytest.importorskip("libgguf")
    check_gguf(checkpoint)
    file = checkpoint.with_suffix(".gguf")
    write_gguf(checkpoint, file, kind, "tiny")
    reference = reference_of(checkpoint)
    return compare_file(f"gguf:{kind}", file, "llama.cpp", reference, threads=1, limit=limit)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_family_says_the_same(family: str, tmp_path: Path) -> None:
    tie = family not in ("qwen2", "gpt_neox")
    found = ship(save_tiny(tmp_path / "model", family, tie=tie, **SIZES.get(family, {})))
    assert found.fault is None, found


@pytest.mark.parametrize("kind", ["bytes", "gemma", "llama2"])
def test_a_trimmed_vocabulary_says_the_same(kind: str, tmp_path: Path) -> None:
    whole = make_bpe_tokenizer(330) if kind == "bytes" else make_fallback_tokenizer(kind)
    gone = read_vocabulary(whole).removable[:40]
    trimmed, _ = trim_tokenizer(whole, gone, len(whole))
    trimmed.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    found = ship(save_tiny(tmp_path / "model", tokenizer=trimmed))
    assert found.fault is None, found


@pytest.mark.parametrize(("kind", "limit"), [("bf16", 0.02), ("q8_0", 0.02), ("q4_k_m", 2.0)])
def test_fewer_bits_stay_near(kind: str, limit: float, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 288, "head_dim": 64}
    found = ship(save_tiny(tmp_path / "model", initializer_range=0.05, **sizes), kind, limit)
    assert found.fault is None, found
    assert found.kl_nats > 1e-9


def test_it_chats_by_the_template(tmp_path: Path) -> None:
    xllamacpp = pytest.importorskip("xllamacpp")
    tokenizer = make_bpe_tokenizer(300)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} over{% endfor %}"
    checkpoint = save_tiny(tmp_path / "model", tokenizer=tokenizer)
    write_gguf(checkpoint, tmp_path / "tiny.gguf", "f32", "tiny")
    params = xllamacpp.CommonParams()
    params.model.path = str(tmp_path / "tiny.gguf")
    server = xllamacpp.Server(params)
    how = {"max_tokens": 8, "temperature": 0}
    asked = {"messages": [{"role": "user", "content": "the old bridge"}]} | how
    chat = server.handle_chat_completions(asked)["choices"][0]["message"]["content"]
    plain = server.handle_completions({"prompt": "the old bridge over"} | how)
    assert chat.rstrip("\ufffd").strip() == plain["choices"][0]["text"].rstrip("\ufffd").strip()
