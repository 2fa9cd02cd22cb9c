"""What the report says of the plan: what went, and who wanted it."""

from collections import Counter

from prune_exp.pruning.plan import UNIT_NAMES, PruningPlan, describe_lost_scripts
from prune_exp.reporting.document.elements import Bullets, Element, Paragraph, Table
from prune_exp.reporting.document.findings import Findings
from prune_exp.reporting.document.sections import show_picture

KINDS = {kind: name[0].upper() + name[1:] for kind, name in UNIT_NAMES.items()}
REDUNDANT = 0.95
"""Rank correlation from which on two voters hold one opinion, unless the settings say otherwise."""


def describe_removal(found: Findings) -> list[Element]:
    """The budget by kind of unit."""
    m = found.metrics
    plan = found.plan
    if m.get("weights_zeroed_pct"):
        return [
            Paragraph(
                f"No unit was removed: {m['weights_zeroed_pct']:.1f} % of the weights were set to"
                " zero in place, all shapes are the dense model's."
            )
        ]
    if "removed_pct/mlp" not in m:
        return [Paragraph("This run does not record what went with each kind of unit.")]
    rows = [
        [name, _removed_units(kind, plan), f"{m[f'removed_pct/{kind}']:.1f} %"]
        for kind, name in KINDS.items()
    ]
    rows.append(["Together", "", f"{m['params_pruned_pct']:.1f} %"])
    shape = (
        f"The pruned model has {m['pruned/layers']:.0f} layers of {m['pruned/query_heads']:.0f}"
        f" query and {m['pruned/kv_heads']:.0f} key/value heads and {m['pruned/mlp_width']:.0f} MLP"
        f" channels, and {m['pruned/vocabulary']:,.0f} tokens."
    )
    kinds = Table(["Kind of unit", "Removed", "Of all parameters"], rows)
    return [
        kinds,
        Paragraph(shape),
        *_describe_tokens(plan),
        *_list_rehearsed(plan),
        *_list_elected(plan),
        *_tell_reconstruction(plan),
    ]


def _describe_tokens(plan: PruningPlan | None) -> list[Element]:
    """Who decided on tokens, and which scripts are lost with them."""
    if plan is None or not plan.tokens:
        return []
    found: list[Element] = []
    if plan.judged_tokens:
        best = sorted(plan.judged_tokens, key=lambda one: (one.lost_pct, not one.chosen))
        rows = [[one.name, f"{one.lost_pct:.3f} %", "chosen" if one.chosen else ""] for one in best]
        said = (
            "Who decides on tokens was settled by documents that no voter had read: the share of"
            " their tokens that each way of deciding would cut to pieces."
        )
        found += [Paragraph(said), Table(["Who decides", "Tokens cut to pieces", ""], rows)]
    if plan.lost_scripts:
        found.append(Paragraph(describe_lost_scripts(plan)))
    return found


def _list_rehearsed(plan: PruningPlan | None) -> list[Element]:
    """The plans that were tried, best first."""
    if plan is None or not plan.rehearsed:
        return []
    tried = sorted(plan.rehearsed, key=lambda one: one.loss_nats)
    rows = [
        [
            ", ".join(one.by),
            ", ".join(map(str, one.layers)) or "none",
            f"{one.channels:,}",
            f"{one.tokens:,}" if one.tokens else "none",
            f"{one.loss_nats:.4f}",
        ]
        for one in tried
    ]
    said = (
        f"{len(tried)} plans were rehearsed, each refit on a few blocks of the calibration text and"
        " judged on others. The one with the least loss was carried out, whoever chose its layers."
    )
    heads = ["Layers chosen by", "Layers out", "Channels out, each", "Tokens out", "Loss, nats"]
    return [Paragraph(said), Table(heads, rows)]


def _list_elected(plan: PruningPlan | None) -> list[Element]:
    """Who stood for election on channels, those who were in the race longest first."""
    if plan is None or not plan.elected:
        return []
    order = sorted(plan.elected, key=lambda one: (-one.blocks, one.loss_nats))
    rows = [
        [one.name, str(one.blocks), f"{one.loss_nats:.4f}", "yes" if one.chosen else "no"]
        for one in order
    ]
    said = (
        "Who decides on channels was put to blocks of the calibration text that no voter had read,"
        " each plan after a short refit: few blocks for all, more for the best. Where the vote"
        " cannot be told from the best by the standard error of the difference, it is carried out."
    )
    table = Table(["Who decides", "Blocks", "Loss, nats", "Carried out"], rows)
    return [Paragraph(said), table, *_tell_jury(plan)]


