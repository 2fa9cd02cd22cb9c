"""One trial: plan, prune, export, judge, measure."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prune_exp import benchmark, models, quality, surgery
from prune_exp.allocation import allocate
from prune_exp.cache import digest_of, file_sha256
from prune_exp.calibration import Statistics, calibrate
from prune_exp.consensus import make_plan, redundant
from prune_exp.corpus import Corpus, TokenBlocks, load_corpus
from prune_exp.records import (
    ModelShape,
    PruningPlan,
    QualityComparison,
    SpeedComparison,
    TextUsed,
    TrialResult,
)
from prune_exp.settings import UNITS, Settings
from prune_exp.voters import check_voters, score


class ExportError(RuntimeError):
    """The pruned model could not be written."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a trial starts from, all of it checked."""

    source: models.ModelSource
    tokenizer: Any
    corpus: Corpus
    prompts: list[str]
    shape: ModelShape
    cache_dir: Path


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


def prepare(settings: Settings) -> Inputs:
    """Finds and checks everything a trial needs; writes nothing but caches.

    Raises:
        SettingError: something the user named is missing, or the request cannot be met.
    """
    check_voters(settings.pruning.voters)
    prompts = benchmark.read_prompts(settings.benchmark)
    cache_dir = Path(settings.cache_dir).expanduser()
    source = models.locate(settings.model, cache_dir)
    shape = models.shape_of(models.skeleton(source.folder))
    allocate(shape, settings.sparsity, settings.pruning)
    tokenizer = models.load_tokenizer(source.folder)
    corpus = load_corpus(settings.data, tokenizer, seed=settings.seed)
    return Inputs(
        source=source,
        tokenizer=tokenizer,
        corpus=corpus,
        prompts=prompts,
        shape=shape,
        cache_dir=cache_dir,
    )


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
        statistics = _calibrate(settings, inputs, model)
    baseline = None
    if settings.quality.enabled:
        with watch.phase("dense_quality"):
            baseline = quality.dense_baseline(
                model, inputs.source.digest, inputs.corpus.heldout, cache_dir=inputs.cache_dir
            )
            baseline = replace(baseline, head=baseline.head.clone())
    with watch.phase("vote"):
        plan = vote(settings, inputs.shape, statistics)
    ids = inputs.corpus.calibration.ids if settings.pruning.refit else None
    with watch.phase("prune"):
        pruned = surgery.prune(model, plan, ids, damping=settings.pruning.refit_damping)
    with watch.phase("export"):
        checkpoint = export(pruned, inputs, folder / "model")
    judged = None
    if baseline is not None:
        with watch.phase("quality"):
            judged = _judge(settings, inputs, pruned, baseline)
    pruned_shape = models.shape_of(pruned)
    del model, pruned, baseline
    measured = None
    if settings.benchmark.enabled:
        with watch.phase("measure"):
            measured = _measure(settings, inputs, checkpoint)
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


def _calibrate(settings: Settings, inputs: Inputs, model: Any) -> Statistics:
    return calibrate(
        model,
        inputs.source.digest,
        inputs.corpus.calibration,
        gradient_blocks=settings.data.gradient_blocks,
        cache_dir=inputs.cache_dir,
    )


def vote(settings: Settings, shape: ModelShape, statistics: Statistics) -> PruningPlan:
    """Scores every unit and lets the voters decide."""
    pruning = settings.pruning
    scores = {
        kind: score(
            pruning.voters, statistics, kind, head_unit=pruning.head_unit, seed=settings.seed
        )
        for kind in UNITS
    }
    return make_plan(
        scores,
        shape,
        allocate(shape, settings.sparsity, pruning),
        sparsity=settings.sparsity,
        vote_threshold=settings.vote_threshold,
        pruning=pruning,
    )


def warnings_about(plan: PruningPlan, settings: Settings) -> list[str]:
    """Sentences about voters that share one opinion, by kind of unit."""
    return [
        f"{a} and {b} rank {kind} alike (rank correlation {value:.2f}): one opinion, two ballots"
        for kind, table in plan.agreement.items()
        for a, b, value in redundant(table, settings.pruning.redundancy)
    ]


def export(model: Any, inputs: Inputs, target: Path) -> Path:
    """Writes a stock checkpoint to `target`, whole or not at all.

    Raises:
        ExportError: writing failed, for instance because the disk is full.
    """
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        models.save(model, inputs.tokenizer, partial)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, Exception):
            raise ExportError(f"could not write the pruned model to {target}: {error}") from error
        raise
    return target


def weights_sha256(checkpoint: Path) -> str:
    """One digest for all weights files of a checkpoint; the file's own when there is one."""
    digests = [file_sha256(path) for path in sorted(checkpoint.glob("*.safetensors"))]
    return digests[0] if len(digests) == 1 else digest_of(digests)


def _judge(
    settings: Settings, inputs: Inputs, pruned: Any, baseline: quality.DenseBaseline
) -> QualityComparison:
    return quality.compare(
        pruned,
        baseline,
        inputs.corpus.heldout,
        max_perplexity_ratio=settings.quality.max_perplexity_ratio,
        resamples=settings.benchmark.bootstrap_resamples,
    )


def _measure(settings: Settings, inputs: Inputs, checkpoint: Path) -> SpeedComparison:
    tokenizer = inputs.tokenizer
    prompts = [tokenizer(text)["input_ids"] for text in inputs.prompts]
    speed = benchmark.measure(inputs.source.folder, checkpoint, prompts, settings.benchmark)
    samples = tuple(
        {
            **{key: value for key, value in sample.items() if key != "ids"},
            "prompt_text": inputs.prompts[sample["prompt"]],
            "text": tokenizer.decode(sample["ids"][0]),
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
