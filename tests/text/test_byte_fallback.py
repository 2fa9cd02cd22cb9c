"""Fewer tokens of a BPE that falls back on bytes: lossless, stock, the same where it can be."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_exp.measurement import quality
from prune_exp.model import loading
from prune_exp.pruning import surgery
from prune_exp.text.corpus import TokenBlocks, all_blocks, opening_tokens
from prune_exp.text.token_bytes import make_reencoder, recoder_of
from prune_exp.text.tokenizer import BYTES, SPACE, order_scores, read_vocabulary, trim_tokenizer
from support.models import make_tiny
from support.plans import empty_plan
from support.tokenizers import WORDS, make_fallback_tokenizer

TEXT = " ".join(WORDS) + " déjà vu, 你好 and 😀"


KINDS = ("gemma", "llama2", "metaspace")


PIECES = st.sampled_from([*WORDS, " ", "  ", "\n", "é", "你", SPACE, "<0x41>", "<bos>", "<", "�"])


STRINGS = st.one_of(st.text(max_size=30), st.lists(PIECES, max_size=12).map("".join))


@cache
def tokenizer_of(kind: str) -> Any:
    return make_fallback_tokenizer(kind)


def lowest(kind: str, count: int, seed: int = 0) -> list[int]:
    """The first `count` tokens to go under random opinions."""
    tokenizer = tokenizer_of(kind)
    noise = torch.rand(len(tokenizer), generator=torch.Generator().manual_seed(seed))
    return order_scores(noise, read_vocabulary(tokenizer)).argsort()[:count].tolist()


@cache
def trimmed_of(kind: str, share: int, seed: int) -> tuple[Any, list[int]]:
    """A tokenizer without `share` tenths of what it can do without."""
    count = len(read_vocabulary(tokenizer_of(kind)).removable) * share // 10
    return trim_tokenizer(tokenizer_of(kind), lowest(kind, count, seed), len(tokenizer_of(kind)))


CUTS = (st.sampled_from(KINDS), st.integers(0, 10), st.integers(0, 2))


@given(*CUTS, STRINGS)
@settings(max_examples=300, deadline=None)
def test_every_string_decodes_to_what_it_did(kind: str, share: int, seed: int, text: str) -> None:
    old, (new, kept) = tokenizer_of(kind), trimmed_of(kind, share, seed)
    ids = new(text)["input_ids"]
    assert new.decode(ids) == old.decode(old(text)["input_ids"])
    assert new.unk_token_id not in ids
    before = old(text)["input_ids"]
    if set(before) <= set(kept):
        assert [kept[i] for i in ids] == before


@given(*CUTS, st.binary(max_size=12), STRINGS)
@settings(max_examples=200, deadline=None)
def test_bytes_survive_the_way_there_and_back(
    kind: str, share: int, seed: int, data: bytes, text: str
) -> None:
    recoder, data = recoder_of(trimmed_of(kind, share, seed)[0]), data + text.encode()
    assert recoder.bytes_of(recoder.ids_of(data)) == data.replace(SPACE.encode(), b" ")


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_can_go_leaves_bytes_and_specials(kind: str) -> None:
    new, kept = trimmed_of(kind, 10, 0)
    assert set(new.get_vocab()) == {*BYTES, SPACE, "<pad>", "<eos>", "<bos>", "<unk>"}
    assert kept == sorted(kept)
    assert opening_tokens(new) == [new.bos_token_id]


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(0, 9), st.integers(1, 400))
@settings(max_examples=20, deadline=None)
def test_nothing_stays_that_is_built_from_what_goes(kind: str, seed: int, count: int) -> None:
    vocabulary = read_vocabulary(tokenizer_of(kind))
    gone = set(lowest(kind, min(count, len(vocabulary.removable)), seed))
    assert gone <= set(vocabulary.removable)
    for left, right, made in vocabulary.merges:
        if made not in gone:
            assert not {left, right} & gone


def test_a_part_made_by_a_later_merge_still_comes_first() -> None:
    """abc is merged from ab and c before bc exists, and later merges may build it from a and bc."""
    from prune_exp.text.tokenizer import order_merges

    ids = {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "bc": 5}
    merges = [(0, 1, 3), (3, 2, 4), (0, 5, 4), (1, 2, 5)]
    assert [made for _, _, made in order_merges(merges, ids)] == [3, 5, 4, 4]


@pytest.mark.parametrize("model_type", ["gemma3_text", "llama"])
def test_the_model_computes_what_it_did(model_type: str, tmp_path: Path) -> None:
    old, (new, kept) = tokenizer_of("gemma"), trimmed_of("gemma", 6, 0)
    gone = tuple(sorted(set(old.get_vocab().values()) - set(kept)))
    dense, whole = (make_tiny(model_type, vocab=len(old)) for _ in range(2))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for settings_ in (whole.config, whole.generation_config):
            setattr(settings_, name, getattr(old, name))
    pruned = surgery.carry_out_plan(whole, empty_plan(tokens=gone), None)
    ids = torch.tensor(new(TEXT)["input_ids"])[None]
    expected = dense(torch.tensor(kept)[ids]).logits[..., kept]
    loading.save_model(pruned, new, tmp_path)
    again, loaded = loading.load_model(tmp_path), loading.load_tokenizer(tmp_path)
    assert torch.allclose(again(ids).logits, expected, atol=1e-4)
    assert loaded(TEXT)["input_ids"] == ids[0].tolist()
    assert loaded.decode(ids[0]) == old.decode(old(TEXT)["input_ids"])
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        here = getattr(again.config, name), getattr(again.generation_config, name)
        assert here == (getattr(loaded, name),) * 2


def test_quality_is_that_of_the_same_bytes() -> None:
    """What is judged through fewer tokens stands for the same text, begun in the same way."""
    old, (new, _) = tokenizer_of("gemma"), trimmed_of("gemma", 10, 0)
    blocks = all_blocks([TEXT * 4], old, 24)
    text = TokenBlocks(ids=blocks, bytes_scored=1, digest="d", source="s")
    assert set(blocks[:, 0].tolist()) == {old.bos_token_id}
    reencode, dense, own = make_reencoder(old, new), recoder_of(old), recoder_of(new)
    for block in blocks:
        first, ids, _ = quality.split_block(block, torch.zeros_like(block), reencode)
        assert (first, int(ids[0])) == (1, new.bos_token_id)
        assert own.bytes_of(ids[1:].tolist()) == dense.bytes_of(block[1:].tolist())
    model = make_tiny("llama", vocab=len(new))
    found = quality.losses_by_document(model, text, reencode)
    assert len(found.losses) == len(blocks)
    assert int(found.own_tokens.sum()) > blocks[:, 1:].numel()


def test_a_special_tokens_name_is_its_text_also_where_it_looks_like_a_marked_space() -> None:
    tokenizer = make_fallback_tokenizer("gemma")
    name = f"<end{SPACE}of{SPACE}turn>"
    tokenizer.add_special_tokens({"additional_special_tokens": [name]})
    text = f"the river{name}old"
    recoder = recoder_of(tokenizer)
    ids = recoder.ids_of(text.encode())
    assert tokenizer.convert_tokens_to_ids(name) in ids
    assert recoder.bytes_of(ids) == text.encode()
