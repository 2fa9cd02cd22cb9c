"""The report: the store alone, nothing claimed beyond it, and no text that becomes markup."""

import json
import math
import re
import shlex
import shutil
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import made_up
import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from made_up import NASTY, findings, store_sweep, trial
from markdown_it import MarkdownIt

from prune_exp.machine.display import plain_text
from prune_exp.pruning.plan import Rehearsed
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
from prune_exp.reporting.document.findings import look_up_findings
from prune_exp.reporting.document.html import to_html
from prune_exp.reporting.document.markdown import to_markdown
from prune_exp.reporting.document.note import sweep_note
from prune_exp.reporting.plots.gallery import PLOTS
from prune_exp.reporting.write import make_report, report_run, to_json
from prune_exp.settings.command_schemas import ReportSettings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking import tags as keys
from prune_exp.tracking.read import Choice
from prune_exp.tracking.store import use_store

PICTURES = Path(tempfile.mkdtemp(prefix="prune_exp-pictures-"))
(PICTURES / "p.png").write_bytes(b"\x89PNG")
DRAWN = dict.fromkeys(PLOTS, "")
ORDER = [
    "Executive summary",
    "Key performance indicators",
    "Detailed metrics",
    "Improvements",
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


def words(text: str) -> str:
    return " ".join(plain_text(text).split())


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


# --- what a command line gives back ---------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[str]]:
    """A store with three trials, the second of which failed."""
    root = tmp_path_factory.mktemp("store") / "mlruns"
    trials = [trial(0, 0.1), trial(1, 0.9, status="FAILED", metrics={}), trial(2, 0.5)]
    trials[1].tags[keys.ERROR] = "MeasurementError: gave up\nafter a while"
    parent, children = store_sweep(root, trials)
    return root, parent, children


def wanted(root: Path, run_id: str, output: Path) -> ReportSettings:
    return ReportSettings(
        run_id=run_id, output=str(output), tracking=TrackingSettings(root=str(root))
    )


def test_a_sweep_is_reported_from_its_store_alone(
    swept: tuple[Path, str, list[str]], tmp_path: Path
) -> None:
    root, parent, children = swept
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    hidden = root.with_name("hidden")
    root.rename(hidden)
    try:
        assert report_run(wanted(moved, parent, tmp_path / "out")) == 0
    finally:
        hidden.rename(root)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("report.md", "report.html", "report.json"),
        *PLOTS,
    }
    figures = json.loads((tmp_path / "out" / "report.json").read_text())
    assert figures["run_id"] == children[0]
    assert figures["metrics"]["params_pruned_pct"] == 10
    assert [one["status"] for one in figures["trials"]] == ["FINISHED", "FAILED", "FINISHED"]
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "MeasurementError: gave up after a while" in text
    assert "Once dense" in text


def test_a_trial_is_reported_among_its_sweep(
    swept: tuple[Path, str, list[str]], tmp_path: Path
) -> None:
    root, parent, children = swept
    assert report_run(wanted(root, children[2], tmp_path)) == 0
    figures = json.loads((tmp_path / "report.json").read_text())
    assert (figures["run_id"], figures["root_run_id"]) == (children[2], parent)
    assert figures["chosen_for"] == "asked for by its id"
    assert len(figures["trials"]) == 3


def test_the_best_one_is_that_of_the_sweeps_own_rule(
    swept: tuple[Path, str, list[str]], tmp_path: Path
) -> None:
    trials = [trial(0, 0.1), trial(1, 0.5)]
    for one in trials:
        one.params["tracking.best"] = "speedup"
    parent, children = store_sweep(tmp_path / "mlruns", trials)
    use_store(TrackingSettings(root=str(tmp_path / "mlruns")))
    assert look_up_findings(parent).best.trial.run_id == children[1]
    use_store(TrackingSettings(root=str(swept[0])))
    assert look_up_findings(swept[1]).best.trial.run_id == swept[2][0]


def test_what_cannot_be_reported_is_one_line(
    swept: tuple[Path, str, list[str]], tmp_path: Path
) -> None:
    root, _, children = swept
    file = tmp_path / "file"
    file.touch()
    for run_id, output, said in (
        ("f" * 32, tmp_path / "x", "is not in this store"),
        (children[1], tmp_path / "x", "is FAILED and has no result: MeasurementError"),
        (children[0], file / "below", "cannot be written"),
    ):
        with pytest.raises(SettingError, match=said):
            report_run(wanted(root, run_id, output))
        assert not (tmp_path / "x").exists()
    failed = trial(0, status="FAILED", metrics={})
    parent, _ = store_sweep(tmp_path / "none", [failed])
    with pytest.raises(SettingError, match="of which none finished"):
        report_run(wanted(tmp_path / "none", parent, tmp_path / "x"))


