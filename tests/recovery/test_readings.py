"""The dense model reads the same bytes in its own tokens, and the places where both end meet."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_exp.model.next_tokens import NextTokens
from prune_exp.recovery.distillation import distillation_loss
from prune_exp.recovery.readings import Reader, Reading, read_alike
from prune_exp.text.corpus import all_blocks, opening_tokens, token_ids
from prune_exp.text.token_bytes import recoder_of
from prune_exp.text.tokenizer import read_vocabulary, trim_tokenizer
from support.tokenizers import WORDS, make_bpe_tokenizer, make_fallback_tokenizer


def trimmed(dense: Any, count: int) -> tuple[Any, Any, Reader]:
    """A tokenizer, one that lacks some of its tokens, and a reader of both."""
    own, kept = trim_tokenizer(dense, read_vocabulary(dense).removable[:count], len(dense))
    return dense, own, Reader(dense, own, kept)


PAIRS = (trimmed(make_bpe_tokenizer(), 25), trimmed(make_fallback_tokenizer("gemma"), 20))
TEXTS = st.lists(st.sampled_from([*WORDS, "é", "你好", "\n"]), min_size=1, max_size=30).map(
    " ".join
)


def check_reading(reading: Reading, dense: Any, own: Any) -> None:
    """Whatever the student has read when all is open, the dense model has read the same bytes."""
    theirs, ours = recoder_of(dense).bytes_of, recoder_of(own).bytes_of
    for ids, block, places, certain in zip(
        reading.ids.tolist(),
        reading.dense,
        reading.places.tolist(),
        reading.certain.tolist(),
        strict=True,
    ):
        assert theirs(block) == ours(ids)
        for at, (place, follower) in enumerate(zip(places, certain, strict=True)):
            if follower < 0:
                assert theirs(block[: place + 1]) == ours(ids[: at + 1])
            elif at + 1 < len(ids):
                assert follower == ids[at + 1]


@given(st.sampled_from(PAIRS), st.lists(TEXTS, min_size=1, max_size=4), st.integers(3, 24))
@settings(deadline=None)
def test_both_models_have_read_the_same_bytes(
    pair: tuple[Any, Any, Reader], documents: list[str], context: int
) -> None:
    dense, own, reader = pair
    reading = reader.read_documents(documents, context)
    assert torch.equal(reading.ids, all_blocks(documents, own, context))
    check_reading(reading, dense, own)


@given(st.sampled_from(PAIRS), TEXTS)
@settings(deadline=None)
def test_the_dense_model_reads_whole_tokens(pair: tuple[Any, Any, Reader], text: str) -> None:
    dense, own, reader = pair
    dense_ids = token_ids(text, dense)
    own_ids = token_ids(text, own)
    first = opening_tokens(dense)
    dense_ids = [*first, *dense_ids]
    own_ids = [*opening_tokens(own), *own_ids]
    reading = reader.read_blocks(torch.tensor([dense_ids]), len(own_ids))
    assert reading.ids[0].tolist() == own_ids
    assert reading.dense[0] == tuple(dense_ids)
    open_at = reading.certain[0] < 0
    assert int(open_at.sum()) == len(dense_ids), "as many open places as dense tokens"
    assert reading.places[0][open_at].tolist() == list(range(len(dense_ids)))


def test_text_that_was_written_opens_every_block_as_texts_are_opened() -> None:
    dense, own, reader = PAIRS[1]
    (first,) = opening_tokens(dense)
    written = [[first, *token_ids(" ".join(WORDS * 2), dense)[:30]] for _ in range(6)]
    reading = reader.read_blocks(torch.tensor(written), 24)
    assert len(reading) > 6
    (own_first,) = opening_tokens(own)
    assert set(reading.ids[:, 0].tolist()) == {own_first}
    assert (reading.ids[:, 1:] != own_first).all()
    assert [block.count(first) for block in reading.dense] == [1] * len(reading)
    assert {block[0] for block in reading.dense} == {first}


@pytest.mark.parametrize("pair", PAIRS)
def test_tokens_that_are_gone_are_read(pair: tuple[Any, Any, Reader]) -> None:
    _, _, reader = pair
    reading = reader.read_documents([" ".join(WORDS * 3), "one two " * 20], 24)
    assert len(reading) > 1
    assert {token for block in reading.dense for token in block} - set(reader.kept)
    assert (reading.certain >= 0).any()
    short = reading.first(1)
    assert (len(short), len(short.dense), len(short.places)) == (1, 1, 1)


def test_a_student_with_all_tokens_reads_alike() -> None:
    reading = read_alike(torch.tensor([[5, 6, 7], [8, 9, 10]]))
    assert reading.dense == ((5, 6, 7), (8, 9, 10))
    assert reading.places.tolist() == [[0, 1, 2]] * 2
    assert (reading.certain == -1).all()


@pytest.mark.parametrize("certain", [[3, -1, 0, -1], [2, 2, 2, 2], [-1, -1, -1, -1]])
def test_the_loss_is_cross_entropy_where_the_follower_is_certain(certain: list[int]) -> None:
    chance = torch.Generator().manual_seed(0)
    hidden, head, theirs, theirs_head = (
        torch.randn(*shape, generator=chance) for shape in ((4, 5), (7, 5), (4, 6), (7, 6))
    )
    hidden.requires_grad_(True)
    dense = NextTokens(hidden=theirs, head=theirs_head, certain=torch.tensor(certain))
    loss = distillation_loss(dense, NextTokens(hidden=hidden, head=head), chunk=3)
    (found,) = torch.autograd.grad(loss, [hidden])
    ours = (hidden @ head.T).log_softmax(-1)
    wanted = (theirs @ theirs_head.T).log_softmax(-1)
    rows = [
        -ours[i, token] if token >= 0 else (wanted[i].exp() * (wanted[i] - ours[i])).sum()
        for i, token in enumerate(certain)
    ]
    whole = torch.stack(rows).mean()
    (expected,) = torch.autograd.grad(whole, [hidden])
    assert loss.item() == pytest.approx(whole.item(), rel=1e-5)
    assert torch.allclose(found, expected, atol=1e-6)
