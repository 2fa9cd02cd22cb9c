"""The report's sections in order."""

from prune_exp.reporting.document import domains, outputs, provenance, removal, sections, tasks
from prune_exp.reporting.document.elements import Document, Element, Section
from prune_exp.reporting.document.findings import Findings
from prune_exp.reporting.document.rivals import RIVALS, show_rivals
from prune_exp.reporting.document.validity import show_validity


def compose_document(found: Findings, drawn: dict[str, str]) -> Document:
    """The whole report. `drawn` says by plot why it was not drawn, empty where it was."""
    trial = found.best.trial
    dashboard = [
        sections.show_picture(drawn, name)
        for name in ("dashboard_overview.png", "detailed_comparison.png")
    ]
    parts: dict[str, list[Element]] = {
        "Executive summary": sections.show_summary(found),
        "Key performance indicators": sections.show_indicators(found),
        "Detailed metrics": sections.show_details(found),
        "Improvements": sections.show_improvements(found),
        "Quality by kind of text": [*domains.show_domains(found), *tasks.show_tasks(found)],
        "Visual dashboard": dashboard,
        "Where memory goes": sections.show_memory(found),
        "The limit": sections.show_limits(found, drawn),
        "What was removed": removal.describe_removal(found),
        "Who voted for what": removal.describe_votes(found, drawn),
        "Key insights": sections.show_insights(found),
        "All trials": sections.show_trials(found, drawn),
        "Sample outputs": outputs.show_outputs(found),
        "Conclusion": sections.show_conclusion(found),
        "How it was measured": provenance.describe_methods(found),
        "Limits of validity": show_validity(found),
        "How to reproduce": provenance.describe_reproduction(found),
    }
    if found.rivals:
        parts = _insert_after(parts, "All trials", RIVALS, show_rivals(found.rivals))
    return Document(
        title=f"Performance report: {trial.params.get('model.name', 'model')}",
        lead=f"Run {trial.run_id} ({trial.name}), {_describe_choice(found)} Sweep or root run"
        f" {found.root.run_id}.",
        sections=[Section(title, elements) for title, elements in parts.items()],
    )


def _insert_after(
    parts: dict[str, list[Element]], place: str, title: str, elements: list[Element]
) -> dict[str, list[Element]]:
    titles = [*parts]
    titles.insert(titles.index(place) + 1, title)
    return {one: elements if one == title else parts[one] for one in titles}


def _describe_choice(found: Findings) -> str:
    rule = found.best.rule
    return f"{rule}." if rule.startswith("asked") else f"chosen for {rule}."
