"""Calibration text that the dense model writes itself; held-out text stays the file's.

No document is read for it: what a block begins with comes from the vocabulary alone.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_exp.cache import digest_of
from prune_exp.corpus import Corpus, TokenBlocks, opening
from prune_exp.device import device_of
from prune_exp.generation import generate
from prune_exp.settings import Settings
from prune_exp.sources import ModelSource

if TYPE_CHECKING:
    import torch


def complete(
    corpus: Corpus, settings: Settings, source: ModelSource, tokenizer: Any, cache_dir: Path
) -> Corpus:
    """The corpus as it is, or with blocks, and as many documents, that the dense model wrote.

    The latter with `data.calibration=generated`.
    """
    data = settings.data
    if data.calibration != "generated":
        return corpus
    ids = generate(
        source,
        first_tokens(tokenizer, data.calibration_blocks, seed=settings.seed),
        tokens=data.context_tokens,
        temperature=data.generation_temperature,
        seed=settings.seed,
        cache_dir=cache_dir,
        device=device_of(settings.device),
    )
    scored = "".join(tokenizer.batch_decode(ids[:, 1:]))
    blocks = TokenBlocks(
        ids=ids,
        bytes_scored=len(scored.encode()),
        digest=digest_of(ids.flatten().tolist()),
        source=f"written by {settings.model.name}",
    )
    documents = tuple(tokenizer.batch_decode(ids, skip_special_tokens=True))
    return replace(corpus, calibration=blocks, documents=documents)


def first_tokens(tokenizer: Any, blocks: int, *, seed: int) -> "torch.Tensor":
    """What each block begins with [blocks, 1].

    The token that the tokenizer puts before every text; where it puts none, one of the vocabulary's
    ordinary tokens at random, as arXiv:2305.17888 does.
    """
    import torch

    start = opening(tokenizer)
    if start:
        return torch.tensor([start] * blocks)
    added = set(tokenizer.added_tokens_decoder)
    ordinary = torch.tensor(sorted(set(tokenizer.get_vocab().values()) - added))
    chance = torch.Generator().manual_seed(seed)
    return ordinary[torch.randint(len(ordinary), (blocks, 1), generator=chance)]
