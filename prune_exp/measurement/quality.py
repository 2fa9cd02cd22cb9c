"""How much of the dense model's language is left, on held-out text."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from prune_exp.machine.cache import cached_folder, digest_of
from prune_exp.machine.device import cache_key
from prune_exp.measurement.intervals import exp_mean_difference
from prune_exp.measurement.records import DomainQuality, Quality, QualityComparison
from prune_exp.model.architectures import decoder_of, head_of
from prune_exp.model.next_tokens import NextTokens, divergence, split_tokens, sum_losses
from prune_exp.text.corpus import TokenBlocks

VERSION = 2
LARGEST_LOSS = 700.0
"""exp of more overflows; such a model is beyond words anyway."""


@dataclass(frozen=True, kw_only=True)
class DenseBaseline:
    """What the dense model makes of the held-out text; enough to recompute all its logits."""

    hidden: torch.Tensor
    """Final hidden states [blocks, tokens, hidden]."""
    head: torch.Tensor
    """Language-model head [vocab, hidden]."""
    losses: torch.Tensor
    """Mean next-token loss of each block, in nats [blocks]."""


def dense_baseline(
    model: Any, model_digest: str, text: TokenBlocks, *, cache_dir: Path
) -> DenseBaseline:
    """Runs the dense model over the held-out text, once for all trials on it."""
    head = head_of(model).weight

    def build(folder: Path) -> None:
        states = []
        losses = []
        for ids in tqdm(text.ids, "dense quality", unit="block"):
            hidden = _final_hidden(model, ids)
            after = NextTokens(hidden=hidden, head=head)
            losses.append(sum_losses(after, ids[1:]) / (len(ids) - 1))
            states.append(hidden)
        kept = {"hidden": torch.stack(states), "losses": torch.tensor(losses)}
        save_file(kept, folder / "baseline.safetensors")

    key = digest_of(VERSION, model_digest, text.digest, *cache_key(model.device))
    folder = cached_folder(cache_dir / "quality" / key, build)
    return DenseBaseline(head=head, **load_file(folder / "baseline.safetensors"))


Reencode = Callable[[torch.Tensor], tuple[int, torch.Tensor]]
"""The dense tokenizer's ids [tokens] to another's, and how many of those the first one became."""


def compare_quality(
    pruned: Any,
    dense: DenseBaseline,
    text: TokenBlocks,
    *,
    max_perplexity_ratio: float,
    resamples: int,
    reencode: Reencode | None = None,
) -> QualityComparison:
    """Measures a pruned model against the dense one on the same blocks [blocks, tokens].

    The figures are those of the domains that are to be kept; every domain has its own as well.
    With `reencode` the pruned model has a vocabulary of its own: it reads the same bytes as its
    own tokens, its loss is still counted per token of the dense model's, and distributions over
    different vocabularies are not compared.
    """
    if reencode is None:
        judged = _judge_blocks(pruned, dense, text)
    else:
        losses, own_tokens = block_losses(pruned, text, reencode)
        judged = [
            _JudgedBlock(loss=loss, own_tokens=own, divergence=math.nan, agreed=0)
            for loss, own in zip(losses, own_tokens, strict=True)
        ]
    scored = _ScoredText(
        judged=judged,
        dense_losses=dense.losses.tolist(),
        predicted=text.ids.shape[1] - 1,
        resamples=resamples,
    )
    spans = list(text.spans())
    kept = [row for domain, rows in spans if domain.kept for row in rows]
    scored_bytes = sum(domain.bytes_scored for domain, _ in spans if domain.kept)
    whole = scored.compare(kept, scored_bytes, kept=True)
    tokens = len(kept) * scored.predicted
    divergence = sum(judged[row].divergence for row in kept)
    agreed = sum(judged[row].agreed for row in kept)
    return QualityComparison(
        dense=whole.dense,
        pruned=whole.pruned,
        perplexity_ratio=whole.perplexity_ratio,
        kl_to_dense=None if reencode is not None else divergence / tokens,
        top1_agreement=None if reencode is not None else agreed / tokens,
        max_perplexity_ratio=max_perplexity_ratio,
        domains={
            domain.name: scored.compare(rows, domain.bytes_scored, kept=domain.kept)
            for domain, rows in spans
        },
    )


@dataclass(frozen=True, kw_only=True)
class _JudgedBlock:
    """What a pruned model makes of one block."""

    loss: float
    """Mean loss per token of the dense model's tokenizer, in nats."""
    own_tokens: int
    """Tokens of the model's own that are predicted."""
    divergence: float
    """Summed KL(dense || pruned); NaN across vocabularies."""
    agreed: int
    """Positions where both models rank the same token first."""


