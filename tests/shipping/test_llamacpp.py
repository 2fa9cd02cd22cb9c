"""Stock llama.cpp opens what is written, where it is installed (the extra `ship`)."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from prune_exp.settings.command_schemas import ShipSettings
from prune_exp.shipping import runtimes
from prune_exp.shipping import ship as whole
from prune_exp.shipping.comparison import Shipment, compare_file
from prune_exp.shipping.gguf_file import check_gguf, write_gguf
from prune_exp.shipping.gguf_model import ARCHITECTURES
from prune_exp.text.tokenizer import read_vocabulary, trim_tokenizer
from support.shipping import TEXT, reference_of, save_tiny
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
    assert found.kl_nats > -1e-9


def test_distributions_that_do_not_add_up_to_one_are_made_to() -> None:
    """As those of a large vocabulary that the server has summed in float32."""

    class Server:
        listening_address = ""

        def handle_completions(self, _asked: Any) -> Any:
            rows = [{"id": i, "logprob": math.log(p)} for i, p in enumerate((0.6, 0.3, 0.3))]
            return {"choices": [{"logprobs": {"content": [{"top_logprobs": rows}]}}]}

    with mock.patch.object(runtimes, "_tokenize_there", return_value=[0]):
        found = runtimes._score_there(Server(), [0, 1, 2], [0, 1])
    assert found == pytest.approx(np.log([[0.5, 0.25, 0.25]] * 2))


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


def test_files_lie_beside_each_other_with_what_was_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp")
    checkpoint = save_tiny(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n\n".join(TEXT * 20))
    trial = SimpleNamespace(metrics={"perplexity_ratio": 2.0}, run_id="run")
    model = SimpleNamespace(name="tiny", version="1", trial=trial, folder=checkpoint)
    recorded: list[str] = []
    monkeypatch.setattr(whole, "fetch_shipped", lambda *_: model)
    monkeypatch.setattr(whole, "record_shipment", lambda _, target, *__: recorded.append(target))
    asked = ShipSettings(
        to=["gguf:f32", "gguf:q8_0"],
        output=str(tmp_path / "out"),
        text=str(tmp_path / "text.txt"),
        positions=15,
        max_kl_8_bit=1.0,
        rounds=0,
    )
    assert whole.ship_model(asked) == 0
    assert recorded == ["gguf:f32", "gguf:q8_0"]
    files = ["tiny-f32.gguf", "tiny-q8_0.gguf"]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted([*files, *(f"{name}.json" for name in files)])
    exact, near = (json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in files)
    assert exact["kl_nats"] < 1e-4
    assert near["kl_nats"] > exact["kl_nats"]
    assert exact["note"] == "29 F32"
    assert exact["perplexity_ratio"] == 2 * exact["perplexity_ratio_to_checkpoint"]
    assert "Q8_0" in near["note"]


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
