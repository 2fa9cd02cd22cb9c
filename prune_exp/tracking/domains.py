"""Quality on each kind of text, as it was tracked, and what may be said of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prune_exp.measurement.records import DOMAIN, Interval
from prune_exp.text.records import FEWEST_DOCUMENTS

MAINTAINED = "maintained"
NOT_MAINTAINED = "not maintained"
NOT_SHOWN = "not shown to be maintained"


@dataclass(frozen=True, kw_only=True)
class TrackedDomain:
    """Both models on one kind of text."""

    name: str
    kept: bool
    """Whether quality had to be maintained on it."""
    dense_bits_per_byte: float
    pruned_bits_per_byte: float
    tokens: int
    perplexity_ratio: Interval
    documents: int | None
    """How many the interval counts; None in runs that did not record it."""

    @property
    def too_few(self) -> bool:
        """Whether it has too few documents for a verdict."""
        return self.documents is not None and self.documents < FEWEST_DOCUMENTS

    def is_lost(self, limit: float) -> bool:
        """Whether even the lower end is beyond the limit; what is no number is."""
        return not self.perplexity_ratio.low <= limit

    def is_in_doubt(self, limit: float) -> bool:
        """Whether enough documents judged, and the limit lies within the interval."""
        return not (self.is_lost(limit) or self.too_few or self.perplexity_ratio.high <= limit)

    def describe_verdict(self, limit: float) -> str:
        """lost, maintained, or why neither can be said."""
        if self.is_lost(limit):
            return "lost"
        if self.too_few:
            return f"no verdict: {self.documents} document{'' if self.documents == 1 else 's'}"
        return "not shown to be kept" if self.is_in_doubt(limit) else "maintained"


def read_domains(metrics: Mapping[str, float]) -> list[TrackedDomain]:
    """Every kind of text that a trial was judged on, those to be kept first, then by name."""
    names = {
        key.removeprefix(DOMAIN).rpartition("/")[0] for key in metrics if key.startswith(DOMAIN)
    }
    found = [
        TrackedDomain(
            name=name,
            kept=bool(metrics[f"{DOMAIN}{name}/kept"]),
            dense_bits_per_byte=metrics[f"{DOMAIN}{name}/dense_bits_per_byte"],
            pruned_bits_per_byte=metrics[f"{DOMAIN}{name}/pruned_bits_per_byte"],
            tokens=int(metrics[f"{DOMAIN}{name}/tokens"]),
            perplexity_ratio=Interval.read(metrics, f"{DOMAIN}{name}/perplexity_ratio"),
            documents=_count_documents(metrics, name),
        )
        for name in names
    ]
    return sorted(found, key=lambda one: (not one.kept, one.name))


def list_kept(metrics: Mapping[str, float]) -> list[str]:
    """Names of the texts on which quality had to be maintained; none where it recorded none."""
    return [one.name for one in read_domains(metrics) if one.kept]


def _count_documents(metrics: Mapping[str, float], name: str) -> int | None:
    found = metrics.get(f"{DOMAIN}{name}/documents")
    return None if found is None else int(found)


def list_too_few(metrics: Mapping[str, float]) -> str | None:
    """A sentence about the texts to be kept that have too few documents; None where all have."""
    few = [
        f"{one.name} ({one.documents})" for one in read_domains(metrics) if one.kept and one.too_few
    ]
    whole = metrics.get("heldout_documents", FEWEST_DOCUMENTS)
    if not few and whole < FEWEST_DOCUMENTS:
        few = [f"the held-out text ({whole:.0f})"]
    if not few:
        return None
    return (
        f"There is no verdict on quality: a verdict needs {FEWEST_DOCUMENTS} held-out documents,"
        f" and there are fewer of {join_words(few)}."
    )


def explain_doubt(metrics: Mapping[str, float]) -> str | None:
    """That documents are too few, where that keeps a verdict from being one."""
    return list_too_few(metrics) if judge_quality(metrics) == NOT_SHOWN else None


def join_words(words: list[str]) -> str:
    """Words as in a sentence: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def list_losses(domains: list[TrackedDomain], limit: float) -> str | None:
    """Sentences about the texts on which quality is lost, or not shown to be kept; None where there
    are none."""
    lost = [f"{one.name} ({show_ratio(one)})" for one in domains if one.is_lost(limit)]
    doubted = [
        f"{one.name} ({one.perplexity_ratio.value:.2f}x, {one.perplexity_ratio.low:.2f} to"
        f" {one.perplexity_ratio.high:.2f})"
        for one in domains
        if one.is_in_doubt(limit)
    ]
    said = []
    if lost:
        said.append(
            f"It is lost on {join_words(lost)}, beyond {limit:g} times the dense model's"
            " perplexity."
        )
    if doubted:
        said.append(
            f"It is not shown to be kept on {join_words(doubted)}: the limit of {limit:g} lies"
            " within the interval."
        )
    return " ".join(said) or None


def show_ratio(domain: TrackedDomain) -> str:
    """A domain's ratio of perplexities in words."""
    value = domain.perplexity_ratio.value
    return "no number" if math.isnan(value) else f"{value:.2f}x"


def judge_quality(metrics: Mapping[str, float]) -> str:
    """The verdict on the texts to be kept: maintained, not maintained, or neither was shown.

    It is lost where even the lower end is beyond the limit, on all of them together or on one of
    them, however few documents another one has. Runs that recorded no limit keep the verdict that
    they have.
    """
    if metrics.get("quality_maintained") == 1.0:
        return MAINTAINED
    limit = metrics.get("max_perplexity_ratio")
    whole = "perplexity_ratio"
    if limit is None or not Interval.is_among(metrics, whole):
        return NOT_SHOWN if list_too_few(metrics) else NOT_MAINTAINED
    kept = [one for one in read_domains(metrics) if one.kept]
    lost = any(one.is_lost(limit) for one in kept)
    return NOT_MAINTAINED if lost or not Interval.read(metrics, whole).low <= limit else NOT_SHOWN
