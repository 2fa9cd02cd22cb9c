"""Quality on each kind of text, as it was tracked."""

from collections.abc import Mapping
from dataclasses import dataclass

from prune_exp.measurement.records import DOMAIN, Interval


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

    def is_lost(self, limit: float) -> bool:
        """Whether even the upper end is not within the limit."""
        return not self.perplexity_ratio.high <= limit


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
        )
        for name in names
    ]
    return sorted(found, key=lambda one: (not one.kept, one.name))


def join_words(words: list[str]) -> str:
    """Words as in a sentence: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def list_losses(domains: list[TrackedDomain], limit: float) -> str | None:
    """A sentence about the texts on which quality is lost; None where there is none."""
    lost = [one for one in domains if one.is_lost(limit)]
    if not lost:
        return None
    each = join_words([f"{one.name} ({one.perplexity_ratio.value:.2f}x)" for one in lost])
    return f"It is lost on {each}, beyond {limit:g} times the dense model's perplexity."
