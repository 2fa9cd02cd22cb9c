"""How much of the dense model's language is left, on held-out text."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_exp.cache import cached_folder, digest_of
from prune_exp.corpus import TokenBlocks
from prune_exp.device import cache_key
from prune_exp.models import decoder_of, head_of
from prune_exp.paired import exp_mean_difference
from prune_exp.records import Quality, QualityComparison

if TYPE_CHECKING:
    import torch

VERSION = 1
CHUNK_TOKENS = 128
LARGEST_LOSS = 700.0
"""exp of more overflows; such a model is beyond words anyway."""


@dataclass(frozen=True, kw_only=True)
class DenseBaseline:
    """What the dense model makes of the held-out text; enough to recompute all its logits."""

    hidden: "torch.Tensor"
    """Final hidden states [blocks, tokens, hidden]."""
    head: "torch.Tensor"
    """Language-model head [vocab, hidden]."""
    losses: "torch.Tensor"
    """Mean next-token loss of each block, in nats [blocks]."""


def dense_baseline(
    model: Any, model_digest: str, text: TokenBlocks, *, cache_dir: Path
) -> DenseBaseline:
    """Runs the dense model over the held-out text, once for all trials on it."""
    from safetensors.torch import load_file, save_file

    head = head_of(model).weight

    def build(folder: Path) -> None:
        import torch
        from tqdm import tqdm

        states, losses = [], []
        for ids in tqdm(text.ids, "dense quality", unit="block"):
            hidden = _final_hidden(model, ids)
            log_probs = _log_probs(hidden[:-1], head)
            losses.append(_loss(log_probs, ids[1:]) / (len(ids) - 1))
            states.append(hidden)
        kept = {"hidden": torch.stack(states), "losses": torch.tensor(losses)}
        save_file(kept, folder / "baseline.safetensors")

    key = digest_of(VERSION, model_digest, text.digest, *cache_key(model.device))
    folder = cached_folder(cache_dir / "quality" / key, build)
    return DenseBaseline(head=head, **load_file(folder / "baseline.safetensors"))


Reencode = Callable[["torch.Tensor"], tuple[int, "torch.Tensor"]]
"""The dense tokenizer's ids [tokens] to another's, and how many of those the first one became."""


def compare(
    pruned: Any,
    dense: DenseBaseline,
    text: TokenBlocks,
    *,
    max_perplexity_ratio: float,
    resamples: int,
    reencode: Reencode | None = None,
) -> QualityComparison:
    """Measures a pruned model against the dense one on the same blocks [blocks, tokens].

    With `reencode` the pruned model has a vocabulary of its own: it reads the same bytes as its
    own tokens, its loss is still counted per token of the dense model's, and distributions over
    different vocabularies are not compared.
    """
    if reencode is not None:
        return _compare_across(pruned, dense, text, reencode, max_perplexity_ratio, resamples)
    from tqdm import tqdm

    losses, divergence, agreed = [], 0.0, 0
    blocks = zip(text.ids, dense.hidden, strict=True)
    for ids, hidden in tqdm(blocks, "quality", total=len(text.ids), unit="block"):
        block = _compare_block(pruned, ids, hidden, dense.head)
        losses.append(block[0] / (len(ids) - 1))
        divergence += block[1]
        agreed += block[2]
    tokens = text.ids[:, 1:].numel()
    return QualityComparison(
        dense=_quality(dense.losses.tolist(), text, tokens),
        pruned=_quality(losses, text, tokens),
        perplexity_ratio=exp_mean_difference(losses, dense.losses.tolist(), resamples=resamples),
        kl_to_dense=divergence / tokens,
        top1_agreement=agreed / tokens,
        max_perplexity_ratio=max_perplexity_ratio,
    )


def _compare_across(
    pruned: Any,
    dense: DenseBaseline,
    text: TokenBlocks,
    reencode: Reencode,
    max_perplexity_ratio: float,
    resamples: int,
) -> QualityComparison:
    losses, own_tokens = block_losses(pruned, text, reencode)
    ratio = exp_mean_difference(losses, dense.losses.tolist(), resamples=resamples)
    return QualityComparison(
        dense=_quality(dense.losses.tolist(), text, text.ids[:, 1:].numel()),
        pruned=_quality(losses, text, own_tokens),
        perplexity_ratio=ratio,
        kl_to_dense=None,
        top1_agreement=None,
        max_perplexity_ratio=max_perplexity_ratio,
    )


def block_losses(
    model: Any, text: TokenBlocks, reencode: Reencode | None = None
) -> tuple[list[float], int]:
    """Mean loss of each block per token of the text's tokenizer, in nats, and tokens predicted.

    The tokens predicted are the model's own: others than the text's with `reencode`.
    """
    from tqdm import tqdm

    losses, own_tokens = [], 0
    for block in tqdm(text.ids, "quality", unit="block"):
        first, ids = reencode(block) if reencode is not None else (1, block)
        hidden, head = _final_hidden(model, ids), head_of(model).weight
        loss = _loss(_log_probs(hidden[first - 1 : -1], head), ids[first:])
        losses.append(loss / (len(block) - 1))
        own_tokens += len(ids) - first
    return losses, own_tokens


def _compare_block(
    pruned: Any, ids: "torch.Tensor", dense_hidden: "torch.Tensor", dense_head: "torch.Tensor"
) -> tuple[float, float, int]:
    """Summed loss, summed KL(dense || pruned) and top-1 agreements of one block [tokens]."""
    hidden, head = _final_hidden(pruned, ids), head_of(pruned).weight
    loss, divergence, agreed = 0.0, 0.0, 0
    for start in range(0, len(ids) - 1, CHUNK_TOKENS):
        stop = min(start + CHUNK_TOKENS, len(ids) - 1)
        ours = _log_probs(hidden[start:stop], head)
        theirs = _log_probs(dense_hidden[start:stop], dense_head)
        loss += _loss(ours, ids[start + 1 : stop + 1])
        divergence += float((theirs.exp() * (theirs - ours)).sum())
        agreed += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
    return loss, divergence, agreed


def _final_hidden(model: Any, ids: "torch.Tensor") -> "torch.Tensor":
    """Hidden states [tokens, hidden] after the last norm."""
    import torch

    with torch.no_grad():
        ids = ids[None].to(model.device)
        return decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state[0]


def _log_probs(hidden: "torch.Tensor", head: "torch.Tensor") -> "torch.Tensor":
    return (hidden.to(head.device) @ head.T).log_softmax(-1)


def _loss(log_probs: "torch.Tensor", targets: "torch.Tensor") -> float:
    wanted = targets[:, None].to(log_probs.device)
    return -float(log_probs.gather(-1, wanted).double().sum())


def _quality(losses: list[float], text: TokenBlocks, own_tokens: int) -> Quality:
    """Quality from each block's loss per token of the dense tokenizer, in nats."""
    mean = sum(losses) / len(losses)
    tokens = text.ids[:, 1:].numel()
    return Quality(
        bits_per_byte=mean * tokens / math.log(2) / text.bytes_scored,
        perplexity=math.exp(min(mean, LARGEST_LOSS)),
        bytes_per_token=text.bytes_scored / own_tokens,
        tokens=tokens,
    )
