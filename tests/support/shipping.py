"""Tiny checkpoints to ship, and what a shipped file is asked."""

from pathlib import Path
from typing import Any

from prune_exp.shipping.comparison import Reference
from support.models import make_tiny
from support.tokenizers import make_bpe_tokenizer

TEXT = (
    "the old bridge stands over the river",
    "a new stone falls quickly and the river runs under it",
    "but slowly the bridge falls and a stone stands",
)


def save_tiny(folder: Path, kind: str = "llama", tokenizer: Any = None, **sizes: Any) -> Path:
    """A tiny checkpoint with a tokenizer of as many tokens."""
    own = tokenizer or make_bpe_tokenizer(300)
    make_tiny(kind, vocab=len(own), **sizes).save_pretrained(folder)
    own.save_pretrained(folder)
    return folder


def reference_of(checkpoint: Path, positions: int = 30) -> Reference:
    """What its files are compared with."""
    return Reference(checkpoint=checkpoint, documents=TEXT * 20, positions=positions)
