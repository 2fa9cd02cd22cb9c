"""Training after pruning: the pruned model learns the dense one's distributions."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from prune_exp.machine.cache import digest_of
from prune_exp.machine.device import choose_dtype
from prune_exp.model.architectures import head_of
from prune_exp.model.next_tokens import MergedTokens
from prune_exp.pruning.inputs import Inputs
from prune_exp.pruning.pruner import Pruned
from prune_exp.recovery.checkpoints import drop_old_states
from prune_exp.recovery.readings import Reader, Reading, join_readings, read_alike
from prune_exp.recovery.record import Recovery
from prune_exp.recovery.split import Split, split_documents
from prune_exp.recovery.teacher import VERSION as TEACHER_VERSION
from prune_exp.recovery.teacher import Teacher
from prune_exp.recovery.training import BETAS, Diverged, Lessons, Progress, train
from prune_exp.settings.groups import RecoverySettings
from prune_exp.text.corpus import all_blocks, documents_for
from prune_exp.text.generation import generate_blocks
from prune_exp.text.records import TextUsed
from prune_exp.text.token_bytes import first_pieces

PROMPT_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """A trained model's record and the text it learnt from; the model was changed in place."""

    record: Recovery
    texts: tuple[TextUsed, ...]
    kept: Path
    """Where the trained weights are kept until nobody needs them, for `discard_state`."""


def recover(
    recovery: RecoverySettings, inputs: Inputs, pruned: Pruned, dense_head: torch.Tensor
) -> Recovered:
    """Trains `pruned.model` in place as `recovery` says.

    A trial that was killed goes on where its last judgement left it, or has only to write its model
    once it was trained. `dense_head` is the dense model's language-model head [vocab, hidden].

    Raises:
        Diverged: a loss was no number.
    """
    recovery = _settle_dtype(recovery, pruned.model.device)
    lessons = prepare_lessons(recovery, inputs, pruned, dense_head)
    texts = _texts_used(recovery, inputs, lessons)
    identity = identify_training(recovery, inputs, pruned)
    folder = inputs.cache_dir / "recovery" / digest_of(identity, [text.digest for text in texts])
    folder.parent.mkdir(parents=True, exist_ok=True)
    drop_old_states(folder.parent)
    with FileLock(f"{folder}.lock"):
        try:
            progress = train_weights(pruned.model, lessons, recovery, folder)
        except Diverged:  # it would do so again
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return Recovered(record=_record_of(progress), texts=texts, kept=folder)


def _settle_dtype(recovery: RecoverySettings, device: Any) -> RecoverySettings:
    """The settings with a type in place of auto."""
    return replace(recovery, dtype=choose_dtype(device, recovery.dtype))


def prepare_lessons(
    recovery: RecoverySettings, inputs: Inputs, pruned: Pruned, dense_head: torch.Tensor
) -> Lessons:
    """The blocks to train and to judge on, in the pruned model's ids, with their teacher."""
    recovery = _settle_dtype(recovery, pruned.model.device)
    split = split_documents(inputs.corpus.documents, pruned.tokenizer, recovery)
    reader = None
    if pruned.kept is not None:
        reader = Reader(inputs.tokenizer, pruned.tokenizer, pruned.kept)
    judged = _read_documents(split.judging, pruned.tokenizer, recovery, reader)
    return Lessons(
        training=_read_training(recovery, inputs, pruned, split, reader),
        validation=judged.first(recovery.validation_blocks),
        teacher=Teacher(
            source=inputs.source,
            head=dense_head.to(getattr(torch, recovery.dtype)),
            merged=_merge_removed(inputs, pruned, len(dense_head)),
            dtype=recovery.dtype,
            cache_dir=inputs.cache_dir,
        ),
        seed=pruned.request.seed,
    )


def _merge_removed(inputs: Inputs, pruned: Pruned, dense_vocab: int) -> MergedTokens | None:
    """Which of the student's tokens begins each of the dense model's; None where all are left."""
    if pruned.kept is None:
        return None
    places = first_pieces(inputs.tokenizer, pruned.tokenizer, pruned.kept, dense_vocab)
    nowhere = places == len(pruned.kept)
    return MergedTokens(places=places.masked_fill(nowhere, 0), count=len(pruned.kept))