def _tell_jury(plan: PruningPlan) -> list[Element]:
    """What was agreed on, what contested, and whose channels left the layers least wrong."""
    if not plan.jury:
        return []
    gone = sum(map(len, plan.channels.values()))
    agreed, contested, changed = (
        sum(getattr(one, name) for one in plan.jury) for name in ("agreed", "contested", "changed")
    )
    winners = Counter(one.by for one in plan.jury if one.contested).most_common()
    by = ", ".join(f"{who} in {count}" for who, count in winners) or "nobody"
    outcome = "is carried out" if plan.decided_by_jury else "is not carried out"
    said = (
        f"{gone:,} channels go. All who stand for election agree on {agreed:,} of them;"
        f" {contested:,} channels are contested: some would take them out, others would keep them."
        " A jury settles these layer by layer. It compares everybody's channels, and those that"
        " cost least to take out, by how wrong the layer becomes on text that its weights were not"
        f" solved on. Least wrong, by the number of layers: {by}. The jury's plan differs from the"
        f" vote's in {changed:,} channels and {outcome}."
    )
    return [Paragraph(said)]


def _tell_reconstruction(plan: PruningPlan | None) -> list[Element]:
    """Which layers were trained to stand in for others, and how well they do."""
    if plan is None or not plan.reconstructed:
        return []
    rows = [
        [str(one.layer), str(one.removed_after), f"{100 * one.error_left:.0f} %"]
        for one in plan.reconstructed
    ]
    said = (
        "After the refit, a layer before removed ones was trained on the calibration text to do"
        " what they did. The error left is the share of the refit's, on blocks that this training"
        " has not read; the refit has, so it is told larger than it is. 100 % means that nothing"
        " was gained and nothing changed."
    )
    return [Paragraph(said), Table(["Layer", "Removed after it", "Error left"], rows)]


def _removed_units(kind: str, plan: PruningPlan | None) -> str:
    if plan is None:
        return "not in the store"
    if kind == "layers":
        several = "s" if len(plan.layers) > 1 else ""
        return f"layer{several} {', '.join(map(str, plan.layers))}" if plan.layers else "none"
    if kind == "vocab":
        return f"{len(plan.tokens):,}" if plan.tokens else "none"
    table = plan.heads if kind == "heads" else plan.channels
    each = len(next(iter(table.values()), ()))
    return f"{each:,} in each layer that stays" if each else "none"


def describe_votes(found: Findings, drawn: dict[str, str]) -> list[Element]:
    """How deep ballots had to go, and which voters hold one opinion."""
    plan = found.plan
    if plan is None or not plan.agreement:
        return [Paragraph("No voters ranked units here."), show_picture(drawn, "votes.png")]
    needed = f"Vote threshold {plan.vote_threshold:g}, ballot {plan.ballot}."
    lines = [_describe_depth(kind, plan) for kind in KINDS if kind in plan.votes]
    at_least = float(found.params.get("pruning.redundancy", REDUNDANT))
    lines += [line for kind in plan.agreement for line in _redundant_voters(kind, plan, at_least)]
    return [
        Paragraph(needed),
        *([Bullets(lines)] if lines else []),
        show_picture(drawn, "votes.png"),
    ]


def _describe_depth(kind: str, plan: PruningPlan) -> str:
    votes = plan.votes[kind]
    low = 100 * min(votes.depth)
    high = 100 * max(votes.depth)
    depth = f"{low:.0f} %" if round(low) == round(high) else f"{low:.0f} to {high:.0f} %"
    voters = ", ".join(sorted(votes.nominated))
    jury = "the jury" if plan.decided_by_jury else ""
    if other := {"mlp": jury, "layers": ", ".join(plan.layers_chosen_by)}.get(kind):
        return (
            f"{KINDS[kind]}: {other} decided; the ballots of {voters} below hold the {depth} of"
            " the units that each ranks lowest."
        )
    said = "had to nominate" if plan.ballot == "adaptive" else "nominated"
    after = " until enough of them were agreed on" if plan.ballot == "adaptive" else ""
    return f"{KINDS[kind]}: {voters} {said} {depth} of the units{after}."


def _redundant_voters(kind: str, plan: PruningPlan, at_least: float) -> list[str]:
    """Pairs of voters with one opinion and two ballots."""
    table = plan.agreement[kind]
    return [
        f"{KINDS.get(kind, kind)}: {a} and {b} rank alike (rank correlation {table[a][b]:.2f}): one"
        " opinion, two ballots."
        for a in sorted(table)
        for b in sorted(table)
        if a < b and table[a][b] >= at_least
    ]
