"""Calibration text that the dense model writes itself; held-out text stays the file's.

No document is read for it: what a block begins with comes from the vocabulary alone.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from prune_exp.machine.cache import digest_of
from prune_exp.model.sources import ModelSource
from prune_exp.settings.groups import DataSettings
from prune_exp.text.corpus import CalibrationPart, Corpus, TokenBlocks, opening_tokens
from prune_exp.text.generation import generate_blocks


@dataclass(frozen=True, kw_only=True)
class Author:
    """The dense model as one that writes text."""

    name: str
    source: ModelSource
    tokenizer: Any
    device: str
    seed: int
    cache_dir: Path


def complete_corpus(corpus: Corpus, data: DataSettings, author: Author) -> Corpus:
    """The corpus as it is, or with blocks, and as many documents, that the dense model wrote.

    The latter with `data.calibration=generated`.
    """
    if data.calibration != "generated":
        return corpus
    tokenizer = author.tokenizer
    ids = generate_blocks(
        author.source,
        first_tokens(tokenizer, data.calibration_blocks, seed=author.seed),
        tokens=data.context_tokens,
        temperature=data.generation_temperature,
        seed=author.seed,
        cache_dir=author.cache_dir,
        device=author.device,
    )
    scored = "".join(tokenizer.batch_decode(ids[:, 1:]))
    blocks = TokenBlocks(
        ids=ids,
        bytes_scored=len(scored.encode()),
        digest=digest_of(ids.flatten().tolist()),
        source=f"written by {author.name}",
    )
    documents = tuple(tokenizer.batch_decode(ids, skip_special_tokens=True))
    part = CalibrationPart(documents=documents, source=blocks.source)
    return replace(corpus, calibration=blocks, parts=(part,))


def first_tokens(tokenizer: Any, blocks: int, *, seed: int) -> torch.Tensor:
    """What each block begins with [blocks, 1].

    The token that the tokenizer puts before every text; where it puts none, one of the vocabulary's
    ordinary tokens at random, as arXiv:2305.17888 does.
    """
    start = opening_tokens(tokenizer)
    if start:
        return torch.tensor([start] * blocks)
    added = set(tokenizer.added_tokens_decoder)
    ordinary = torch.tensor(sorted(set(tokenizer.get_vocab().values()) - added))
    chance = torch.Generator().manual_seed(seed)
    return ordinary[torch.randint(len(ordinary), (blocks, 1), generator=chance)]
