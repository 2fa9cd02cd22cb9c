"""How much of the dense model's language is left, on held-out text."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from prune_exp.machine.cache import cached_folder, digest_of
from prune_exp.machine.device import cache_key
from prune_exp.measurement.early_looks import EarlyLooks, watch_limits
from prune_exp.measurement.intervals import LARGEST_LOG, ratio_over_documents, token_ratio
from prune_exp.measurement.records import (
    DocumentQuality,
    DomainQuality,
    Quality,
    QualityComparison,
)
from prune_exp.model.architectures import decoder_of, head_of
from prune_exp.model.next_tokens import NextTokens, divergence, split_tokens, token_losses
from prune_exp.model.offload import is_on_disk
from prune_exp.text.corpus import TokenBlocks
from prune_exp.text.token_bytes import Reencode

VERSION = 3
BLOCKS_A_READING = 32
"""Blocks of text that go through a model together whose layers are read from disk."""


@dataclass(frozen=True, kw_only=True)
class DenseBaseline:
    """What the dense model makes of the held-out text; enough to recompute all its logits."""

    hidden: torch.Tensor
    """Final hidden states [blocks, tokens, hidden]."""
    head: torch.Tensor
    """Language-model head [vocab, hidden]."""
    losses: torch.Tensor
    """Loss of each token that is predicted, in nats [blocks, tokens - 1]."""


def dense_baseline(
    model: Any, model_digest: str, text: TokenBlocks, *, cache_dir: Path
) -> DenseBaseline:
    """Runs the dense model over the held-out text, once for all trials on it."""
    head = head_of(model).weight

    def build(folder: Path) -> None:
        states = []
        losses = []
        blocks = tqdm(text.ids, "dense quality", unit="block")
        for ids, hidden in zip(blocks, _final_states(model, [*text.ids]), strict=True):
            losses.append(token_losses(NextTokens(hidden=hidden, head=head), ids[1:]))
            states.append(hidden)
        kept = {"hidden": torch.stack(states), "losses": torch.stack(losses)}
        save_file(kept, folder / "baseline.safetensors")

    shape = tuple(text.ids.shape)
    key = digest_of(VERSION, model_digest, text.digest, shape, *cache_key(model.device))
    folder = cached_folder(cache_dir / "quality" / key, build)
    return DenseBaseline(head=head, **load_file(folder / "baseline.safetensors"))


@dataclass(frozen=True, kw_only=True)
class DocumentLosses:
    """What a model makes of a text, by document."""

    losses: torch.Tensor
    """Summed loss of what is predicted of each document, in nats [documents]."""
    own_tokens: torch.Tensor
    """How many tokens of the model's own that are [documents]."""


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """A pruned model beside the dense one."""

    by_document: DocumentLosses
    divergence: torch.Tensor | None = None
    """Summed KL(dense || pruned) of each block [blocks], 0 where nothing is to be kept; None across
    vocabularies."""
    agreed: torch.Tensor | None = None
    """Positions of each block where both rank the same token first [blocks], likewise."""


def compare_quality(
    pruned: Any,
    dense: DenseBaseline,
    text: TokenBlocks,
    *,
    max_perplexity_ratio: float,
    reencode: Reencode | None = None,
    limits: Mapping[str, float] | None = None,
) -> QualityComparison:
    """Measures a pruned model against the dense one on the same blocks [blocks, tokens].

    The figures are those of the domains that are to be kept; every domain has its own as well.
    With `reencode` the pruned model has a vocabulary of its own: it reads the same bytes as its
    own tokens, its loss is still counted per token of the dense model's, and distributions over
    different vocabularies are not compared.

    Raises:
        SurelyBeyond: one of the `limits`, by metric, is surely not met; the rest was not read.
    """
    looks = watch_limits(limits or {}, text, dense.losses)
    if reencode is None:
        judged = _judge_blocks(pruned, dense, text, looks)
    else:
        judged = _Judged(by_document=losses_by_document(pruned, text, reencode, looks))
    both = _BothModels(
        dense=_sum_by_document(text, dense.losses),
        pruned=judged.by_document,
        tokens=text.count_predicted(),
        limit=max_perplexity_ratio,
    )
    spans = list(text.spans())
    kept = text.kept_rows
    scored_bytes = sum(domain.bytes_scored for domain, _ in spans if domain.kept)
    documents = text.documents_in(kept)
    whole = both.compare(documents, scored_bytes, kept=True)
    return QualityComparison(
        dense=whole.dense,
        pruned=whole.pruned,
        perplexity_ratio=whole.perplexity_ratio,
        chance_beyond=whole.chance_beyond,
        documents=whole.documents,
        kl_to_dense=_mean_of(judged.divergence, kept, whole.dense.tokens),
        top1_agreement=_mean_of(judged.agreed, kept, whole.dense.tokens),
        token_ratio=token_ratio(
            both.tokens[documents].tolist(), both.pruned.own_tokens[documents].tolist()
        ),
        max_perplexity_ratio=max_perplexity_ratio,
        domains={
            domain.name: both.compare(
                text.documents_in(rows), domain.bytes_scored, kept=domain.kept
            )
            for domain, rows in spans
        },
        by_document=tuple(
            one
            for domain, rows in spans
            for one in both.tell_documents(
                domain.name, text.documents_in(rows), first=int(text.owners[rows[0]].min())
            )
        ),
    )


