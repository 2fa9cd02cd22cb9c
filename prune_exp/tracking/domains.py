"""Quality on each kind of text, as it was tracked."""

from collections.abc import Mapping
from dataclasses import dataclass

from prune_exp.measurement.records import DOMAIN, Interval
from prune_exp.text.records import FEWEST_DOCUMENTS


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
        """Whether the upper end is beyond the limit; of few documents, whether the lower end is."""
        found = self.perplexity_ratio
        return found.low > limit if self.too_few else not found.high <= limit

    def describe_verdict(self, limit: float) -> str:
        """lost, maintained, or why neither can be said."""
        if self.is_lost(limit):
            return "lost"
        if not self.too_few:
            return "maintained"
        return f"no verdict: {self.documents} document{'' if self.documents == 1 else 's'}"


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


def join_words(words: list[str]) -> str:
    """Words as in a sentence: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _show_loss(found: Interval, limit: float) -> str:
    """The ratio, and the upper end where that alone is beyond the limit."""
    if found.value <= limit < found.high:
        return f"{found.value:.2f}x, up to {found.high:.2f}x is possible"
    return f"{found.value:.2f}x"


def list_losses(domains: list[TrackedDomain], limit: float) -> str | None:
    """A sentence about the texts on which quality is lost; None where there is none."""
    lost = [one for one in domains if one.is_lost(limit)]
    if not lost:
        return None
    each = join_words([f"{one.name} ({_show_loss(one.perplexity_ratio, limit)})" for one in lost])
    return f"It is lost on {each}, beyond {limit:g} times the dense model's perplexity."
