"""What pruning starts from: what is asked, and the dense model with its text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune_exp.model.shape import ModelShape
from prune_exp.model.sources import ModelSource
from prune_exp.settings.groups import DataSettings, PruningSettings
from prune_exp.text.corpus import Corpus


@dataclass(frozen=True, kw_only=True)
class PruningRequest:
    """How much goes, by whose vote, and how the text is read for it."""

    sparsity: float
    """Share of the dense model's parameters to remove, in (0, 1)."""
    vote_threshold: float
    """Share of the voters that must agree, in (0, 1]."""
    seed: int
    pruning: PruningSettings
    data: DataSettings


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The dense model and its text, found and checked."""

    source: ModelSource
    tokenizer: Any
    corpus: Corpus
    shape: ModelShape
    cache_dir: Path
