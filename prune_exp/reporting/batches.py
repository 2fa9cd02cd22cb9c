"""Kinds of batch by the label that is part of their metrics' names."""

import re
from collections.abc import Mapping


def batch_labels(metrics: Mapping[str, float]) -> list[str]:
    """Labels of the batches that were measured, such as b8 or b8_p128, by size and length."""
    found = (re.fullmatch(r"throughput_(b\d+(?:_p\d+)?)_ratio", key) for key in metrics)
    labels = [match.group(1) for match in found if match]
    return sorted(labels, key=lambda label: [int(n) for n in re.findall(r"\d+", label)])


def batch_name(label: str) -> str:
    """A label in words: `b8_p128` is batch 8, 128-token prompts."""
    size, *length = re.findall(r"\d+", label)
    return f"batch {size}" + (f", {length[0]}-token prompts" if length else "")
