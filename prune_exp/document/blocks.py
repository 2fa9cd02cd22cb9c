"""What a report consists of, whatever it is rendered to. All text is plain text."""

import unicodedata
from dataclasses import dataclass
from typing import ClassVar

REPLACEMENT = "\ufffd"
INVISIBLE = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
"""What turns the direction of the text after it, and separators that some take for newlines."""


def plain(text: str) -> str:
    """A text without control characters and lone surrogates; newlines and tabs stay."""
    return "".join(
        REPLACEMENT
        if one in INVISIBLE or (one not in "\n\t" and unicodedata.category(one) in ("Cc", "Cs"))
        else one
        for one in text.replace("\r\n", "\n")
    )


def clip(text: str, most: int) -> str:
    """A text cut where it is longer than `most` characters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


@dataclass(frozen=True)
class Paragraph:
    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Bullets:
    kind: ClassVar[str] = "bullets"
    items: list[str]


@dataclass(frozen=True)
class Table:
    kind: ClassVar[str] = "table"
    head: list[str]
    rows: list[list[str]]
    figures: bool = True
    """Columns after the first hold figures, or short words, and are set to the right."""
    marked: int | None = None
    """A row to stand out."""


@dataclass(frozen=True)
class Card:
    label: str
    value: str
    detail: str = ""
    tone: str = "plain"
    """plain, good or bad"""


@dataclass(frozen=True)
class Cards:
    kind: ClassVar[str] = "cards"
    cards: list[Card]
    head: tuple[str, str, str] = ("Indicator", "Value", "95 % interval")
    """Column names where cards become a table."""


@dataclass(frozen=True)
class Image:
    kind: ClassVar[str] = "image"
    file: str
    """Name of a PNG file beside the report."""
    caption: str


@dataclass(frozen=True)
class Code:
    kind: ClassVar[str] = "code"
    text: str


Block = Paragraph | Bullets | Table | Cards | Image | Code


@dataclass(frozen=True)
class Section:
    title: str
    blocks: list[Block]

    @property
    def anchor(self) -> str:
        """Its title as a page's anchor."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title).lower().split())


@dataclass(frozen=True)
class Document:
    title: str
    lead: str
    """What the report is about, under the title."""
    sections: list[Section]