def _mean_of(sums: torch.Tensor | None, rows: Sequence[int], tokens: int) -> float | None:
    """Per token of some blocks, from each block's sum."""
    return None if sums is None else float(sums[list(rows)].sum()) / tokens


@dataclass(frozen=True, kw_only=True)
class _BothModels:
    """Both models' figures, document by document."""

    dense: torch.Tensor
    """Summed loss [documents]."""
    pruned: DocumentLosses
    tokens: torch.Tensor
    """Tokens of the dense model's tokenizer that are predicted [documents]."""
    limit: float

    def compare(self, documents: list[int], bytes_scored: int, *, kept: bool) -> DomainQuality:
        """Both models on some of the documents."""
        tokens = self.tokens[documents]
        theirs = self.dense[documents]
        ours = self.pruned.losses[documents]
        own_tokens = int(self.pruned.own_tokens[documents].sum())
        total = int(tokens.sum())
        found = ratio_over_documents((ours - theirs).tolist(), tokens.tolist())
        return DomainQuality(
            dense=_quality_of(float(theirs.sum()), bytes_scored, total, total),
            pruned=_quality_of(float(ours.sum()), bytes_scored, total, own_tokens),
            perplexity_ratio=found.ratio,
            chance_beyond=found.chance_beyond(self.limit),
            documents=found.documents,
            kept=kept,
        )

    def tell_documents(
        self, domain: str, documents: list[int], *, first: int
    ) -> Iterator[DocumentQuality]:
        """Both models on each of a domain's documents, of which `first` is the first one."""
        for number in documents:
            yield DocumentQuality(
                domain=domain,
                place=number - first,
                tokens=int(self.tokens[number]),
                dense_loss_nats=float(self.dense[number]),
                pruned_loss_nats=float(self.pruned.losses[number]),
            )


def _judge_blocks(
    pruned: Any, dense: DenseBaseline, text: TokenBlocks, looks: EarlyLooks
) -> _Judged:
    """A pruned model that has the dense one's vocabulary.

    Distributions are compared on the texts that are to be kept; of others only losses are told.
    """
    kept = set(text.kept_rows)
    losses = torch.zeros(dense.losses.shape, dtype=torch.float64)
    divergences = torch.zeros(len(text.ids), dtype=torch.float64)
    agreed = torch.zeros(len(text.ids), dtype=torch.long)
    states = _final_states(pruned, [text.ids[row] for row in looks.order])
    rows = tqdm(looks.order, "quality", unit="block")
    for row, own in zip(rows, states, strict=True):
        ids = text.ids[row]
        ours = NextTokens(hidden=own, head=head_of(pruned).weight)
        if row in kept:
            expected = NextTokens(hidden=dense.hidden[row], head=dense.head)
            losses[row], divergences[row], agreed[row] = compare_block(ours, ids, expected)
        else:
            losses[row] = token_losses(ours, ids[1:])
        looks.note_block(row, text.owners[row, 1:], losses[row])
    by_document = DocumentLosses(
        losses=_sum_by_document(text, losses), own_tokens=text.count_predicted()
    )
    return _Judged(by_document=by_document, divergence=divergences, agreed=agreed)


def _sum_by_document(text: TokenBlocks, losses: torch.Tensor) -> torch.Tensor:
    """Each document's sum [documents] of losses of the tokens predicted [blocks, tokens - 1]."""
    sums = torch.zeros(len(text.count_predicted()), dtype=torch.float64)
    return sums.index_add_(0, text.owners[:, 1:].flatten(), losses.flatten().double())


def losses_by_document(
    model: Any,
    text: TokenBlocks,
    reencode: Reencode | None = None,
    looks: EarlyLooks | None = None,
    *,
    start: Reencode | None = None,
) -> DocumentLosses:
    """A model's summed loss of each document and the tokens of its own that are predicted.

    These are others than the text's with `reencode`; `start` is as `split_block` has it.
    """
    documents = len(text.count_predicted())
    losses = torch.zeros(documents, dtype=torch.float64)
    own_tokens = torch.zeros(documents, dtype=torch.long)
    order = [*range(len(text.ids))] if looks is None else looks.order
    blocks = [split_block(text.ids[row], text.owners[row], reencode, start) for row in order]
    states = _final_states(model, [ids for _, ids, _ in blocks])
    rows = tqdm(order, "quality", unit="block")
    for row, (first, ids, of), hidden in zip(rows, blocks, states, strict=True):
        after = NextTokens(hidden=hidden, head=head_of(model).weight)
        found = token_losses(after, ids[first:], start=first - 1)
        losses.index_add_(0, of, found)
        own_tokens += torch.bincount(of, minlength=documents)
        if looks is not None:
            looks.note_block(row, of, found)
    return DocumentLosses(losses=losses, own_tokens=own_tokens)


