"""What tests of the report look at."""

from typing import Any

from prune_exp.machine.display import plain_text
from prune_exp.reporting.document.content import compose_document
from prune_exp.reporting.document.markdown import to_markdown
from prune_exp.reporting.plots.gallery import PLOTS

DRAWN = dict.fromkeys(PLOTS, "")


def words(text: str) -> str:
    return " ".join(plain_text(text).split())


def section(found: Any, title: str, drawn: dict[str, str] | None = None) -> str:
    text = to_markdown(compose_document(found, drawn or DRAWN))
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]
