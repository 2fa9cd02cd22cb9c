"""What is remembered of a text that played a part in a trial."""

from dataclasses import dataclass

FEWEST_DOCUMENTS = 12
"""Below so many documents nothing is said of whether quality is kept: documents are what an
interval of quality counts."""


@dataclass(frozen=True, kw_only=True)
class TextUsed:
    """Which text played a part, and what identifies it."""

    role: str
    """calibration, heldout, training or validation (of the recovery)"""
    source: str
    digest: str
    blocks: int
    tokens: int