def _read_training(
    recovery: RecoverySettings,
    inputs: Inputs,
    pruned: Pruned,
    split: Split,
    reader: Reader | None,
) -> Reading:
    """The blocks to train on: documents, text that the dense model writes, or both."""
    parts = []
    if recovery.text in ("calibration", "both"):
        documents = split.training
        if recovery.tokens is not None:  # the first time round they are read in order
            enough = recovery.tokens + recovery.context_tokens
            documents = documents[: documents_for(documents, pruned.tokenizer, enough)]
        parts.append(_read_documents(documents, pruned.tokenizer, recovery, reader))
    if recovery.text in ("generated", "both"):
        ids = _generate_text(recovery, inputs, pruned, split)
        context = recovery.context_tokens
        parts.append(read_alike(ids) if reader is None else reader.read_blocks(ids, context))
    return join_readings(parts)


def _read_documents(
    documents: Sequence[str], tokenizer: Any, recovery: RecoverySettings, reader: Reader | None
) -> Reading:
    """All whole blocks that documents give; without a `reader` both models have the same tokens."""
    if reader is None:
        return read_alike(all_blocks(documents, tokenizer, recovery.context_tokens))
    return reader.read_documents(documents, recovery.context_tokens)


def _generate_text(
    recovery: RecoverySettings, inputs: Inputs, pruned: Pruned, split: Split
) -> torch.Tensor:
    """Blocks that the dense model wrote, in its own ids [blocks, tokens]."""
    context = recovery.context_tokens
    wanted = recovery.generated_blocks
    enough = documents_for(split.training, inputs.tokenizer, wanted * context)
    prompts = all_blocks(split.training[:enough], inputs.tokenizer, context)
    return generate_blocks(
        inputs.source,
        prompts[:wanted, :PROMPT_TOKENS],
        tokens=context,
        temperature=recovery.generation_temperature,
        seed=pruned.request.seed,
        cache_dir=inputs.cache_dir,
        device=pruned.model.device.type,
    )


def identify_training(recovery: RecoverySettings, inputs: Inputs, pruned: Pruned) -> dict[str, Any]:
    """What must be the same for a killed training to go on.

    Of the plan what goes counts, and not the losses that decided it, whose last digits depend on
    the number of threads.
    """
    return {
        "teacher": TEACHER_VERSION,
        "betas": BETAS,
        "model": inputs.source.digest,
        "gone": pruned.plan.units,
        "pruning": asdict(pruned.request.pruning),
        "data": (inputs.corpus.calibration.digest, *inputs.corpus.calibration.ids.shape),
        "recovery": asdict(recovery),
        "seed": pruned.request.seed,
    }


def train_weights(
    model: Any, lessons: Lessons, recovery: RecoverySettings, folder: Path
) -> Progress:
    """Trains a model's weights, or adapters that are merged into them, in place."""
    if recovery.lora_rank:
        return _train_adapters(model, lessons, recovery, folder)
    model.requires_grad_(True)
    if not recovery.train_embeddings:
        model.get_input_embeddings().requires_grad_(False)
        head_of(model).requires_grad_(False)
    try:
        return train(model, lessons, recovery, folder)
    finally:
        model.requires_grad_(False)


def _train_adapters(
    model: Any, lessons: Lessons, recovery: RecoverySettings, folder: Path
) -> Progress:
    """Trains low-rank adapters (arXiv:2106.09685) and merges them into the model's weights."""
    from peft import LoraConfig, get_peft_model  # an extra

    rank = recovery.lora_rank
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lessons.seed)
        wrapped: Any = get_peft_model(model, config)
    progress = train(model, lessons, recovery, folder)
    wrapped.merge_and_unload()
    model.requires_grad_(False)
    return progress


def _record_of(progress: Progress) -> Recovery:
    return Recovery(
        steps=progress.step,
        tokens=progress.tokens,
        seconds=progress.seconds,
        best_step=progress.best_step,
        validation_kl_before=progress.first_loss,
        validation_kl_after=progress.best_loss,
        curve=tuple((int(step), loss, judged) for step, loss, judged in progress.curve),
    )


def _texts_used(
    recovery: RecoverySettings, inputs: Inputs, lessons: Lessons
) -> tuple[TextUsed, ...]:
    """What trained and what judged, and where each came from."""
    documents = inputs.corpus.calibration.source
    written = f"written by the dense model after {documents}"
    trained_on = {
        "calibration": documents,
        "generated": written,
        "both": f"{documents}, and written by the dense model after it",
    }
    by_role = {
        "training": (lessons.training.ids, trained_on[recovery.text]),
        "validation": (lessons.validation.ids, documents),
    }
    return tuple(
        TextUsed(
            role=role,
            source=source,
            digest=digest_of(ids.flatten().tolist()),
            blocks=ids.shape[0],
            tokens=ids.numel(),
        )
        for role, (ids, source) in by_role.items()
    )
