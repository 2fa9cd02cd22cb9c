"""A document as GitHub-flavoured Markdown. Markup in its texts stays text."""

import re
from collections.abc import Callable
from typing import Any

from prune_exp.reporting.document.blocks import (
    Bullets,
    Cards,
    Code,
    Document,
    Image,
    Paragraph,
    Table,
    cleaned,
)

MARKUP = re.compile(r"[\\`*\[\]|~$#]|(?<!\w)_|_(?!\w)")
LINE_START = re.compile(r"^(?:([>+=-])|(\d{1,9})([.)])(?=\s|$))")
"""What makes a quotation, a list or a rule of a line."""


def to_markdown(document: Document) -> str:
    """The whole page."""
    document = cleaned(document)
    parts = [f"# {inline(document.title)}", text(document.lead)]
    for section in document.sections:
        parts.append(f"## {inline(section.title)}")
        parts += [RENDERERS[block.kind](block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def inline(given: str) -> str:
    """Text for a table's cell or a heading, on one line."""
    escaped = MARKUP.sub(lambda match: "\\" + match[0], " ".join(given.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def text(given: str) -> str:
    """Text that starts a line."""
    return LINE_START.sub(r"\2\\\1\3", inline(given))


def table(head: list[str], rows: list[list[str]], marked: int | None = None) -> str:
    """A Markdown table; the marked row's first cell is bold."""
    cells = [[inline(cell) for cell in row] for row in rows]
    if marked is not None:
        cells[marked][0] = f"**{cells[marked][0]}**"
    lines = [[inline(cell) for cell in head], ["---"] * len(head), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cards(block: Cards) -> str:
    rows = [[card.label, card.value, card.detail] for card in block.cards]
    columns = 3 if any(row[2] for row in rows) else 2
    return table(list(block.head[:columns]), [row[:columns] for row in rows])


def _code(block: Code) -> str:
    """A fence longer than any run of backticks inside."""
    inside = block.text
    longest = max((len(run) for run in re.findall("`+", inside)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{inside}\n{fence}"


def _paragraph(block: Paragraph) -> str:
    return text(block.text)


def _bullets(block: Bullets) -> str:
    return "\n".join(f"- {text(item)}" for item in block.items)


def _table(block: Table) -> str:
    return table(block.head, block.rows, block.marked)


def _image(block: Image) -> str:
    return f"![{inline(block.caption)}]({block.file})"


RENDERERS: dict[str, Callable[[Any], str]] = {
    "paragraph": _paragraph,
    "bullets": _bullets,
    "table": _table,
    "cards": _cards,
    "image": _image,
    "code": _code,
}
