"""One trial: plan, prune, export, judge, measure."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_exp import benchmark, models, quality, surgery
from prune_exp.allocation import allocate
from prune_exp.calibration import Calibration, Statistics, calibrate
from prune_exp.consensus import make_plan, redundant
from prune_exp.corpus import Corpus, TokenBlocks, retokenized
from prune_exp.export import export, weights_sha256
from prune_exp.inputs import Inputs, prepare
from prune_exp.records import (
    PruningPlan,
    QualityComparison,
    SpeedComparison,
    TextUsed,
    TrialResult,
)
from prune_exp.settings import UNITS, Settings
from prune_exp.vocabulary import (
    encode_bytes,
    order_scores,
    read_vocabulary,
    text_bytes,
    trim,
)
from prune_exp.voters import score

if TYPE_CHECKING:
    import torch


@dataclass
class Stopwatch:
    """Wall seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times the body as `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - start


def run_trial(settings: Settings, folder: Path) -> TrialResult:
    """Prunes, exports to `folder`/model, judges and measures.

    Raises:
        SettingError: from `prepare`.
        ExportError: the checkpoint could not be written; nothing of it is left.
        MeasurementError: a measured process died.
    """
    watch = Stopwatch()
    with watch.phase("load"):
        inputs = prepare(settings)
        model = models.load(inputs.source.folder)
    with watch.phase("calibrate"):
        calibration = _calibrate(settings, inputs, model)
    baseline = None
    if settings.quality.enabled:
        with watch.phase("dense_quality"):
            baseline = quality.dense_baseline(
                model, inputs.source.digest, inputs.corpus.heldout, cache_dir=inputs.cache_dir
            )
            baseline = replace(baseline, head=baseline.head.clone())
    with watch.phase("vote"):
        plan = vote(settings, inputs, calibration.statistics)
    tokenizer, ids = _vocabulary(settings, inputs, plan)
    with watch.phase("prune"):
        pruned = surgery.prune(
            model,
            plan,
            ids,
            damping=settings.pruning.refit_damping,
            towards_dense=settings.pruning.refit_towards_dense,
            known=None if plan.tokens else calibration.states,
        )
    with watch.phase("export"):
        checkpoint = export(pruned, tokenizer, folder / "model")
    judged = None
    if baseline is not None:
        with watch.phase("quality"):
            judged = _judge(settings, inputs, pruned, baseline, tokenizer)
    pruned_shape = models.shape_of(pruned)
    del model, pruned, baseline
    measured = None
    if settings.benchmark.enabled:
        with watch.phase("measure"):
            measured = _measure(settings, inputs, checkpoint, tokenizer)
    return TrialResult(
        model_digest=inputs.source.digest,
        texts=_texts(inputs.corpus),
        dense_shape=inputs.shape,
        pruned_shape=pruned_shape,
        plan=plan,
        weights_sha256=weights_sha256(checkpoint),
        quality=judged,
        speed=measured,
        seconds=watch.seconds,
    )


def _calibrate(settings: Settings, inputs: Inputs, model: Any) -> Calibration:
    return calibrate(
        model,
        inputs.source.digest,
        inputs.corpus,
        inputs.tokenizer,
        gradient_blocks=settings.data.gradient_blocks,
        cache_dir=inputs.cache_dir,
    )


def vote(settings: Settings, inputs: Inputs, statistics: Statistics) -> PruningPlan:
    """Scores every unit and lets the voters decide."""
    pruning, shape = settings.pruning, inputs.shape
    allocation = allocate(shape, settings.sparsity, pruning)
    kinds = [kind for kind in UNITS if kind != "vocab" or allocation.tokens]
    scores = {
        kind: score(
            pruning.voters, statistics, kind, head_unit=pruning.head_unit, seed=settings.seed
        )
        for kind in kinds
    }
    if allocation.tokens:
        vocabulary = read_vocabulary(inputs.tokenizer)
        scores["vocab"] = {
            name: order_scores(values[0], vocabulary)[None]
            for name, values in scores["vocab"].items()
        }
    return make_plan(
        scores,
        shape,
        allocation,
        sparsity=settings.sparsity,
        vote_threshold=settings.vote_threshold,
        pruning=pruning,
    )


def _vocabulary(
    settings: Settings, inputs: Inputs, plan: PruningPlan
) -> tuple[Any, "torch.Tensor | None"]:
    """The pruned model's tokenizer, and the text to refit on in the dense model's ids."""
    import torch

    ids = inputs.corpus.calibration.ids if settings.pruning.refit else None
    if not plan.tokens:
        return inputs.tokenizer, ids
    trimmed, kept = trim(inputs.tokenizer, plan.tokens)
    if ids is not None:
        ids = torch.tensor(kept)[retokenized(inputs.corpus, settings.data, trimmed)]
    return trimmed, ids


def warnings_about(plan: PruningPlan, settings: Settings) -> list[str]:
    """Sentences about voters that share one opinion, by kind of unit."""
    return [
        f"{a} and {b} rank {kind} alike (rank correlation {value:.2f}): one opinion, two ballots"
        for kind, table in plan.agreement.items()
        for a, b, value in redundant(table, settings.pruning.redundancy)
    ]


def _judge(
    settings: Settings,
    inputs: Inputs,
    pruned: Any,
    baseline: quality.DenseBaseline,
    tokenizer: Any,
) -> QualityComparison:
    import torch

    def reencode(block: "torch.Tensor") -> tuple[int, "torch.Tensor"]:
        data = (
            text_bytes(inputs.tokenizer, part) for part in (block[:1].tolist(), block[1:].tolist())
        )
        first, rest = (encode_bytes(tokenizer, part) for part in data)
        return len(first), torch.tensor(first + rest)

    return quality.compare(
        pruned,
        baseline,
        inputs.corpus.heldout,
        max_perplexity_ratio=settings.quality.max_perplexity_ratio,
        resamples=settings.benchmark.bootstrap_resamples,
        reencode=None if tokenizer is inputs.tokenizer else reencode,
    )


def _measure(
    settings: Settings, inputs: Inputs, checkpoint: Path, tokenizer: Any
) -> SpeedComparison:
    sides = {"dense": inputs.tokenizer, "pruned": tokenizer}
    prompts = {
        side: [one(text)["input_ids"] for text in inputs.prompts] for side, one in sides.items()
    }
    speed = benchmark.measure(inputs.source.folder, checkpoint, prompts, settings.benchmark)
    samples = tuple(
        {
            **{key: value for key, value in sample.items() if key != "ids"},
            "prompt_text": inputs.prompts[sample["prompt"]],
            "text": sides[sample["model"]].decode(sample["ids"][0]),
        }
        for sample in speed.samples
    )
    return replace(speed, samples=samples)


def _texts(corpus: Corpus) -> tuple[TextUsed, ...]:
    def one(role: str, text: TokenBlocks) -> TextUsed:
        return TextUsed(
            role=role,
            source=text.source,
            digest=text.digest,
            blocks=text.ids.shape[0],
            tokens=text.ids.numel(),
        )

    return one("calibration", corpus.calibration), one("heldout", corpus.heldout)
