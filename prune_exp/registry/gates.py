"""What a model must show before it is promoted: one function a gate, each with its verdict."""

from collections.abc import Callable
from dataclasses import dataclass, field

from prune_exp.measurement.records import Interval
from prune_exp.measurement.worker_client import MeasurementError
from prune_exp.model.export import weights_sha256
from prune_exp.model.loading import foreign_parts
from prune_exp.registry.evidence import Evidence
from prune_exp.registry.integrity import find_file_fault
from prune_exp.registry.signing import describe_fault
from prune_exp.registry.stock_reload import logit_difference
from prune_exp.registry.wrapper import foreign_wrapper
from prune_exp.settings.command_schemas import LimitSettings
from prune_exp.settings.errors import SettingError
from prune_exp.tracking import tags
from prune_exp.tracking.read import speed_key


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one gate found."""

    name: str
    passed: bool
    sentence: str
    figures: dict[str, float | str] = field(default_factory=dict)


def integrity(case: Evidence) -> Verdict:
    """The stored files are those of the trial, byte for byte, and nothing in them can run."""
    candidate = case.candidate
    found = weights_sha256(candidate.folder)
    fault = find_file_fault(candidate, found)
    recorded = candidate.trial.tags[tags.WEIGHTS_SHA256]
    figures = {"recorded_sha256": recorded, "found_sha256": found}
    sentence = fault or "the stored files are the trial's, and only data"
    return _make_verdict("integrity", fault is None, sentence, **figures)


def signature(case: Evidence) -> Verdict:
    """The holder of the key signed these very files."""
    key = case.limits.public_key
    if key is None:
        raise SettingError("there is no key to check against; give limits.public_key=FILE")
    found = describe_fault(case.candidate.root, case.candidate.signature, key)
    sentence = f"the stored model cannot be trusted: {found}" if found else "signed with the key"
    return _make_verdict("signature", found is None, sentence)


def speedup(case: Evidence) -> Verdict:
    """The speedup for equal text, measured again, is enough even at its interval's lower end."""
    tracked = case.candidate.trial.metrics
    then = tracked.get(speed_key(tracked))
    return _judge_floor("speedup", case.speedup, case.limits.min_speedup, "times", then)


def memory(case: Evidence) -> Verdict:
    """The memory saving, measured again, is enough even at its interval's lower end."""
    found = case.speed.memory_ratio.percent(gain=False)
    then = case.candidate.trial.metrics.get("memory_reduction_pct")
    return _judge_floor("memory", found, case.limits.min_memory_reduction_pct, "%", then)


def reload(case: Evidence) -> Verdict:
    """Stock transformers in a fresh process makes the same logits of the stored files."""
    difference = logit_difference(case.candidate.folder, case.own_ids)
    most = case.limits.max_logit_difference
    return _make_verdict(
        "reload",
        difference <= most,
        f"logits differ by {difference:g} at most after stock loading in a fresh process,"
        f" against a limit of {most:g}",
        max_logit_difference=difference,
    )


def quality(case: Evidence) -> Verdict:
    """Not worse than the dense model, beyond a margin, on any text to be kept; no search saw it."""
    limit = case.quality_limit
    ratio = case.perplexity_ratio(case.losses, case.dense_losses)
    by_domain = case.ratio_by_domain()
    worst = max(by_domain, key=lambda name: by_domain[name].high)
    where = ""
    of = f" of {worst}" if len(by_domain) == 1 else ""
    if len(by_domain) > 1:
        where = f" (on {worst}, the worst of {', '.join(by_domain)}:"
        where += f" {_show_interval(by_domain[worst])})"
    figures = {
        key: value
        for name, found in by_domain.items()
        for key, value in _interval_figures(f"{name}/perplexity_ratio", found).items()
    }
    return _make_verdict(
        "quality",
        max(ratio.high, by_domain[worst].high) <= limit,
        f"perplexity on {case.documents} documents{of} that no trial used is"
        f" {_show_interval(ratio)} times the dense model's{where}; the upper end may be {limit:g}",
        **_interval_figures("perplexity_ratio", ratio),
        **figures,
        blocks=len(case.text.ids),
        documents=case.documents,
        limit=limit,
    )