def split_block(
    block: torch.Tensor,
    owners: torch.Tensor,
    reencode: Reencode | None,
    start: Reencode | None = None,
) -> tuple[int, torch.Tensor, torch.Tensor]:
    """A block [tokens] in a model's own tokens, and the document that each one predicted is of.

    Returns how many tokens of its own the first one becomes, all of them [own], and the document
    of each of the others [own - first]. Documents are taken one by one, as the text was. `start`
    respells the first token, where that begins in another way than what follows.
    """
    if reencode is None:
        return 1, block, owners[1:]
    parts = [(start or reencode)(block[:1])]
    of = []
    numbers, lengths = owners[1:].unique_consecutive(return_counts=True)
    for number, part in zip(numbers, block[1:].split(lengths.tolist()), strict=True):
        parts.append(reencode(part))
        of.append(number.expand(len(parts[-1])))
    return len(parts[0]), torch.cat(parts), torch.cat(of)


def compare_block(
    ours: NextTokens, ids: torch.Tensor, dense: NextTokens
) -> tuple[torch.Tensor, float, int]:
    """Loss of each token predicted [tokens - 1], summed KL(dense || ours), top-1 agreements."""
    losses = []
    total_divergence = 0.0
    agreed = 0
    for rows in split_tokens(len(ids) - 1):
        ours_log_probs = ours.log_probs(rows)
        dense_log_probs = dense.log_probs(rows)
        losses.append(_losses_of(ours_log_probs, ids[rows.start + 1 : rows.stop + 1]))
        total_divergence += float(divergence(dense_log_probs, ours_log_probs))
        agreed += int((ours_log_probs.argmax(-1) == dense_log_probs.argmax(-1)).sum())
    return torch.cat(losses), total_divergence, agreed


def _final_states(model: Any, blocks: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Hidden states [tokens, hidden] after the last norm of each block [tokens].

    A block that has more tokens than the model has positions, as one may that is spelled with fewer
    tokens, is read in windows of which each half follows the half before it.
    """
    room = getattr(model.config, "max_position_embeddings", None)
    cuts = [cut_windows(len(block), room or len(block)) for block in blocks]
    windows = [block[a:b] for block, cut in zip(blocks, cuts, strict=True) for a, b in cut]
    states = _read_windows(model, windows)
    for cut in cuts:
        ends = [0, *(end for _, end in cut)]
        parts = [next(states)[ends[i] - first :] for i, (first, _) in enumerate(cut)]
        yield parts[0] if len(parts) == 1 else torch.cat(parts)


def cut_windows(tokens: int, room: int) -> list[tuple[int, int]]:
    """Where windows of `room` tokens at most begin and end; all but the first overlap by half."""
    windows = [(0, min(tokens, room))]
    while windows[-1][1] < tokens:
        end = min(windows[-1][1] + max(room // 2, 1), tokens)
        windows.append((end - room, end))
    return windows


def _read_windows(model: Any, blocks: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Hidden states of each, all of which the model has positions for.

    Block by block; many at a time where every pass has to read the layers from disk. Those that are
    shorter than others are filled up behind their ends, which nothing before these sees.
    """
    at_once = BLOCKS_A_READING if is_on_disk(model) else 1
    for start in range(0, len(blocks), at_once):
        some = list(blocks[start : start + at_once])
        ids = torch.nn.utils.rnn.pad_sequence(some, batch_first=True).to(model.device)
        with torch.no_grad():
            states = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
        yield from (hidden[: len(block)] for hidden, block in zip(states, some, strict=True))


def _losses_of(log_probs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Loss, in nats, of each token that came [tokens], by log-probabilities."""
    wanted = targets[:, None].to(log_probs.device)
    return -log_probs.gather(-1, wanted)[:, 0].double().cpu()  # summed on the processor


def _quality_of(loss: float, bytes_scored: int, tokens: int, own_tokens: int) -> Quality:
    """Quality from the summed loss, in nats; `tokens` are those of the dense tokenizer."""
    return Quality(
        bits_per_byte=loss / math.log(2) / bytes_scored,
        perplexity=math.exp(min(loss / tokens, LARGEST_LOG)),
        bytes_per_token=bytes_scored / own_tokens,
        tokens=tokens,
    )
