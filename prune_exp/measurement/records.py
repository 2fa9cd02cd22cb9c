"""What was measured of both models: speed, memory and quality, and the metrics of that."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from prune_exp.text.records import FEWEST_DOCUMENTS

Flat = dict[str, float]
LOW = "_ci95_low"
HIGH = "_ci95_high"
DOMAIN = "domain/"
"""Before the name of a kind of text in the metrics of it."""
TASK = "task/"
"""Before the name of a task in the metrics of it."""
FEW_PAIRS = 12
"""Below so many pairs a bootstrap knows too little, and intervals are Student's t."""

FOUND_AGAIN = 1 + math.sqrt(2) * 1.2816 / 1.96
"""How much longer the upper half of an interval must be for the upper end of another one, of as
many documents, to lie within it in nine of ten cases: two estimates differ by the root of 2 times
the error of one."""


UNKNOWN_FACTOR = 1e6
"""Between both ends of a ratio of which nothing is known."""


def nan_to_inf(value: float) -> float:
    """A figure that is no number counts as beyond all limits."""
    return math.inf if math.isnan(value) else value


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def width_pct(self) -> float:
        """Width of the interval as a percentage of the value."""
        return 100 * (self.high - self.low) / self.value

    def metrics(self, name: str) -> Flat:
        """The value and both ends as metrics."""
        return {name: self.value, f"{name}{LOW}": self.low, f"{name}{HIGH}": self.high}

    @staticmethod
    def is_among(metrics: Mapping[str, float], name: str) -> bool:
        """Whether some metrics hold an interval of this name."""
        return {name, f"{name}{LOW}", f"{name}{HIGH}"} <= metrics.keys()

    @classmethod
    def read(cls, metrics: Mapping[str, float], name: str) -> "Interval":
        """What `metrics` wrote."""
        return cls(value=metrics[name], low=metrics[f"{name}{LOW}"], high=metrics[f"{name}{HIGH}"])

    @property
    def ends(self) -> tuple[float, float]:
        """Low and high."""
        return self.low, self.high

    def percent(self, *, gain: bool) -> "Interval":
        """A ratio as a percentage: what was gained over 1, or what was saved from 1."""
        low, high = (self.low, self.high) if gain else (self.high, self.low)
        sign = 100 if gain else -100
        return Interval(value=sign * (self.value - 1), low=sign * (low - 1), high=sign * (high - 1))

    @property
    def tells_nothing(self) -> bool:
        """Whether the ends of a ratio are as far apart as where one document judged."""
        return not self.high < UNKNOWN_FACTOR * self.low

    def widened(self, factor: float) -> "Interval":
        """The interval of a ratio, its logarithm's distances to both ends times a factor."""
        low, high = (self.value * (end / self.value) ** factor for end in (self.low, self.high))
        return Interval(value=self.value, low=low, high=high)

    def inverse(self) -> "Interval":
        """The same ratio the other way round."""
        return Interval(value=1 / self.value, low=1 / self.high, high=1 / self.low)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the machine can do and how busy it was, in numbers."""

    read_bandwidth_gb_per_s: float
    """Bytes a second that matrix-vector products or sums read from buffers beyond the caches."""
    copy_bandwidth_gb_per_s: float
    """Bytes a second read and written by a copy."""
    peak_gflop_per_s: float
    """Floating-point operations a second of a large matrix product, in the weights' type."""
    last_level_cache_mib: float
    """The caches that are nearest to the memory, of the cores that may be used."""
    load_average_start: float
    load_average_end: float
    load_per_core_start: float
    """Load average over one minute before the start, per core; the trial's own work included."""
    busy_pct_start: float
    """Share of the cores that was in use at the start while this trial did nothing."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One model's measurements in its own process. Requests at batch 1 unless said otherwise."""

    latency_ms_mean: float
    latency_ms_p50: float
    latency_ms_p90: float
    latency_ms_p99: float
    ttft_ms: float
    """Prefill: time to the first token, median."""
    ttft_ms_p90: float
    ttft_ms_p99: float
    tpot_ms: float
    """Decode: time per output token after the first, median over requests."""
    tpot_ms_p90: float
    tpot_ms_p99: float
    throughput_tokens_per_s: float
    """New tokens a second, those after the first."""
    peak_memory_mib: float
    """Peak resident memory of the process above its level before the model loads."""
    weights_mib: float
    kv_cache_mib: float
    """Keys and values of the largest request before the peak was read, from shapes."""
    kv_cache_measured_mib: float
    """The same, from the tensors in the cache when that request ended."""
    buffers_mib: float
    """What is left of the peak: activations, logits, the allocator's and the loader's."""
    mib_read_per_token: float
    """Weights and mean keys and values read for one token of decoding."""
    bandwidth_limit_tokens_per_s: float
    """Tokens a second if reading those were all there is to do."""
    share_of_bandwidth: float
    """Attained tokens a second over that limit."""
    decode_flop_per_byte: float
    decode_gflop_per_s: float
    prefill_flop_per_byte: float
    prefill_gflop_per_s: float
    startup_s: float
    """From the start of the process until the model is loaded and answers."""