def test_an_earlier_report_leaves_nothing_behind(tmp_path: Path) -> None:
    for name in (*PLOTS, "notes.txt"):
        (tmp_path / name).write_bytes(b"old")
    bare = trial(0, metrics=made_up.figures(speed=False))
    make_report(findings([bare], samples=[]), tmp_path)
    assert not (tmp_path / "roofline.png").exists()
    assert (tmp_path / "pareto.png").read_bytes() != b"old"
    assert (tmp_path / "notes.txt").read_bytes() == b"old"


# --- what it says ---------------------------------------------------------------------------


def section(found: Any, title: str, drawn: dict[str, str] | None = None) -> str:
    text = to_markdown(compose_document(found, drawn or DRAWN))
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_figures_that_are_no_numbers_are_null_in_json() -> None:
    odd = trial(0, metrics=made_up.figures() | {"perplexity_ratio": math.inf, "x": math.nan})
    figures = to_json(findings([odd]), DRAWN)
    assert figures["metrics"]["perplexity_ratio"] is None
    json.dumps(figures, allow_nan=False)
    assert "inf" in section(findings([odd]), "Improvements")


def test_a_card_is_good_or_bad_only_where_its_interval_says_so() -> None:
    found = findings()
    found.metrics.update(made_up.interval("speedup", 1.02, 0.05))
    found.metrics.update(made_up.interval("memory_reduction_pct", -4, 1))
    cards = compose_document(found, DRAWN).sections[1].elements[0]
    assert isinstance(cards, Cards)
    tones = {card.label: card.tone for card in cards.cards}
    assert tones["Speedup"] == "plain"
    assert tones["Memory saved"] == "bad"
    assert tones["Latency reduction"] == "good"
    assert tones["Perplexity ratio"] == "bad"


def test_plots_that_are_missing_are_said_to_be() -> None:
    drawn = DRAWN | {"roofline.png": "speed was not measured"}
    assert "roofline.png is not drawn: speed was not measured." in section(
        findings(), "The limit", drawn
    )


def test_what_went_is_told_by_kind() -> None:
    told = section(findings(), "What was removed")
    assert "| Whole layers | layer 1 | 20.0 % |" in told
    assert "| MLP channels | 2 in each layer that stays | 30.0 % |" in told
    assert "| Together |  | 50.0 % |" in told
    masked = findings([trial(0, metrics=made_up.figures(masks=True))])
    assert "No unit was removed: 50.0 % of the weights" in section(masked, "What was removed")


def test_rehearsed_plans_are_told_best_first() -> None:
    assert "rehearsed" not in section(findings(), "What was removed")
    tried = (
        Rehearsed(layers=(1,), channels=1200, loss_nats=3.5),
        Rehearsed(layers=(), channels=1300, loss_nats=3.25),
    )
    told = section(findings(plan=made_up.plan(rehearsed=tried)), "What was removed")
    assert "2 plans were rehearsed" in told
    assert told.index("| none | 1,300 | 3.2500 |") < told.index("| 1 | 1,200 | 3.5000 |")


def test_ballots_and_voters_of_one_opinion_are_told() -> None:
    told = section(findings(), "Who voted for what")
    assert "had to nominate 40 to 60 % of the units" in told
    assert "one opinion" not in told
    table = {"a": {"a": 1.0, "b": 0.97}, "b": {"a": 0.97, "b": 1.0}}
    alike = findings(plan=made_up.plan(agreement={"mlp": table}))
    assert "a and b rank alike (rank correlation 0.97)" in section(alike, "Who voted for what")
    nobody = findings(plan=made_up.plan(agreement={}, votes={}))
    assert "No voters ranked units here." in section(nobody, "Who voted for what")


def test_outputs_that_the_store_lost_are_said_to_be_lost() -> None:
    assert "The store does not hold them." in section(findings(samples=[]), "Sample outputs")
    bare = findings([trial(0, metrics=made_up.figures(speed=False))], samples=[])
    assert "speed was not measured" in section(bare, "Sample outputs")


