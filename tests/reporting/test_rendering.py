"""No text becomes markup, and both renderings say the same."""

import json
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from prune_exp.reporting.document.content import compose_document
from prune_exp.reporting.document.elements import (
    Bullets,
    Card,
    Cards,
    Code,
    Document,
    Image,
    Paragraph,
    Section,
    Table,
)
from prune_exp.reporting.document.html import to_html
from prune_exp.reporting.document.markdown import to_markdown
from prune_exp.reporting.document.note import sweep_note
from prune_exp.reporting.plots.gallery import PLOTS
from prune_exp.reporting.write import to_json
from prune_exp.settings.command_schemas import ReportSettings
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking import tags as keys
from support import made_up_runs as made_up
from support.made_up_runs import NASTY, findings, trial
from support.pages import DRAWN, words

PICTURES = Path(tempfile.mkdtemp(prefix="prune_exp-pictures-"))


(PICTURES / "p.png").write_bytes(b"\x89PNG")


ORDER = [
    "Executive summary",
    "Key performance indicators",
    "Detailed metrics",
    "Improvements",
    "Quality by kind of text",
    "Visual dashboard",
    "Where memory goes",
    "The limit",
    "What was removed",
    "Who voted for what",
    "Key insights",
    "All trials",
    "Sample outputs",
    "Conclusion",
    "How it was measured",
    "Limits of validity",
    "How to reproduce",
]


class Page(HTMLParser):
    """The elements of a page, and its text by element."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "hr"):
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in self.open:
            self.texts[tag][-1] += data


def everywhere(text: str) -> Document:
    """A document with one text in every place that takes one."""
    blocks: list[Any] = [
        Paragraph(text),
        Bullets([text]),
        Table([text, "b"], [[text, text]], marked=0),
        Table(["a"], [[text]], figures=False),
        Cards([Card(text, text, text)]),
        Code(text),
        Image("p.png", text),
    ]
    return Document(text, text, [Section(text, blocks)])


def from_markdown(source: str) -> Page:
    """As the strictest and the laxest reader see it: tables on, HTML passed through."""
    return Page(MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(source))


def test_a_sentence_that_starts_with_a_figure_stays_readable() -> None:
    lines = ["29.7 % are gone", "1. no list", "-5 % less", "12) no list", "+ none", "> none"]
    shown = to_markdown(Document("t", "l", [Section("s", [Paragraph(one) for one in lines])]))
    assert "\n29.7 % are gone\n" in shown
    page = from_markdown(shown)
    assert page.texts["p"][1:] == lines
    assert not {"ul", "ol", "blockquote"} & {tag for tag, _ in page.tags}


anything = st.text(st.characters(codec=None), max_size=60) | st.sampled_from(NASTY)


markup = st.text("<>|`*_[]()!#-+=.&;\\~$1 ab\n\"'{}%", max_size=40)


@bounds(deadline=None, max_examples=60)
@given(anything | markup)
@example("__0__")
@example("a model of __init__ and _x_y_, not a_b__c")
def test_no_text_becomes_markup_in_markdown(text: str) -> None:
    page = from_markdown(to_markdown(everywhere(text)))
    allowed = {"h1", "h2", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    assert {tag for tag, _ in page.tags} <= allowed | {"strong", "pre", "code", "img"}
    assert [attrs.get("src") for tag, attrs in page.tags if tag == "img"] == ["p.png"]
    wanted = words(text)
    if wanted:
        assert len(page.texts["td"]) == 2 + 1 + 3
        assert {words(one) for one in page.texts["td"]} == {wanted}
        assert words(page.texts["h2"][0]) == wanted
        assert words(page.texts["li"][0]) == wanted
        assert words(page.texts["code"][0]) == wanted


@bounds(deadline=None, max_examples=60)
@given(anything | markup)
def test_no_text_becomes_markup_in_html(text: str) -> None:
    source = to_html(everywhere(text), PICTURES)
    assert source.encode("utf-8")
    page = Page(source)
    kinds = {tag for tag, _ in page.tags}
    assert not kinds & {"script", "iframe", "object", "embed", "form", "base", "svg"}
    for tag, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs), tag
        assert re.match(r"#|data:image/png;base64,", attrs.get("href") or attrs.get("src") or "#")
    assert kinds.isdisjoint({"b", "link"})
    assert {words(one) for one in page.texts["td"]} == {words(text)}
    assert len(page.texts["td"]) == 3


def test_the_page_fetches_nothing_and_runs_nothing() -> None:
    source = to_html(everywhere("x"), PICTURES)
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in source
    assert "<script" not in source
    assert not re.search(r"(?:src|href)=\"(?!#|data:)|@import|url\(", source)
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source


@pytest.mark.parametrize("nasty", NASTY)
def test_hostile_names_prompts_and_errors_stay_text(nasty: str) -> None:
    failed = trial(1, name=nasty, status="FAILED", metrics={}, tags={keys.ERROR: nasty})
    chosen = trial(0, name=nasty)
    chosen.params["model.name"] = nasty
    found = findings([chosen, failed], samples=made_up.samples([nasty] * 3))
    found.machine["processor"] = nasty
    page = compose_document(found, dict.fromkeys(PLOTS, "there is nothing to draw"))
    for shown in (Page(to_html(page, PICTURES)), from_markdown(to_markdown(page))):
        kinds = {tag for tag, _ in shown.tags}
        assert not kinds & {"script", "img", "em", "del", "s"}
        assert any(words(nasty)[:40] in words(cell) for cell in shown.texts["td"])
    assert len(sweep_note([chosen, failed], found.best)) <= 8000
    json.dumps(to_json(found, DRAWN), allow_nan=False)


def test_sections_keep_their_order_in_both_renderings(tmp_path: Path) -> None:
    for name in PLOTS:
        (tmp_path / name).write_bytes(b"\x89PNG")
    page = compose_document(findings(), DRAWN)
    assert [section.title for section in page.sections] == ORDER
    assert re.findall(r"^## (.*)$", to_markdown(page), re.MULTILINE) == ORDER
    assert [words(title) for title in Page(to_html(page, tmp_path)).texts["h2"]] == ORDER


def test_both_renderings_say_the_same(tmp_path: Path) -> None:
    for name in PLOTS:
        (tmp_path / name).write_bytes(b"\x89PNG")
    page = compose_document(findings(), DRAWN)
    html, markdown = Page(to_html(page, tmp_path)), from_markdown(to_markdown(page))
    shown = set(map(words, markdown.texts["td"]))
    assert set(map(words, html.texts["td"])) <= shown
    said = {words(text) for text in markdown.texts["p"]}
    assert {words(text) for text in html.texts["p"]} <= said
    assert list(map(words, markdown.texts["li"]))[-5:] == list(map(words, html.texts["li"]))[-5:]


def wanted(root: Path, run_id: str, output: Path) -> ReportSettings:
    return ReportSettings(
        run_id=run_id, output=str(output), tracking=TrackingSettings(root=str(root))
    )
