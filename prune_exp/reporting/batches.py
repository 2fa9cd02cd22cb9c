"""Kinds of batch by the label that is part of their metrics' names."""

import re
from collections.abc import Mapping

from prune_exp.tracking.figures import Figure


def batch_labels(metrics: Mapping[str, float]) -> list[str]:
    """Labels of the batches that were measured, such as b8 or b8_p128, by size and length."""
    found = (re.fullmatch(r"throughput_(b\d+(?:_p\d+)?)_ratio", key) for key in metrics)
    labels = [match.group(1) for match in found if match]
    return sorted(labels, key=lambda label: [int(n) for n in re.findall(r"\d+", label)])


def batch_name(label: str) -> str:
    """A label in words: `b8_p128` is batch 8, 128-token prompts."""
    size, *length = re.findall(r"\d+", label)
    return f"batch {size}" + (f", {length[0]}-token prompts" if length else "")


def batch_gain(label: str) -> Figure:
    """The throughput that was gained in one kind of batch."""
    return Figure(
        key=f"throughput_{label}_gain_pct",
        name=f"Throughput gain, {batch_name(label)}",
        short_name=f"{batch_name(label)} gained",
        form=".1f",
        unit=" %",
        nothing=0.0,
    )
