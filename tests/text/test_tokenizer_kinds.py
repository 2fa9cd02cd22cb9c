"""Tokenizers as released models have them: bytes survive, and any of their merges can go."""

import json
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from prune_exp.model.loading import load_tokenizer
from prune_exp.text.corpus import opening_tokens
from prune_exp.text.token_bytes import first_pieces, make_reencoder, recoder_of
from prune_exp.text.tokenizer import order_scores, read_vocabulary, trim_tokenizer
from support.tokenizers import ADDED, KINDS, make_tokenizer_like

ODD = "def f():\n\t\t\t\tif 12345:\n        return '｜▁'  # 你好 мост é e\u0301  \n"


@cache
def tokenizer_of(kind: str) -> Any:
    return make_tokenizer_like(kind)


@cache
def trimmed_of(kind: str, count: int) -> tuple[Any, list[int]]:
    tokenizer = tokenizer_of(kind)
    noise = torch.rand(len(tokenizer), generator=torch.Generator().manual_seed(count))
    gone = order_scores(noise, read_vocabulary(tokenizer)).argsort()[:count].tolist()
    return trim_tokenizer(tokenizer, gone, len(tokenizer))


def as_read(kind: str, text: str) -> bytes:
    """A text's bytes, as a tokenizer that composes letters reads them."""
    composed = unicodedata.normalize("NFC", text) if kind in ("qwen", "pythia") else text
    return composed.encode()


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.one_of(st.text(max_size=40), st.text("ab \n\té<｜▁", max_size=40)))
@settings(max_examples=25, deadline=None)
def test_bytes_survive_both_ways_and_any_cut(kind: str, text: str) -> None:
    clean = text.encode("utf-8", errors="ignore").decode()
    for given_text in (clean, ODD, "".join([*ADDED[kind][0], *ADDED[kind][1]])):
        dense = tokenizer_of(kind)
        ids = dense(given_text, add_special_tokens=False)["input_ids"]
        data = recoder_of(dense).bytes_of(ids)
        assert data == as_read(kind, given_text)
        for count in (5, 40):
            trimmed, _ = trimmed_of(kind, count)
            smaller = recoder_of(trimmed)
            assert smaller.bytes_of(smaller.ids_of(data)) == data


@pytest.mark.parametrize("kind", KINDS)
def test_trimmed_ones_are_stock_and_name_the_same_tokens(kind: str, tmp_path: Path) -> None:
    dense = tokenizer_of(kind)
    trimmed, kept = trimmed_of(kind, 40)
    trimmed.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.get_vocab() == trimmed.get_vocab()
    assert again(ODD)["input_ids"] == trimmed(ODD)["input_ids"]
    for token, new in trimmed.get_vocab().items():
        assert dense.get_vocab()[token] == kept[new]
    for name in [*ADDED[kind][0], *ADDED[kind][1]]:
        assert name in trimmed.get_vocab(), "what was added behind the merges always stays"
    first = [kept[i] for i in opening_tokens(trimmed)]
    assert first == opening_tokens(dense)
    assert bool(first) == (kind in ("llama3", "deepseek"))


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_judged_in_both_vocabularies(kind: str) -> None:
    dense = tokenizer_of(kind)
    trimmed, kept = trimmed_of(kind, 40)
    ids = torch.tensor(dense(ODD + ODD)["input_ids"])
    own = make_reencoder(dense, trimmed)(ids)
    assert recoder_of(trimmed).bytes_of(own.tolist()) == recoder_of(dense).bytes_of(ids.tolist())
    assert int(first_pieces(dense, trimmed, kept, len(dense)).max()) < len(kept)


@pytest.mark.parametrize("kind", KINDS)
def test_text_inside_text_gets_no_space_and_has_no_end(kind: str) -> None:
    """However a tokenizer treats a whole text: some put a space before it, or cut it."""
    plain = tokenizer_of(kind)
    spec = json.loads(plain.backend_tokenizer.to_str())
    changed = json.dumps(spec).replace('"add_prefix_space": false', '"add_prefix_space": true')
    assert changed != json.dumps(spec)
    backend = Tokenizer.from_str(changed)
    backend.enable_truncation(5)
    other = type(plain)(tokenizer_object=backend)
    text = "stone over\nthe river"
    ids = recoder_of(plain).ids_of(text.encode())
    assert recoder_of(other).ids_of(text.encode()) == ids
    assert len(ids) > 5
    assert recoder_of(other).bytes_of(ids) == text.encode()
