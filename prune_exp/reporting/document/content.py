"""The report's sections in order."""

from prune_exp.reporting.document import provenance, removal, sections
from prune_exp.reporting.document.blocks import Document, Section
from prune_exp.reporting.document.findings import Findings
from prune_exp.reporting.document.validity import validity


def document(found: Findings, drawn: dict[str, str]) -> Document:
    """The whole report. `drawn` says by plot why it was not drawn, empty where it was."""
    trial = found.best.trial
    dashboard = [
        sections.picture(drawn, name)
        for name in ("dashboard_overview.png", "detailed_comparison.png")
    ]
    parts = {
        "Executive summary": sections.summary(found),
        "Key performance indicators": sections.indicators(found),
        "Detailed metrics": sections.details(found),
        "Improvements": sections.improvements(found),
        "Visual dashboard": dashboard,
        "Where memory goes": sections.memory(found),
        "The limit": sections.limit(found, drawn),
        "What was removed": removal.removed(found),
        "Who voted for what": removal.votes(found, drawn),
        "Key insights": sections.key_insights(found),
        "All trials": sections.all_trials(found, drawn),
        "Sample outputs": sections.outputs(found),
        "Conclusion": sections.concluding(found),
        "How it was measured": provenance.methods(found),
        "Limits of validity": validity(found),
        "How to reproduce": provenance.reproduce(found),
    }
    return Document(
        title=f"Performance report: {trial.params.get('model.name', 'model')}",
        lead=f"Run {trial.run_id} ({trial.name}), {_chosen(found)} Sweep or root run"
        f" {found.root.run_id}.",
        sections=[Section(title, blocks) for title, blocks in parts.items()],
    )


def _chosen(found: Findings) -> str:
    rule = found.best.rule
    return f"{rule}." if rule.startswith("asked") else f"chosen for {rule}."
