"""One trial: plan, prune, export, judge, measure."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from prune_exp import benchmark, models, quality
from prune_exp.consensus import redundant
from prune_exp.corpus import Corpus, TokenBlocks
from prune_exp.device import device_of
from prune_exp.export import export, weights_sha256
from prune_exp.inputs import Inputs, prepare
from prune_exp.pruner import prune_model
from prune_exp.recoding import reencoder
from prune_exp.records import PruningPlan, QualityComparison, SpeedComparison, TextUsed, TrialResult
from prune_exp.recovery import Recovered, recover
from prune_exp.settings import Settings
from prune_exp.stopwatch import Stopwatch


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
        model = models.load(inputs.source.folder, device=device_of(settings.device))
    head = models.head_of(model).weight.clone()
    baseline = None
    if settings.quality.enabled:
        with watch.phase("dense_quality"):
            baseline = quality.dense_baseline(
                model, inputs.source.digest, inputs.corpus.heldout, cache_dir=inputs.cache_dir
            )
            baseline = replace(baseline, head=head)
    done = prune_model(settings, inputs, model, watch)
    recovered = None
    if settings.recovery.name != "none":
        with watch.phase("recover"):
            recovered = recover(settings, inputs, done, head)
    with watch.phase("export"):
        checkpoint = export(done.model, done.tokenizer, folder / "model")
    judged = None
    if baseline is not None:
        with watch.phase("quality"):
            judged = _judge(settings, inputs, done.model, baseline, done.tokenizer)
    plan, tokenizer, pruned_shape = done.plan, done.tokenizer, models.shape_of(done.model)
    del model, done, baseline, head
    measured = None
    if settings.benchmark.enabled:
        with watch.phase("measure"):
            measured = _measure(settings, inputs, checkpoint, tokenizer)
    return TrialResult(
        model_digest=inputs.source.digest,
        texts=_texts(inputs.corpus, recovered),
        dense_shape=inputs.shape,
        pruned_shape=pruned_shape,
        plan=plan,
        weights_sha256=weights_sha256(checkpoint),
        quality=judged,
        speed=measured,
        seconds=watch.seconds,
        peak_mib=watch.peak_mib,
        recovery=None if recovered is None else recovered.record,
    )


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
    trimmed = tokenizer is not inputs.tokenizer
    return quality.compare(
        pruned,
        baseline,
        inputs.corpus.heldout,
        max_perplexity_ratio=settings.quality.max_perplexity_ratio,
        resamples=settings.benchmark.bootstrap_resamples,
        reencode=reencoder(inputs.tokenizer, tokenizer) if trimmed else None,
    )


def _measure(
    settings: Settings, inputs: Inputs, checkpoint: Path, tokenizer: Any
) -> SpeedComparison:
    sides = {"dense": inputs.tokenizer, "pruned": tokenizer}
    prompts = {
        side: [one(text)["input_ids"] for text in inputs.prompts] for side, one in sides.items()
    }
    speed = benchmark.measure(
        inputs.source.folder,
        checkpoint,
        prompts,
        settings.benchmark,
        cache=inputs.cache_dir / "served" / inputs.source.digest,
        device=device_of(settings.device),
    )
    samples = tuple(
        {
            **{key: value for key, value in sample.items() if key != "ids"},
            "prompt_text": inputs.prompts[sample["prompt"]],
            "text": sides[sample["model"]].decode(sample["ids"][0]),
        }
        for sample in speed.samples
    )
    return replace(speed, samples=samples)


def _texts(corpus: Corpus, recovered: Recovered | None) -> tuple[TextUsed, ...]:
    def one(role: str, text: TokenBlocks) -> TextUsed:
        return TextUsed(
            role=role,
            source=text.source,
            digest=text.digest,
            blocks=text.ids.shape[0],
            tokens=text.ids.numel(),
        )

    trained = () if recovered is None else recovered.texts
    return one("calibration", corpus.calibration), one("heldout", corpus.heldout), *trained