@dataclass(frozen=True, kw_only=True)
class BatchSide:
    """One model's requests of one batch size, medians."""

    throughput_tokens_per_s: float
    """New tokens of all sequences over the whole request's time, prefill included."""
    ttft_ms: float
    tpot_ms: float
    decode_flop_per_byte: float
    decode_gflop_per_s: float


@dataclass(frozen=True, kw_only=True)
class BatchSpeed:
    """Both models' requests of one batch size and prompt length."""

    label: str
    """`b8`, or `b8_p128` with a set prompt length; part of the metrics' names."""
    dense: BatchSide
    pruned: BatchSide
    throughput_ratio: Interval

    def metrics(self) -> Flat:
        """Metrics whose names carry the batch size."""
        flat: Flat = {}
        for side, one in (("dense", self.dense), ("pruned", self.pruned)):
            for key, value in asdict(one).items():
                first, _, rest = key.partition("_")
                flat[f"{side}/{first}_{self.label}_{rest}"] = value
        name = f"throughput_{self.label}"
        ratio = self.throughput_ratio
        return (
            flat
            | ratio.metrics(f"{name}_ratio")
            | ratio.percent(gain=True).metrics(f"{name}_gain_pct")
        )


@dataclass(frozen=True, kw_only=True)
class AnswerSide:
    """What one model's answers to the prompts are like, means over prompts."""

    repeated_runs_pct: float
    """Runs of four tokens that came before in the same answer."""
    degenerate_answers_pct: float
    """Answers more than half of whose runs did."""


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What both models' answers to the same prompts are like."""

    dense: AnswerSide
    pruned: AnswerSide

    def metrics(self) -> Flat:
        """All numbers under their metrics' names."""
        sides = (("dense", self.dense), ("pruned", self.pruned))
        return {f"{side}/{key}": value for side, one in sides for key, value in asdict(one).items()}


@dataclass(frozen=True, kw_only=True)
class TaskComparison:
    """Both models' answers to the questions of a task."""

    questions: int
    dense_accuracy_pct: float
    pruned_accuracy_pct: float
    accuracy_change: Interval
    """Pruned minus dense, as a share of the questions."""
    mcnemar_p_value: float
    """How likely so uneven a split of the flipped questions is where both are as good."""
    flipped: tuple[dict[str, str], ...] = ()
    """Questions that one of them answers right."""

    def metrics(self, name: str) -> Flat:
        """Its figures under names that begin with `task/<name>`."""
        prefix = f"{TASK}{name}"
        points = self.accuracy_change
        change = Interval(value=100 * points.value, low=100 * points.low, high=100 * points.high)
        return {
            f"{prefix}/questions": self.questions,
            f"{prefix}/dense_accuracy_pct": self.dense_accuracy_pct,
            f"{prefix}/pruned_accuracy_pct": self.pruned_accuracy_pct,
            f"{prefix}/mcnemar_p_value": self.mcnemar_p_value,
        } | change.metrics(f"{prefix}/accuracy_change_points")