VALIDITY: list[tuple[dict[str, Any], dict[str, float], str, bool]] = [
    ({}, {}, "One trial finished; nothing was chosen", True),
    ({"trials": [trial(0), trial(1)]}, {}, "The best of 2 finished trials was chosen", True),
    ({}, {}, "20 prompts with 32 new tokens each", True),
    ({}, {"test_pairs": 6.0}, "Only 6 pairs of requests were timed", True),
    ({}, {"test_pairs": 60.0}, "p99 is that of 60 requests", True),
    ({}, {"test_pairs": 200.0}, "p99 is that of", False),
    ({"machine": {"stopped_by": "target_ci"}}, {}, "Measuring stopped as soon as", True),
    ({}, {}, "Measuring stopped as soon as", False),
    ({"machine": {"load_average_end": 9.0, "cores": 2}}, {}, "load average was 9.0", True),
    ({"machine": {"load_average_end": 2.0, "cores": 2}}, {}, "load average was", False),
    ({}, {}, "4,096 held-out tokens of text in blocks of 512", True),
    ({}, {}, "Every trial used one seed (0)", True),
    ({}, made_up.figures(recovery=True), "a faster or quieter machine comes to more steps", False),
    ({}, {"weights_zeroed_pct": 50.0}, "Weights were set to zero and are still there", True),
    ({}, {}, "Weights were set to zero", False),
    ({"trials": [trial(0), trial(1, status="FAILED")]}, {}, "1 of 2 trials did not finish", True),
]


@pytest.mark.parametrize(("changes", "metrics", "words", "said"), VALIDITY)
def test_limits_follow_from_what_was_measured(
    changes: dict[str, Any], metrics: dict[str, float], words: str, said: bool
) -> None:
    trials = changes.get("trials", [trial(0)])
    trials = [trial(0, metrics=made_up.figures() | metrics), *trials[1:]]
    given: dict[str, Any] = changes | {"trials": trials}
    told = section(findings(**given), "Limits of validity")
    assert (words in told) == said, told


def test_more_limits() -> None:
    bare = findings([trial(0, metrics=made_up.figures(speed=False, quality=False))])
    told = section(bare, "Limits of validity")
    assert "Speed and memory were not measured" in told
    assert "Quality was not measured" in told
    assert "fp32" not in told
    two = [trial(0), trial(1)]
    two[1].params["seed"] = "1"
    assert "2 seeds ran in this sweep" in section(findings(two), "Limits of validity")
    timed = trial(0, metrics=made_up.figures(recovery=True))
    timed.params["recovery.minutes"] = "15.0"
    assert "a faster or quieter machine" in section(findings([timed]), "Limits of validity")
    asked = findings(two)
    object.__setattr__(asked, "best", Choice(trial=two[0], rule="asked for by its id"))
    assert "whoever picks one by the figures" in section(asked, "Limits of validity")


# --- how to reproduce -----------------------------------------------------------------------


def commands(found: Any) -> list[list[str]]:
    text = section(found, "How to reproduce")
    fenced = text.partition("```\n")[2].partition("\n```")[0]
    return [words for line in fenced.split("\n") if (words := shlex.split(line, comments=True))]


def test_command_lines_are_quoted_for_a_shell() -> None:
    given = ["model.path='/a b;rm -rf ~'", "pruning.voters=[wanda,obs]", "sparsity=0.5"]
    one = trial(0, tags={"prune_exp.overrides": json.dumps(given)})
    sweep, alone, again, model = commands(findings([one]))
    assert sweep == ["python", "-m", "prune_exp", "-m", "sparsity=0.3,0.5"]
    assert alone == ["python", "-m", "prune_exp", *given]
    assert again == ["python", "-m", "prune_exp.report", f"run_id={one.run_id}", "output=report"]
    assert model[2] == "prune_exp.rebuild"


def test_without_a_command_line_every_setting_is_given() -> None:
    one = trial(0, tags={})
    one.params["model.path"] = "/it's a \\ folder, ${no}/"
    (_, alone, *_) = commands(findings([one]))
    assert "sparsity=0.5" in alone
    assert 'pruning.voters=["wanda", "gradient"]' in alone
    assert "model.hub_id=null" in alone


def test_secrets_are_not_in_the_command() -> None:
    given = ["model.hub_token=abc", "tracking.uri=postgresql://u:hunter2@host/db"]
    from prune_exp.tracking.naming import remember_overrides

    one = trial(0, tags={"prune_exp.overrides": remember_overrides(given)})
    text = section(findings([one]), "How to reproduce")
    assert "abc" not in text
    assert "hunter2" not in text
    assert "stands in its place" in text.replace("\\", "")


def test_a_note_fits_into_a_tag_and_names_the_best() -> None:
    many = [trial(i, 0.5, name=f"s=0.50 t=0.50 depth_share=0.{i:03d}") for i in range(300)]
    best = Choice(trial=many[250], rule="the best quality")
    text = sweep_note(many, best)
    assert len(text) <= 8000
    assert "depth_share=0.250" in text
    assert re.search(r"\d+ more trials are in report\.md", text)
    assert "No trial finished" in sweep_note([trial(0, status="FAILED", metrics={})], None)
