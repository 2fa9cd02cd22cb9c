"""Training after pruning: the pruned model learns the dense one's distributions."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_exp.cache import digest_of
from prune_exp.corpus import all_blocks
from prune_exp.device import device_of
from prune_exp.generation import generate
from prune_exp.inputs import Inputs
from prune_exp.models import head_of
from prune_exp.pruner import Pruned
from prune_exp.recoding import recoder_of
from prune_exp.records import Recovery, TextUsed
from prune_exp.settings import RecoverySettings, Settings
from prune_exp.teacher import Teacher
from prune_exp.training import Lessons, Progress, train
from prune_exp.training_text import Split, split_documents

if TYPE_CHECKING:
    import torch

PROMPT_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """A trained model's record and the text it learnt from; the model was changed in place."""

    record: Recovery
    texts: tuple[TextUsed, ...]


def recover(
    settings: Settings, inputs: Inputs, pruned: Pruned, dense_head: "torch.Tensor"
) -> Recovered:
    """Trains `pruned.model` in place as `settings.recovery` says.

    A trial that was killed goes on where its last judgement left it. `dense_head` is the dense
    model's language-model head [vocab, hidden].
    """
    from filelock import FileLock

    recovery = settings.recovery
    lessons = prepare_lessons(settings, inputs, pruned, dense_head)
    texts = _texts(inputs, lessons)
    key = digest_of(_identity(settings, inputs, pruned), [text.digest for text in texts])
    folder = inputs.cache_dir / "recovery" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        progress = _train(pruned.model, lessons, recovery, folder)
        shutil.rmtree(folder, ignore_errors=True)
    return Recovered(record=_record(progress), texts=texts)


def prepare_lessons(
    settings: Settings, inputs: Inputs, pruned: Pruned, dense_head: "torch.Tensor"
) -> Lessons:
    """The blocks to train and to judge on, in the pruned model's ids, with their teacher."""
    import torch

    recovery = settings.recovery
    split = split_documents(inputs.corpus.documents, pruned.tokenizer, recovery)
    kept = None if pruned.kept is None else torch.tensor(pruned.kept)
    head = dense_head if kept is None else dense_head[kept]
    return Lessons(
        training=_training_blocks(settings, inputs, pruned, split),
        validation=split.validation,
        teacher=Teacher(
            source=inputs.source,
            head=head.to(getattr(torch, recovery.dtype)),
            kept=kept,
            dtype=recovery.dtype,
            cache_dir=inputs.cache_dir,
        ),
        seed=settings.seed,
    )


def _training_blocks(
    settings: Settings, inputs: Inputs, pruned: Pruned, split: Split
) -> "torch.Tensor":
    import torch

    recovery, parts = settings.recovery, []
    if recovery.text in ("calibration", "both"):
        parts.append(all_blocks(split.training, pruned.tokenizer, recovery.context_tokens))
    if recovery.text in ("generated", "both"):
        parts.append(_generated(settings, inputs, pruned, split))
    return torch.cat(parts)


def _generated(settings: Settings, inputs: Inputs, pruned: Pruned, split: Split) -> "torch.Tensor":
    """Blocks that the dense model wrote, in the pruned model's ids [blocks, tokens]."""
    import torch

    recovery = settings.recovery
    context = recovery.context_tokens
    prompts = all_blocks(split.training, inputs.tokenizer, context)
    ids = generate(
        inputs.source,
        prompts[: recovery.generated_blocks, :PROMPT_TOKENS],
        tokens=context,
        temperature=recovery.generation_temperature,
        seed=settings.seed,
        cache_dir=inputs.cache_dir,
        device=device_of(settings.device),
    )
    if pruned.kept is None:
        return ids
    own: list[int] = []
    dense, smaller = recoder_of(inputs.tokenizer), recoder_of(pruned.tokenizer)
    for block in ids.tolist():
        own += smaller.ids_of(dense.bytes_of(block))
    blocks = len(own) // context
    return torch.tensor(own[: blocks * context]).view(blocks, context)


def _identity(settings: Settings, inputs: Inputs, pruned: Pruned) -> dict[str, Any]:
    """What must be the same for a killed training to go on."""
    plan = pruned.plan.to_json()
    del plan["agreement"]
    return {
        "model": inputs.source.digest,
        "plan": plan,
        "pruning": asdict(settings.pruning),
        "data": inputs.corpus.calibration.digest,
        "recovery": asdict(settings.recovery),
        "seed": settings.seed,
    }


def _train(model: Any, lessons: Lessons, recovery: RecoverySettings, folder: Path) -> Progress:
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
    import torch
    from peft import LoraConfig, get_peft_model

    rank = recovery.lora_rank
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lessons.seed)
        wrapped: Any = get_peft_model(model, config)
    progress = train(model, lessons, recovery, folder)
    wrapped.merge_and_unload()
    model.requires_grad_(False)
    return progress


def _record(progress: Progress) -> Recovery:
    return Recovery(
        steps=progress.step,
        tokens=progress.tokens,
        seconds=progress.seconds,
        best_step=progress.best_step,
        validation_kl_before=progress.first_loss,
        validation_kl_after=progress.best_loss,
        curve=tuple((int(step), loss, judged) for step, loss, judged in progress.curve),
    )


def _texts(inputs: Inputs, lessons: Lessons) -> tuple[TextUsed, ...]:
    def one(role: str, ids: "torch.Tensor") -> TextUsed:
        return TextUsed(
            role=role,
            source=inputs.corpus.calibration.source,
            digest=digest_of(ids.tolist()),
            blocks=ids.shape[0],
            tokens=ids.numel(),
        )

    return one("training", lessons.training), one("validation", lessons.validation)