OF_TWO = 1.18
"""How much wider an interval is that is one of two chances to be better, and with both as sure as
one of 95 % alone (Bonferroni): Student's t of the fewest documents that get a verdict, 12."""


def champion(case: Evidence) -> Verdict:
    """No worse than the present champion in quality and speed, and better in one of them.

    Better is said with a level corrected for there being two ways.
    """
    if case.champion is None:
        return _make_verdict("champion", True, "there is no champion yet")
    if fault := case.champion_fault:
        raise SettingError(
            f"of version {case.champion.version}, the champion, {fault}; put its files back, or"
            " take its alias away in the MLflow UI"
        )
    limits = case.limits
    ratio = case.perplexity_ratio(case.losses, case.champion_losses)
    fast = case.champion_speedup()
    kept = ratio.high <= limits.champion_max_perplexity_ratio
    kept_speed = fast.low >= limits.champion_min_speedup
    better = ratio.widened(OF_TWO).high < 1 or fast.widened(OF_TWO).low > 1
    why = [
        text
        for passed, text in (
            (kept, f"its quality may be worse than {limits.champion_max_perplexity_ratio:g} times"),
            (kept_speed, f"it may be slower than {limits.champion_min_speedup:g} times"),
            (better, "neither is surely better"),
        )
        if not passed
    ]
    return _make_verdict(
        "champion",
        not why,
        f"against version {case.champion.version}: perplexity {_show_interval(ratio)} times, speed"
        f" {_show_interval(fast)} times{': ' if why else ''}{'; '.join(why)}",
        **_interval_figures("perplexity_ratio", ratio),
        **_interval_figures("speedup", fast),
    )


GATES: dict[str, Callable[[Evidence], Verdict]] = {
    "integrity": integrity,
    "signature": signature,
    "reload": reload,
    "speedup": speedup,
    "memory": memory,
    "quality": quality,
    "champion": champion,
}
"""By name, in the order in which they are asked; integrity first, the slow ones last."""
TRUST = ("integrity", "signature")
"""What fails one of these is not looked into further."""
ON_FILES = ("reload", "speedup", "memory", "quality", "champion")


def asked_by_default(limits: LimitSettings) -> list[str]:
    """All gates, that of the signature only when there is a key to check against."""
    return [name for name in GATES if name != "signature" or limits.public_key is not None]


def judge_candidate(case: Evidence, names: list[str]) -> list[Verdict]:
    """Every named gate's verdict; files that fail one of `TRUST` are not looked into further."""
    verdicts: list[Verdict] = []
    candidate = case.candidate
    foreign = foreign_parts(candidate.folder) or foreign_wrapper(candidate.root)
    unfit = "the stored model is not only data" if foreign else ""
    for name in (name for name in GATES if name in names):
        if unfit and name in ON_FILES:
            verdicts.append(_make_verdict(name, False, f"not judged: {unfit}"))
            continue
        try:
            verdicts.append(GATES[name](case))
        except (SettingError, MeasurementError) as error:
            verdicts.append(_make_verdict(name, False, f"cannot be judged: {error}"))
        if name in TRUST and not verdicts[-1].passed:
            unfit = unfit or f"the files failed {name}"
    return verdicts


def show_verdicts(verdicts: list[Verdict]) -> None:
    """Prints a line for each."""
    for one in verdicts:
        print(f"  {'passed' if one.passed else 'FAILED'}  {one.name}: {one.sentence}")


def _make_verdict(name: str, passed: bool, sentence: str, **figures: float | str) -> Verdict:
    return Verdict(name=name, passed=bool(passed), sentence=sentence, figures=figures)


def _judge_floor(
    name: str, found: Interval, least: float, unit: str, then: float | None
) -> Verdict:
    """`then` is what the trial had found, which is said and does not count."""
    said = "the trial did not measure it" if then is None else f"the trial had found {then:.3f}"
    return _make_verdict(
        name,
        found.low >= least,
        f"measured again, it is {found.value:.3f} {unit} with a lower end of {found.low:.3f}, which"
        f" must be at least {least:g} ({said})",
        low=found.low,
        least=least,
        value=found.value,
        **({} if then is None else {"tracked": then}),
    )


def _interval_figures(name: str, interval: Interval) -> dict[str, float | str]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _show_interval(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