@dataclass(frozen=True, kw_only=True)
class _ScoredText:
    """Both models' figures, block by block."""

    judged: list[_JudgedBlock]
    dense_losses: list[float]
    predicted: int
    """Tokens of the dense model's tokenizer that are predicted in a block."""
    resamples: int

    def compare(self, rows: Sequence[int], bytes_scored: int, *, kept: bool) -> DomainQuality:
        """Both models on some of the blocks."""
        ours = [self.judged[row].loss for row in rows]
        theirs = [self.dense_losses[row] for row in rows]
        own_tokens = sum(self.judged[row].own_tokens for row in rows)
        tokens = len(rows) * self.predicted
        return DomainQuality(
            dense=_quality_of(theirs, bytes_scored, tokens, tokens),
            pruned=_quality_of(ours, bytes_scored, tokens, own_tokens),
            perplexity_ratio=exp_mean_difference(ours, theirs, resamples=self.resamples),
            kept=kept,
        )


def _judge_blocks(pruned: Any, dense: DenseBaseline, text: TokenBlocks) -> list[_JudgedBlock]:
    """A pruned model that has the dense one's vocabulary, block by block."""
    found = []
    blocks = zip(text.ids, dense.hidden, strict=True)
    for ids, hidden in tqdm(blocks, "quality", total=len(text.ids), unit="block"):
        expected = NextTokens(hidden=hidden, head=dense.head)
        loss, divergence, agreed = compare_block(pruned, ids, expected)
        predicted = len(ids) - 1
        found.append(
            _JudgedBlock(
                loss=loss / predicted, own_tokens=predicted, divergence=divergence, agreed=agreed
            )
        )
    return found


def block_losses(
    model: Any, text: TokenBlocks, reencode: Reencode | None = None
) -> tuple[list[float], list[int]]:
    """Mean loss of each block per token of the text's tokenizer, in nats, and tokens predicted.

    The tokens predicted are the model's own: others than the text's with `reencode`.
    """
    losses = []
    own_tokens = []
    for block in tqdm(text.ids, "quality", unit="block"):
        first, ids = reencode(block) if reencode is not None else (1, block)
        after = NextTokens(hidden=_final_hidden(model, ids), head=head_of(model).weight)
        loss = sum_losses(after, ids[first:], start=first - 1)
        losses.append(loss / (len(block) - 1))
        own_tokens.append(len(ids) - first)
    return losses, own_tokens


def compare_block(pruned: Any, ids: torch.Tensor, dense: NextTokens) -> tuple[float, float, int]:
    """Summed loss, summed KL(dense || pruned) and top-1 agreements of one block [tokens]."""
    ours = NextTokens(hidden=_final_hidden(pruned, ids), head=head_of(pruned).weight)
    loss = 0.0
    total_divergence = 0.0
    agreed = 0
    for rows in split_tokens(len(ids) - 1):
        ours_log_probs = ours.log_probs(rows)
        dense_log_probs = dense.log_probs(rows)
        loss += _sum_loss(ours_log_probs, ids[rows.start + 1 : rows.stop + 1])
        total_divergence += float(divergence(dense_log_probs, ours_log_probs))
        agreed += int((ours_log_probs.argmax(-1) == dense_log_probs.argmax(-1)).sum())
    return loss, total_divergence, agreed


def _final_hidden(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Hidden states [tokens, hidden] after the last norm."""
    with torch.no_grad():
        ids = ids[None].to(model.device)
        return decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state[0]


def _sum_loss(log_probs: torch.Tensor, targets: torch.Tensor) -> float:
    """Summed loss, in nats, of the tokens that came [tokens], by log-probabilities."""
    wanted = targets[:, None].to(log_probs.device)
    return -float(log_probs.gather(-1, wanted).double().sum())


def _quality_of(
    losses: Sequence[float], bytes_scored: int, tokens: int, own_tokens: int
) -> Quality:
    """Quality from each block's loss per token of the dense tokenizer, in nats."""
    mean = sum(losses) / len(losses)
    return Quality(
        bits_per_byte=mean * tokens / math.log(2) / bytes_scored,
        perplexity=math.exp(min(mean, LARGEST_LOSS)),
        bytes_per_token=bytes_scored / own_tokens,
        tokens=tokens,
    )
