"""A document as one HTML file: pictures and style inside, no script, nothing fetched."""

import base64
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from prune_exp.reporting.document.elements import Document, Image, clean_texts

TEMPLATE = "report.html.jinja"


def to_html(document: Document, pictures: Path) -> str:
    """The whole page; `pictures` is the folder with its images.

    Every text is escaped by the template engine.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["bind_percent_signs"] = bind_percent_signs
    files = {
        element.file
        for section in document.sections
        for element in section.elements
        if isinstance(element, Image)
    }
    uris = {name: _data_uri(pictures / name) for name in sorted(files)}
    return environment.get_template(TEMPLATE).render(document=clean_texts(document), pictures=uris)


def bind_percent_signs(text: str) -> str:
    """Keeps a number and its per cent sign on one line."""
    return re.sub(r"(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", text)


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