@dataclass(frozen=True, kw_only=True)
class SpeedComparison:
    """Paired measurement of the dense and the pruned model."""

    dense: Speed
    pruned: Speed
    speedup: Interval
    """Dense latency / pruned latency: interquartile mean over pairs, as all ratios of times."""
    prefill_speedup: Interval
    """Dense / pruned time to the first token."""
    throughput_ratio: Interval
    """Pruned / dense decode rate."""
    memory_ratio: Interval
    """Pruned peak / dense peak."""
    bandwidth_limit_speedup: float
    """Bytes per token of the dense model / of the pruned one."""
    machine: Machine
    prompts: int
    pairs: int
    """Pairs of requests behind the latency ratios: prompts times rounds, unless stopped early."""
    stopped_by: str
    """What ended the pairs: rounds, target_ci or budget."""
    measured_s: float
    """Wall time of the pairs of requests."""
    batches: tuple[BatchSpeed, ...] = ()
    samples: tuple[dict[str, Any], ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    """Machine, versions and settings of the measurement, for the record."""

    def metrics(self) -> Flat:
        """All numbers under their metrics' names."""
        flat = {f"dense/{key}": value for key, value in asdict(self.dense).items()}
        flat |= {f"pruned/{key}": value for key, value in asdict(self.pruned).items()}
        latency = self.speedup.inverse()
        memory = self.memory_ratio
        for name, interval in (
            ("speedup", self.speedup),
            ("prefill_speedup", self.prefill_speedup),
            ("latency_ratio", latency),
            ("latency_reduction_pct", latency.percent(gain=False)),
            ("memory_ratio", memory),
            ("memory_reduction_pct", memory.percent(gain=False)),
            ("throughput_ratio", self.throughput_ratio),
            ("throughput_gain_pct", self.throughput_ratio.percent(gain=True)),
        ):
            flat |= interval.metrics(name)
        for batch in self.batches:
            flat |= batch.metrics()
        return flat | self._memory_saved() | self._limits()

    def _memory_saved(self) -> Flat:
        """The saving split into what it consists of; negative where more is used."""
        parts = ("weights", "kv_cache", "buffers", "peak_memory")
        return {
            f"saved/{part}_mib": getattr(self.dense, f"{part}_mib")
            - getattr(self.pruned, f"{part}_mib")
            for part in parts
        }

    def _limits(self) -> Flat:
        limit = self.bandwidth_limit_speedup
        return {
            "bandwidth_limit_speedup": limit,
            "share_of_limit": self.speedup.value / limit,
            "test_prompts": self.prompts,
            "test_pairs": self.pairs,
            "measured_s": self.measured_s,
        } | {f"machine/{key}": value for key, value in asdict(self.machine).items()}


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Held-out quality of one model, and of the pruned one against the dense one."""

    bits_per_byte: float
    perplexity: float
    """exp of the mean loss per token of the dense model's tokenizer, whoever is judged."""
    bytes_per_token: float
    """UTF-8 bytes of text that one of the model's own tokens stands for."""
    tokens: int


@dataclass(frozen=True, kw_only=True)
class DomainQuality:
    """Both models on the held-out blocks of one kind of text."""

    dense: Quality
    pruned: Quality
    perplexity_ratio: Interval
    chance_beyond: float
    """How likely so small a ratio is where the truth is just beyond the limit (one-sided)."""
    documents: int
    """How many documents the blocks are of: what the interval counts."""
    kept: bool
    """Whether a model that loses this text has not kept its quality."""

    def metrics(self, name: str) -> Flat:
        """Its figures under names that begin with `domain/<name>`."""
        prefix = f"{DOMAIN}{name}"
        return {
            f"{prefix}/dense_bits_per_byte": self.dense.bits_per_byte,
            f"{prefix}/pruned_bits_per_byte": self.pruned.bits_per_byte,
            f"{prefix}/tokens": self.dense.tokens,
            f"{prefix}/documents": self.documents,
            f"{prefix}/kept": self.kept,
        } | self.perplexity_ratio.metrics(f"{prefix}/perplexity_ratio")


@dataclass(frozen=True, kw_only=True)
class DocumentQuality:
    """Both models on what is predicted of one document."""

    domain: str
    place: int
    """Among the documents of its domain, from 0, in the order of their file."""
    tokens: int
    """Of the dense model's tokenizer."""
    dense_loss_nats: float
    """Summed over the tokens, as the next."""
    pruned_loss_nats: float

    @property
    def rise_nats(self) -> float:
        """What the pruned model loses on it, all tokens together."""
        return self.pruned_loss_nats - self.dense_loss_nats


@dataclass(frozen=True, kw_only=True)
class QualityComparison:
    """Both models on the same held-out blocks, those of all domains that are to be kept."""

    dense: Quality
    pruned: Quality
    perplexity_ratio: Interval
    chance_beyond: float
    """As that of a domain."""
    documents: int
    kl_to_dense: float | None
    """Mean KL(dense || pruned) of the next-token distributions, nats; None across vocabularies."""
    top1_agreement: float | None
    """Share of positions where both rank the same token first; None across vocabularies."""
    token_ratio: Interval
    """Tokens that the dense model needs for the same text, over the pruned one's own."""
    max_perplexity_ratio: float
    domains: dict[str, DomainQuality] = field(default_factory=dict)
    """By the name of the text, those that need not be kept included."""
    by_document: tuple[DocumentQuality, ...] = ()
    """Every document that tokens were predicted of, domain by domain."""

    @property
    def worst(self) -> Interval:
        """The perplexity ratio on the text, of those to be kept, whose upper end is highest."""
        kept = [one.perplexity_ratio for one in self.domains.values() if one.kept]
        return max([self.perplexity_ratio, *kept], key=lambda one: nan_to_inf(one.high))

    @property
    def foreseen(self) -> float:
        """Below which the upper end found on as many other documents lies in nine of ten cases.

        On the text, of those to be kept, where that is highest.
        """
        kept = [one.perplexity_ratio for one in self.domains.values() if one.kept]
        found = [one.widened(FOUND_AGAIN).high for one in (self.perplexity_ratio, *kept)]
        return max(map(nan_to_inf, found))

    @property
    def lost(self) -> list[str]:
        """Domains, kept ones first, on which the upper end is beyond the configured limit."""
        beyond = [
            name
            for name, domain in self.domains.items()
            if not domain.perplexity_ratio.high <= self.max_perplexity_ratio
        ]
        return sorted(beyond, key=lambda name: not self.domains[name].kept)

    @property
    def too_few(self) -> list[str]:
        """Domains to be kept with too few documents for a verdict."""
        return [
            name
            for name, domain in self.domains.items()
            if domain.kept and domain.documents < FEWEST_DOCUMENTS
        ]

    @property
    def p_value(self) -> float:
        """How likely figures as good as these are if quality is lost on some text to be kept.

        One-sided, of this trial alone: all these texts have to pass, so the worst one counts. 1
        where there is no verdict.
        """
        if self.too_few or self.documents < FEWEST_DOCUMENTS:
            return 1.0
        kept = [one.chance_beyond for one in self.domains.values() if one.kept]
        return max([self.chance_beyond, *kept])

    @property
    def maintained(self) -> bool:
        """True when even the upper end is within the limit, on every domain to be kept.

        Never where one of them has too few documents.
        """
        if self.too_few or self.documents < FEWEST_DOCUMENTS:
            return False
        whole = self.perplexity_ratio.high <= self.max_perplexity_ratio
        return whole and not any(self.domains[name].kept for name in self.lost)
