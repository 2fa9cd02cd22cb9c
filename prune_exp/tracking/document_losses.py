"""What both models make of each held-out document, as MLflow's pages show tables."""

import math
from collections.abc import Sequence
from typing import Any

from prune_exp.measurement.intervals import LARGEST_LOG
from prune_exp.measurement.records import DocumentQuality, nan_to_inf
from prune_exp.text.documents import number_heldout

DOCUMENTS = "documents.json"
COLUMNS = (
    "text",
    "document",
    "perplexity_ratio",
    "tokens",
    "dense_loss_nats",
    "pruned_loss_nats",
)
DIGITS = 4
"""After the point, so that a table can be read."""


def tabulate_documents(documents: Sequence[DocumentQuality]) -> dict[str, list[Any]] | None:
    """A column each for the kind of text, the document's place among those of its file, counted
    from 1, and both models' figures; None where nothing was judged.

    Of each text the document comes first that adds most to the pruned model's loss. Losses are sums
    over the document's tokens. The text itself is not told; `text.formats.read_documents` has it.
    """
    ordered = sorted(documents, key=lambda one: (one.domain, -nan_to_inf(one.rise_nats)))
    rows = [
        {
            "text": one.domain,
            "document": number_heldout(one.place),
            "perplexity_ratio": _show(_ratio_of(one)),
            "tokens": one.tokens,
            "dense_loss_nats": _show(one.dense_loss_nats),
            "pruned_loss_nats": _show(one.pruned_loss_nats),
        }
        for one in ordered
    ]
    return {name: [row[name] for row in rows] for name in COLUMNS} if rows else None


def _ratio_of(one: DocumentQuality) -> float:
    rise = one.rise_nats / one.tokens
    return math.exp(min(rise, LARGEST_LOG)) if math.isfinite(rise) else rise


def _show(value: float) -> float | None:
    """Rounded; None for what is no number, for which JSON has no word."""
    return round(value, DIGITS) if math.isfinite(value) else None
