"""Inside a token that is now spelled, the next piece is certain."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prune_exp.model.next_tokens import NextTokens
from prune_exp.recovery.distillation import distillation_loss
from prune_exp.recovery.inner_pieces import PieceMarker, certain_followers
from prune_exp.text.corpus import all_blocks, token_ids
from prune_exp.text.tokenizer import read_vocabulary, trim_tokenizer
from support.tokenizers import WORDS, make_bpe_tokenizer, make_fallback_tokenizer

DENSE = make_bpe_tokenizer()
OWN, KEPT = trim_tokenizer(DENSE, read_vocabulary(DENSE).removable[:25], len(DENSE))
MARKER = PieceMarker(DENSE, OWN)


@given(st.lists(st.sampled_from([*WORDS, "é", "你好", "\n"]), min_size=1, max_size=12))
def test_every_dense_token_has_one_first_piece(words: list[str]) -> None:
    text = " ".join(words)
    dense, own = token_ids(text, DENSE), token_ids(text, OWN)
    inner = MARKER.mark_inner(dense, own)
    assert len(inner) == len(own)
    assert not inner[0]
    assert inner.count(0) == len(dense)
    kept = {old: new for new, old in enumerate(KEPT)}
    spelled = iter(zip(own, inner, strict=True))
    for token in dense:
        first, mark = next(spelled)
        assert not mark
        if token in kept:
            assert first == kept[token]
            continue
        pieces = len(token_ids(DENSE.decode([token]), OWN))
        assert all(next(spelled)[1] for _ in range(pieces - 1))


def test_blocks_are_marked_as_they_are_cut() -> None:
    for tokenizer in (DENSE, make_fallback_tokenizer("gemma")):
        own, _ = trim_tokenizer(
            tokenizer, read_vocabulary(tokenizer).removable[:20], len(tokenizer)
        )
        documents = [" ".join(WORDS * 3), "one two " * 20]
        blocks = all_blocks(documents, own, 24)
        marks = PieceMarker(tokenizer, own).mark_blocks(documents, 24)
        assert marks.shape == blocks.shape
        assert marks.dtype == torch.bool
        assert marks.any()
        assert not (marks & (blocks == (own.bos_token_id if own.bos_token_id else -1))).any()


def test_followers_are_certain_before_inner_pieces_only() -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    inner = torch.tensor([[True, False, True, True]])
    assert certain_followers(ids, inner).tolist() == [[-1, 7, 8, -1]]


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
