"""What both models make of each held-out document, as MLflow's pages show tables."""

import math
from collections.abc import Sequence
from typing import Any

from prune_exp.measurement.intervals import LARGEST_LOG
from prune_exp.measurement.records import DocumentQuality
from prune_exp.text.documents import number_heldout

DOCUMENTS = "documents.json"
COLUMNS = (
    "text",
    "document",
    "tokens",
    "dense_loss_nats",
    "pruned_loss_nats",
    "perplexity_ratio",
)


def tabulate_documents(documents: Sequence[DocumentQuality]) -> dict[str, list[Any]] | None:
    """A column each for the kind of text, the document's place among those of its file, counted
    from 1, and both models' figures; None where nothing was judged.

    Of each text the document comes first that adds most to the pruned model's loss. Losses are sums
    over the document's tokens. The text itself is not told; `text.documents.read_documents` has it.
    """
    ordered = sorted(documents, key=lambda one: (one.domain, -_or_worst(one.rise_nats)))
    rows = [
        {
            "text": one.domain,
            "document": number_heldout(one.place),
            "tokens": one.tokens,
            "dense_loss_nats": _or_nothing(one.dense_loss_nats),
            "pruned_loss_nats": _or_nothing(one.pruned_loss_nats),
            "perplexity_ratio": _or_nothing(_ratio_of(one)),
        }
        for one in ordered
    ]
    return {name: [row[name] for row in rows] for name in COLUMNS} if rows else None


def _ratio_of(one: DocumentQuality) -> float:
    rise = one.rise_nats / one.tokens
    return math.exp(min(rise, LARGEST_LOG)) if math.isfinite(rise) else rise


def _or_worst(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _or_nothing(value: float) -> float | None:
    """JSON has no word for what is no number."""
    return value if math.isfinite(value) else None
