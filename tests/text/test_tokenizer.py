"""Fewer tokens: every string still encodes, and the model computes what it did."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_exp.measurement import quality
from prune_exp.model import loading
from prune_exp.model.architectures import shape_of
from prune_exp.pruning import surgery
from prune_exp.pruning.consensus import Ballot, condemn
from prune_exp.settings.errors import SettingError
from prune_exp.text.corpus import CalibrationPart, TokenBlocks, token_frequency
from prune_exp.text.token_bytes import first_pieces, recoder_of
from prune_exp.text.tokenizer import (
    count_removable_tokens,
    list_template_tokens,
    order_scores,
    read_vocabulary,
    trim_tokenizer,
)
from support.models import make_tiny
from support.plans import empty_plan
from support.tokenizers import WORDS, make_bpe_tokenizer, make_tokenizer

TOKENIZER = make_bpe_tokenizer()


RECODER = recoder_of(TOKENIZER)


VOCABULARY = read_vocabulary(TOKENIZER)


TEXT = " ".join(WORDS)


def lowest(count: int, seed: int = 0) -> list[int]:
    """The first `count` tokens to go under random opinions."""
    noise = torch.rand(len(TOKENIZER), generator=torch.Generator().manual_seed(seed))
    return order_scores(noise, VOCABULARY).argsort()[:count].tolist()


@given(st.integers(0, len(VOCABULARY.removable)), st.integers(0, 5), st.text(max_size=30))
@settings(max_examples=30, deadline=None)
def test_every_string_survives_any_cut(count: int, seed: int, text: str) -> None:
    trimmed, kept = trim_tokenizer(TOKENIZER, lowest(count, seed), len(TOKENIZER))
    assert len(kept) == len(trimmed) == len(TOKENIZER) - count
    data = text.encode("utf-8", errors="ignore")
    recoder = recoder_of(trimmed)
    assert recoder.bytes_of(recoder.ids_of(data)) == data


@given(st.lists(st.integers(0, 9), min_size=1, max_size=3), st.floats(0.1, 1), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_what_stays_can_be_built_from_what_stays(
    seeds: list[int], threshold: float, count: int
) -> None:
    scores = {}
    for place, seed in enumerate(seeds):
        noise = torch.rand(len(TOKENIZER), generator=torch.Generator().manual_seed(seed))
        scores[str(place)] = order_scores(noise, VOCABULARY)[None]
    gone = set(
        condemn(scores, count, Ballot(kind="adaptive", vote_threshold=threshold))[0]
        .nonzero()
        .flatten()
        .tolist()
    )
    assert gone <= set(VOCABULARY.removable)
    for left, right, made in VOCABULARY.merges:
        if made not in gone:
            assert not {left, right} & gone


def test_bytes_inside_a_character_are_encoded() -> None:
    half = "é".encode()[1:] + b" the" + "è".encode()[:1]
    assert RECODER.bytes_of(RECODER.ids_of(half)) == half


def test_tokens_never_seen_go_first_and_the_last_merged_of_them_first() -> None:
    frequency = token_frequency(
        [CalibrationPart(documents=("the river",), source="s")], TOKENIZER, len(TOKENIZER)
    )
    order = order_scores(frequency, VOCABULARY).argsort()
    first, second = order[:2].tolist()
    assert frequency[first] == frequency[second] == 0
    made = [merge[2] for merge in VOCABULARY.merges]
    assert made.index(first) > made.index(second)


@pytest.mark.parametrize("tie", [True, False])
def test_logits_are_the_dense_models_at_the_tokens_left(tie: bool, tmp_path: Path) -> None:
    gone = lowest(30)
    trimmed, kept = trim_tokenizer(TOKENIZER, gone, len(TOKENIZER))
    dense = make_tiny("llama", tie=tie)
    pruned = surgery.carry_out_plan(
        make_tiny("llama", tie=tie), empty_plan(tokens=tuple(gone)), None
    )
    ids = torch.tensor(trimmed(TEXT)["input_ids"])[None]
    expected = dense(torch.tensor(kept)[ids]).logits[..., kept]
    assert torch.allclose(pruned(ids).logits, expected, atol=1e-4)
    shape, whole = shape_of(pruned), shape_of(dense)
    assert whole.params_total - shape.params_total == 30 * whole.params_token
    loading.save_model(pruned, trimmed, tmp_path)
    again = loading.load_model(tmp_path)
    assert torch.allclose(again(ids).logits, expected, atol=1e-4)
    assert loading.load_tokenizer(tmp_path)(TEXT)["input_ids"] == ids[0].tolist()
    assert again.config.eos_token_id == trimmed.eos_token_id == again.generation_config.eos_token_id


def test_quality_through_other_tokens_is_the_same_when_they_are_the_same(tmp_path: Path) -> None:
    ids = torch.tensor(TOKENIZER(TEXT * 6)["input_ids"])[:160].view(4, 40)
    size = len(RECODER.bytes_of(ids[:, 1:].flatten().tolist()))
    text = TokenBlocks(ids=ids, bytes_scored=size, digest="d", source="s")
    base = quality.dense_baseline(make_tiny("llama"), "m", text, cache_dir=tmp_path)
    other = make_tiny("llama", seed=1)
    plain = quality.compare_quality(other, base, text, max_perplexity_ratio=1.1)
    across = quality.compare_quality(
        other,
        base,
        text,
        max_perplexity_ratio=1.1,
        reencode=lambda ids: ids,
    )
    assert across.pruned.bits_per_byte == pytest.approx(plain.pruned.bits_per_byte, rel=1e-5)
    assert across.pruned.bytes_per_token == plain.pruned.bytes_per_token
    assert across.kl_to_dense is None
    assert plain.kl_to_dense is not None


def test_other_tokenizers_are_refused() -> None:
    from tokenizers import Tokenizer
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(kinds.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    assert count_removable_tokens(tokenizer, 300) == 0
    assert count_removable_tokens(make_tokenizer(), 300) == 0
    with pytest.raises(SettingError, match="leave vocab out of"):
        read_vocabulary(tokenizer)


def test_a_token_that_is_gone_begins_with_its_first_piece() -> None:
    removed = VOCABULARY.removable[:12]
    trimmed, kept = trim_tokenizer(TOKENIZER, removed, len(TOKENIZER))
    places = first_pieces(TOKENIZER, trimmed, kept, len(TOKENIZER) + 2)
    assert places[kept].tolist() == list(range(len(kept)))
    for token in removed:
        pieces = trimmed(TOKENIZER.decode([token]), add_special_tokens=False)["input_ids"]
        assert len(pieces) > 1
        assert places[token] == pieces[0]
    assert places[-2:].tolist() == [len(kept)] * 2  # ids that nobody names


def test_added_tokens_stand_for_their_text() -> None:
    from tokenizers import AddedToken

    bos = "<｜begin▁of▁sentence｜>"
    tokenizer = make_bpe_tokenizer()
    tokenizer.add_special_tokens({"bos_token": bos})
    tokenizer.add_tokens([AddedToken(" " * count, normalized=True) for count in (4, 2)])
    text = f"{bos}def the():\n    if old:\n      river  # stone｜"
    ids = tokenizer(text)["input_ids"]
    assert {tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids("    ")} <= set(ids)
    recoder = recoder_of(tokenizer)
    assert recoder.bytes_of(ids) == text.encode()
    assert recoder.ids_of(text.encode()) == ids
    trimmed, _ = trim_tokenizer(tokenizer, lowest(20), len(tokenizer))
    smaller = recoder_of(trimmed)
    assert smaller.bytes_of(smaller.ids_of(text.encode())) == text.encode()


def test_an_id_without_a_token_stands_for_nothing() -> None:
    assert RECODER.bytes_of([len(TOKENIZER) + 3, *TOKENIZER("the")["input_ids"]]) == b"the"


@pytest.mark.parametrize("rows", [295, 300, 301, 320])
@pytest.mark.parametrize("count", [0, 10, 30])
def test_an_embedding_may_be_smaller_or_larger_than_the_tokenizer(
    rows: int, count: int, tmp_path: Path
) -> None:
    tokenizer = make_bpe_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == 300, "often never fed, and the embedding not resized for it"
    noise = torch.rand(rows, generator=torch.Generator().manual_seed(0))
    gone = order_scores(noise, read_vocabulary(tokenizer)).argsort()[:count].tolist()
    trimmed, kept = trim_tokenizer(tokenizer, gone, rows)
    assert len(kept) == rows - count
    assert max(trimmed.get_vocab().values()) < len(kept)
    assert (trimmed.pad_token == "[PAD]") == (rows > 300)
    for symbol, new in trimmed.get_vocab().items():
        assert tokenizer.get_vocab()[symbol] == kept[new]
    recoder = recoder_of(trimmed)
    assert recoder.bytes_of(recoder.ids_of(TEXT.encode())) == TEXT.encode()
    trimmed.save_pretrained(tmp_path)
    assert loading.load_tokenizer(tmp_path).get_vocab() == trimmed.get_vocab()
    assert count_removable_tokens(tokenizer, rows) == min(rows, 300) - 257


def test_tokens_without_a_row_are_not_counted() -> None:
    part = CalibrationPart(documents=(TEXT,), source="s")
    whole = token_frequency([part], TOKENIZER, 300)
    fewer = token_frequency([part], TOKENIZER, 270)
    assert len(fewer) == 270
    assert (fewer > 0).tolist() == (whole[:270] > 0).tolist()


TEMPLATE = (
    "{% for turn in messages %}<end>{{ turn.role }}: {{ turn.content }}{% endfor %}"
    "{% if messages[0].role != 'system' %}the river stone{% endif %}bridge"
)


def test_tokens_of_the_chat_template_always_stay() -> None:
    tokenizer = make_bpe_tokenizer()
    tokenizer.chat_template = TEMPLATE
    vocabulary = read_vocabulary(tokenizer)
    turns = [{"role": "user", "content": "a"}]
    before = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    removable = vocabulary.removable
    assert 0 < len(removable) < len(VOCABULARY.removable)
    trimmed, kept = trim_tokenizer(tokenizer, removable, len(tokenizer))
    spelled = [kept[i] for i in trimmed(before)["input_ids"]]
    assert spelled == tokenizer(before)["input_ids"]
    assert [i for i in spelled if i > 256], "some of them were merged"


def test_a_template_that_refuses_a_role_gives_what_it_has() -> None:
    tokenizer = make_bpe_tokenizer()
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ no(1) }}{% endif %}bridge"
    assert list_template_tokens(tokenizer) == {*tokenizer("bridge")["input_ids"]}
    tokenizer.chat_template = "{{ nonsense("
    assert not list_template_tokens(tokenizer)


def test_padding_names_the_token_by_its_new_number() -> None:
    tokenizer = make_bpe_tokenizer()
    tokenizer.backend_tokenizer.enable_padding(pad_id=5, pad_token="$")
    trimmed, kept = trim_tokenizer(tokenizer, lowest(10), len(tokenizer))
    assert kept[trimmed.backend_tokenizer.padding["pad_id"]] == 5


def test_what_stays_of_a_template_is_no_matter_of_the_day() -> None:
    """Templates that tell the day keep every month and digit, whenever they are asked."""
    tokenizer = make_bpe_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }} river"
    found = list_template_tokens(tokenizer)
    for text in (" Dec", " Feb", "0123456789", "December", " river"):
        assert {*tokenizer(text)["input_ids"]} <= found
