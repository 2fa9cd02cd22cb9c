"""A document as GitHub-flavoured Markdown. Markup in its texts stays text."""

import re
from collections.abc import Callable
from typing import Any

from prune_exp.reporting.document.elements import (
    Bullets,
    Cards,
    Code,
    Document,
    Image,
    Paragraph,
    Table,
    clean_texts,
)

MARKUP = re.compile(r"[\\`*\[\]|~$#]|(?<![^\W_])_|_(?![^\W_])")
LINE_START = re.compile(r"^(?:([>+=-])|(\d{1,9})([.)])(?=\s|$))")
"""What makes a quotation, a list or a rule of a line."""


def to_markdown(document: Document) -> str:
    """The whole page."""
    document = clean_texts(document)
    parts = [f"# {escape_inline(document.title)}", escape_line(document.lead)]
    for section in document.sections:
        parts.append(f"## {escape_inline(section.title)}")
        parts += [RENDERERS[element.kind](element) for element in section.elements]
    return "\n\n".join(parts) + "\n"


def escape_inline(given: str) -> str:
    """Text for a table's cell or a heading, on one line."""
    escaped = MARKUP.sub(lambda match: "\\" + match[0], " ".join(given.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def escape_line(given: str) -> str:
    """Text that starts a line."""
    return LINE_START.sub(r"\2\\\1\3", escape_inline(given))


def render_table(head: list[str], rows: list[list[str]], marked: int | None = None) -> str:
    """A Markdown table; the marked row's first cell is bold."""
    cells = [[escape_inline(cell) for cell in row] for row in rows]
    if marked is not None:
        cells[marked][0] = f"**{cells[marked][0]}**"
    lines = [[escape_inline(cell) for cell in head], ["---"] * len(head), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _render_cards(element: Cards) -> str:
    rows = [[card.label, card.value, card.detail] for card in element.cards]
    columns = 3 if any(row[2] for row in rows) else 2
    return render_table(list(element.head[:columns]), [row[:columns] for row in rows])


def _render_code(element: Code) -> str:
    """A fence longer than any run of backticks inside."""
    inside = element.text
    longest = max((len(run) for run in re.findall("`+", inside)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{inside}\n{fence}"


def _render_paragraph(element: Paragraph) -> str:
    return escape_line(element.text)


def _render_bullets(element: Bullets) -> str:
    return "\n".join(f"- {escape_line(item)}" for item in element.items)


def _render_table_element(element: Table) -> str:
    return render_table(element.head, element.rows, element.marked)


def _render_image(element: Image) -> str:
    return f"![{escape_inline(element.caption)}]({element.file})"


RENDERERS: dict[str, Callable[[Any], str]] = {
    "paragraph": _render_paragraph,
    "bullets": _render_bullets,
    "table": _render_table_element,
    "cards": _render_cards,
    "image": _render_image,
    "code": _render_code,
}
