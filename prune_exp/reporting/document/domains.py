"""What the report shows of quality on each kind of text, and of the documents it rests on."""

import math
from typing import Any

from prune_exp.reporting.document.elements import Element, Paragraph, Table
from prune_exp.reporting.document.findings import Findings
from prune_exp.reporting.document.trials import NO_FIGURE
from prune_exp.tracking.domains import TrackedDomain, read_domains
from prune_exp.tracking.figures import key_figures

SHOWN = 2
"""Documents of each text."""


def show_domains(found: Findings) -> list[Element]:
    """Both models on each kind of text, with the interval, and where quality had to be kept."""
    domains = read_domains(found.metrics)
    if not domains:
        return [Paragraph("Quality was not measured by kind of text.")]
    (ratio,) = key_figures("perplexity_ratio")
    rows = [
        [
            one.name,
            "yes" if one.kept else "no",
            f"{one.dense_bits_per_byte:.3f}",
            f"{one.pruned_bits_per_byte:.3f}",
            f"{one.perplexity_ratio.value:.2f}x",
            "-" if one.documents == 1 else ratio.show_ends(one.perplexity_ratio),
            one.describe_verdict(found.metrics["max_perplexity_ratio"]),
        ]
        for one in domains
    ]
    head = [
        "Text",
        "To be kept",
        "Bits per byte, dense",
        "Bits per byte, pruned",
        "Perplexity ratio",
        "95 % interval",
        "Quality",
    ]
    return [Table(head, rows), *_show_documents(found, domains)]


def _show_documents(found: Findings, domains: list[TrackedDomain]) -> list[Element]:
    """The documents that add most to the loss on each text to be kept."""
    rows = [
        row
        for one in domains
        if one.kept
        for row in _rows_of([each for each in found.documents if each["text"] == one.name])
    ]
    if not rows:
        return []
    head = ["Text", "Document", "Tokens", "Perplexity ratio", "Share"]
    sentence = (
        "On each text to be kept, the documents on which the pruned model loses most. Share: of the"
        " loss on all its documents that got worse. Documents are numbered in the order of their"
        " file, from 1; documents.json lists all."
    )
    return [Paragraph(sentence), Table(head, rows)]


def _rows_of(documents: list[dict[str, Any]]) -> list[list[str]]:
    """Of one text, the worst first; a loss that is no number has neither ratio nor share."""
    rises = [(_rise_of(one), one) for one in documents]
    lost = sorted((one for one in rises if one[0] > 0), key=lambda one: -one[0])
    total = sum(rise for rise, _ in lost)
    return [
        [
            one["text"],
            f"no. {one['document']}",
            str(one["tokens"]),
            f"{one['perplexity_ratio']:.2f}x" if math.isfinite(rise) else NO_FIGURE,
            f"{100 * rise / total:.0f} %" if math.isfinite(total) else NO_FIGURE,
        ]
        for rise, one in lost[:SHOWN]
    ]


def _rise_of(document: dict[str, Any]) -> float:
    """Nats that are lost on it; without end where one of the losses is no number."""
    dense, pruned = document["dense_loss_nats"], document["pruned_loss_nats"]
    return math.inf if dense is None or pruned is None else pruned - dense
