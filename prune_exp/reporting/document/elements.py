"""What a report consists of, whatever it is rendered to. All text is plain text."""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar

from prune_exp.machine.display import plain_text


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


Element = Paragraph | Bullets | Table | Cards | Image | Code


@dataclass(frozen=True)
class Section:
    title: str
    elements: list[Element]

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


def clean_texts(part: Any) -> Any:
    """A document, or a part of one, in which every text is `plain`."""
    if isinstance(part, str):
        return plain_text(part)
    if isinstance(part, list | tuple):
        return type(part)(clean_texts(one) for one in part)
    if is_dataclass(part) and not isinstance(part, type):
        return replace(
            part, **{one.name: clean_texts(getattr(part, one.name)) for one in fields(part)}
        )
    return part
