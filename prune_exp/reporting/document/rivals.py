"""What the report shows of files at equal size, where `prune_exp.rivals` has compared them."""

from typing import Any

from prune_exp.measurement.records import Interval
from prune_exp.reporting.document.elements import Bullets, Element, Paragraph, Table

RIVALS = "What else would give this size"
HEAD = ["File", "MiB", "Bits per byte", "Perplexity ratio", "Speed for equal text", "Peak MiB"]


def show_rivals(found: dict[str, Any]) -> list[Element]:
    """Every file by size, and how the pruned ones stand beside the dense ones."""
    rows = [_row_of(one) for one in sorted(found["rivals"], key=lambda one: one["size_mib"])]
    return [
        Table(HEAD, rows),
        Bullets(found["verdicts"]),
        Paragraph(" ".join([*found.get("notes", []), f"Speed and memory: {found['runtime']}."])),
    ]


def _row_of(one: dict[str, Any]) -> list[str]:
    ratio, speed = (Interval.read(one, key) for key in ("perplexity_ratio", "text_speedup"))
    return [
        f"{one['model']} {one['kind']}",
        f"{one['size_mib']:.1f}",
        f"{one['bits_per_byte']:.3f}",
        f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})",
        f"{speed.value:.2f} ({speed.low:.2f} to {speed.high:.2f})",
        f"{one['peak_memory_mib']:.0f}",
    ]
