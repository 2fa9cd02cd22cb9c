"""What runs say of themselves on their pages in MLflow: what they are, the verdict, the report."""

from collections.abc import Mapping

from mlflow.tracking import MlflowClient

from prune_exp.machine.display import one_line
from prune_exp.measurement.records import Interval
from prune_exp.tracking import tags
from prune_exp.tracking.domains import explain_doubt, judge_quality
from prune_exp.tracking.figures import Figure, key_figures
from prune_exp.tracking.views import page_of_report

LONGEST_REASON = 500
SHOWN = ("speedup", "memory_reduction_pct", "throughput_gain_pct", "perplexity_ratio")


def describe_start(params: Mapping[str, str]) -> str:
    """A trial that runs."""
    return f"{_what_it_is(params)}\n\nIt runs; the tag `phase` says how far it is."


def end_note(
    run_id: str, metrics: Mapping[str, float], error: str | None = None, *, stopped: str = ""
) -> str:
    """The description of a trial that ends, from its run.

    `stopped` is the constraint that it could not meet, where it was ended for that.
    """
    run = MlflowClient().get_run(run_id)
    root = run.data.tags.get(tags.PARENT_RUN, run_id)
    page = page_of_report(run.info.experiment_id, root)
    if stopped:
        return f"{_what_it_is(run.data.params)}\n\n**It was stopped:** {plain_words(stopped)}"
    return describe_end(run.data.params, metrics, error, page)


def describe_end(
    params: Mapping[str, str],
    metrics: Mapping[str, float],
    error: str | None,
    report: str,
) -> str:
    """A trial that has ended: its figures and its verdict, or why there are none.

    `report` is the address of the page with the report.
    """
    lines = [_what_it_is(params)]
    if error is not None:
        return f"{lines[0]}\n\n**It failed:** {plain_words(error)}"
    shown = [_show_figure(figure, metrics) for figure in key_figures(*SHOWN)]
    if measured := [one for one in shown if one]:
        lines.append(f"{'; '.join(measured)} (95 % intervals).")
    lines.append(_verdict(metrics))
    lines.append(f"[Open the report]({report}).")
    return "\n\n".join(lines)


def _what_it_is(params: Mapping[str, str]) -> str:
    name = plain_words(params.get("model.name", "a model"))
    try:
        share = f"{100 * float(params['sparsity']):.3g} %"
    except (KeyError, ValueError):
        share = "a part"
    return f"A trial: {share} of the parameters of {name} are asked to go."


def plain_words(text: str) -> str:
    """Words that Markdown shows as they are, on one line."""
    return f"`{one_line(text, LONGEST_REASON).replace('`', chr(39))}`"


def _show_figure(figure: Figure, metrics: Mapping[str, float]) -> str | None:
    if not Interval.is_among(metrics, figure.key):
        return None
    found = Interval.read(metrics, figure.key)
    return f"{figure.name} **{figure.show_value(found.value)}** [{figure.show_ends(found)}]"


def _verdict(metrics: Mapping[str, float]) -> str:
    """Whether quality is kept, which a trial says for itself alone."""
    if "quality_maintained" not in metrics:
        return "Quality was not judged."
    verdict = judge_quality(metrics)
    if few := explain_doubt(metrics):
        return few
    limit = metrics.get("max_perplexity_ratio")
    within = "" if limit is None else f" (the limit is {limit:g} times the dense perplexity)"
    return f"**Quality is {verdict}**{within}, judged by itself."
