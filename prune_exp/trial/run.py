"""One trial: calibrate, vote, cut and refit, recover, export, judge, measure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prune_exp.machine.device import choose_device
from prune_exp.machine.limits import available_threads, fit_threads
from prune_exp.machine.staging import discard_partial
from prune_exp.machine.stopwatch import Stopwatch
from prune_exp.measurement import quality
from prune_exp.measurement.benchmark import measure_pair
from prune_exp.measurement.conditions import describe_machine
from prune_exp.measurement.early_looks import SurelyBeyond
from prune_exp.measurement.prompts import tokenize_prompts
from prune_exp.measurement.records import QualityComparison, SpeedComparison
from prune_exp.measurement.repetition import compare_behaviour
from prune_exp.model.architectures import head_of, shape_of
from prune_exp.model.export import (
    choose_export_dtype,
    export_model,
    weights_bytes,
    weights_sha256,
)
from prune_exp.model.shape import ModelShape
from prune_exp.pruning.allocation import describe_odd_width
from prune_exp.pruning.consensus import redundant_pairs
from prune_exp.pruning.plan import PruningPlan
from prune_exp.pruning.pruner import Pruned, prune_model
from prune_exp.recovery.checkpoints import discard_state
from prune_exp.recovery.recover import Recovered, recover
from prune_exp.settings.schema import Settings
from prune_exp.text.corpus import Corpus, reserved_digest
from prune_exp.text.records import TextUsed
from prune_exp.text.token_bytes import make_reencoder
from prune_exp.tracking.result import StoppedTrial, TrialResult
from prune_exp.trial.dense import load_dense
from prune_exp.trial.judged_tasks import JudgedTasks
from prune_exp.trial.prepare import TrialInputs, prepare_trial, pruning_request
from prune_exp.trial.stops import Stops


def run_trial(settings: Settings, folder: Path) -> TrialResult:
    """Prunes, exports to `folder`/model, judges and measures.

    Raises:
        SettingError: from `prepare_trial`.
        ExportError: the checkpoint could not be written; nothing of it is left.
        MeasurementError: a measured process died.
    """
    result = run_within(settings, folder, {})
    assert isinstance(result, TrialResult)
    if result.training_kept is not None:
        discard_state(result.training_kept)
    return result


def run_within(
    settings: Settings, folder: Path, limits: Mapping[str, float]
) -> TrialResult | StoppedTrial:
    """The same, ended as soon as one of the `limits`, by metric, surely cannot be met.

    Raises:
        Exception: as `run_trial` does.
    """
    fit_threads()
    watch = Stopwatch(choose_device(settings.device))
    with watch.phase("load"):
        inputs = prepare_trial(settings)
    stops = Stops(settings=settings, dense=inputs.dense, limits=limits)
    target = folder / "model"
    try:
        return _run_prepared(settings, inputs, target, watch, stops)
    except SurelyBeyond as beyond:
        discard_partial(target)
        return stops.tell(beyond, watch)


def _run_prepared(
    settings: Settings, inputs: TrialInputs, target: Path, watch: Stopwatch, stops: Stops
) -> TrialResult:
    dense = inputs.dense
    stops.check_request()
    with watch.phase("load"):
        model = load_dense(settings, dense.source, target)
    tasks = JudgedTasks(settings=settings, inputs=inputs, watch=watch)
    tasks.ask_dense(model)
    pruned, recovered, judged = _prune_and_judge(
        settings, inputs, model, target, watch, stops, tasks
    )
    del model  # the measured processes need the memory
    discard_partial(target)
    measured = None
    if settings.benchmark.enabled:
        with watch.phase("measure"):
            measured = _measure_speed(settings, inputs, target, pruned.tokenizer)
    return TrialResult(
        model_digest=dense.source.digest,
        reserved_digest=reserved_digest(settings.data, settings.quality),
        texts=_texts_used(dense.corpus, recovered),
        dense_shape=dense.shape,
        pruned_shape=pruned.shape,
        plan=pruned.plan,
        weights_sha256=weights_sha256(target),
        file_bytes=weights_bytes(target),
        quality=judged,
        tasks=tasks.compare(),
        speed=measured,
        behaviour=None if measured is None else compare_behaviour(measured.samples),
        machine={} if measured else describe_machine(available_threads(), watch.device),
        seconds=watch.seconds,
        peak_mib=watch.peak_mib,
        recovery=None if recovered is None else recovered.record,
        training_kept=None if recovered is None else recovered.kept,
    )


@dataclass(frozen=True, kw_only=True)
class _Exported:
    """What is kept of a pruned model once its weights are on disk."""

    tokenizer: Any
    plan: PruningPlan
    shape: ModelShape


def _prune_and_judge(
    settings: Settings,
    inputs: TrialInputs,
    model: Any,
    target: Path,
    watch: Stopwatch,
    stops: Stops,
    tasks: JudgedTasks,
) -> tuple[_Exported, Recovered | None, QualityComparison | None]:
    """Prunes the dense model, which is used up, recovers, exports to `target` and judges."""
    dense = inputs.dense
    head = head_of(model).weight.clone()  # [vocab, hidden]; pruning uses the model up
    baseline = _judge_dense(settings, inputs, model, watch)
    request = pruning_request(settings)
    pruned = prune_model(request, dense, model, watch, approve=stops.check_plan)
    recovered = None
    if settings.recovery.name != "none":
        with watch.phase("recover"):
            recovered = recover(settings.recovery, dense, pruned, head)
    with watch.phase("export"):
        dtype = choose_export_dtype(settings.model.export_dtype, dense.source.folder)
        export_model(pruned.model, pruned.tokenizer, target, dtype, dense=dense.source.folder)
    judged = None
    if baseline is not None:
        try:
            with watch.phase("quality"):
                full = replace(baseline, head=head)
                judged = _judge_pruned(settings, inputs, pruned, full, stops.limits)
            stops.check_quality(judged)
        except SurelyBeyond:
            if recovered is not None:
                discard_state(recovered.kept)
            raise
    tasks.ask_pruned(pruned.model, pruned.tokenizer)
    shape = shape_of(pruned.model)
    return _Exported(tokenizer=pruned.tokenizer, plan=pruned.plan, shape=shape), recovered, judged


def describe_redundant_voters(plan: PruningPlan, settings: Settings) -> list[str]:
    """Sentences about voters that share one opinion, by kind of unit."""
    return [
        f"{a} and {b} rank {kind} alike (rank correlation {value:.2f}): one opinion, two ballots"
        for kind, agreement in plan.agreement.items()
        for a, b, value in redundant_pairs(agreement, settings.pruning.redundancy)
    ]


def describe_width(result: TrialResult, settings: Settings) -> str | None:
    """A sentence about an MLP width that cannot be quantized."""
    return describe_odd_width(
        result.dense_shape, result.pruned_shape.width, settings.sparsity, settings.pruning
    )


def _judge_dense(
    settings: Settings, inputs: TrialInputs, model: Any, watch: Stopwatch
) -> quality.DenseBaseline | None:
    if not settings.quality.enabled:
        return None
    dense = inputs.dense
    with watch.phase("dense_quality"):
        return quality.dense_baseline(
            model, dense.source.digest, dense.corpus.heldout, cache_dir=dense.cache_dir
        )


def _judge_pruned(
    settings: Settings,
    inputs: TrialInputs,
    pruned: Pruned,
    baseline: quality.DenseBaseline,
    limits: Mapping[str, float],
) -> QualityComparison:
    dense = inputs.dense
    reencode = None
    if pruned.tokenizer is not dense.tokenizer:
        reencode = make_reencoder(dense.tokenizer, pruned.tokenizer)
    return quality.compare_quality(
        pruned.model,
        baseline,
        dense.corpus.heldout,
        max_perplexity_ratio=settings.quality.max_perplexity_ratio,
        reencode=reencode,
        limits=limits,
    )


def _measure_speed(
    settings: Settings, inputs: TrialInputs, checkpoint: Path, tokenizer: Any
) -> SpeedComparison:
    dense = inputs.dense
    tokenizers = {"dense": dense.tokenizer, "pruned": tokenizer}
    speed = measure_pair(
        dense.source.folder,
        checkpoint,
        tokenize_prompts(inputs.prompts, tokenizers, as_chat=settings.benchmark.chat),
        settings.benchmark,
        cache=dense.cache_dir / "served" / dense.source.digest,
        device=choose_device(settings.device),
    )
    samples = tuple(
        {
            **{key: value for key, value in sample.items() if key != "ids"},
            "prompt_text": inputs.prompts[sample["prompt"]],
            "text": tokenizers[sample["model"]].decode(sample["ids"][0]),
            "pieces": tokenizers[sample["model"]].convert_ids_to_tokens(sample["ids"][0]),
        }
        for sample in speed.samples
    )
    return replace(speed, samples=samples)


def _texts_used(corpus: Corpus, recovered: Recovered | None) -> tuple[TextUsed, ...]:
    by_role = {"calibration": corpus.calibration, "heldout": corpus.heldout}
    read = tuple(
        TextUsed(
            role=role,
            source=text.source,
            digest=text.digest,
            blocks=text.ids.shape[0],
            tokens=text.ids.numel(),
        )
        for role, text in by_role.items()
    )
    return read if recovered is None else read + recovered.texts
