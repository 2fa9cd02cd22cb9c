"""The training loop: a budget, a schedule, the best weights, and going on after a kill."""

import math
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from prune_exp.machine.device import autocast
from prune_exp.machine.progress import say_figures
from prune_exp.model.architectures import decoder_of, head_of
from prune_exp.model.next_tokens import NextTokens, sum_divergence
from prune_exp.recovery import checkpoints
from prune_exp.recovery.checkpoints import Tensors
from prune_exp.recovery.distillation import distillation_loss
from prune_exp.recovery.readings import Reading
from prune_exp.recovery.teacher import Teacher
from prune_exp.settings.groups import RecoverySettings

BETAS = (0.5, 0.99)
"""Adam's. A few hundred steps of a model that was just cut are hindered by a longer momentum."""


class Diverged(RuntimeError):
    """A loss was no number."""


@dataclass(kw_only=True)
class Progress:
    """Where training stands; all that a resumed one needs besides tensors."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    """Time of steps and judgements, those before a kill included."""
    best_step: int = 0
    best_loss: float = math.inf
    first_loss: float = math.inf
    """Validation loss before training."""
    curve: list[list[float]] = field(default_factory=list)
    """[step, mean training loss since the last judgement, validation loss]."""


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """Blocks of text in the student's tokens with their teacher."""

    training: Reading
    validation: Reading
    """No document gives blocks to both."""
    teacher: Teacher
    seed: int

    def choose_batch(self, step: int, size: int) -> list[int]:
        """Which blocks a step trains on: in order the first time round, then shuffled anew."""
        count = len(self.training)
        places = []
        for at in range(step * size, (step + 1) * size):
            epoch, place = divmod(at, count)
            if epoch:
                chance = torch.Generator().manual_seed(self.seed + epoch)
                place = int(torch.randperm(count, generator=chance)[place])
            places.append(place)
        return places


@dataclass(kw_only=True)
class TrainingRun:
    """A training under way."""

    student: Any
    lessons: Lessons
    settings: RecoverySettings
    weights: dict[str, torch.nn.Parameter]
    """Those that are trained, by name."""
    optimizer: torch.optim.AdamW
    progress: Progress = field(default_factory=Progress)
    best: Tensors = field(default_factory=dict)
    """A copy of the weights with the least validation loss."""
    losses: list[float] = field(default_factory=list)
    """Training losses of the steps since the last judgement."""


def share_spent(progress: Progress, settings: RecoverySettings) -> float:
    """Share of the budget that is gone, of time or tokens, whichever is more."""
    by_time = progress.seconds / (60 * settings.minutes) if settings.minutes else 0.0
    by_tokens = progress.tokens / settings.tokens if settings.tokens else 0.0
    return max(by_time, by_tokens)


def can_afford_step(progress: Progress, lessons: Lessons, settings: RecoverySettings) -> bool:
    """Whether the budget is enough for one more step."""
    batch = settings.batch_blocks * lessons.training.ids.shape[1]
    fits = settings.tokens is None or progress.tokens + batch <= settings.tokens
    return fits and share_spent(progress, settings) < 1


def share_of_rate(share: float, warmup: float) -> float:
    """Share of the largest learning rate after a share of the budget, both in [0, 1].

    Linear warm-up, then half a cosine down to 0.
    """
    if share < warmup:
        return share / warmup
    left = (min(share, 1.0) - warmup) / max(1 - warmup, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * left))


def validation_loss(student: Any, lessons: Lessons) -> float:
    """Mean KL(dense || student) per token of the validation blocks, in nats."""
    reading = lessons.validation
    head = head_of(student).weight.detach().to(lessons.teacher.head.dtype)
    total = 0.0
    for index, ids in enumerate(reading.ids.to(head.device)):
        states = lessons.teacher.states(reading, [index])[0]
        dense = lessons.teacher.expect(states, reading.certain[index])
        with torch.no_grad(), autocast(head.device, lessons.teacher.dtype):
            hidden = decoder_of(student)(input_ids=ids[None], use_cache=False).last_hidden_state[0]
        total += sum_divergence(dense, NextTokens(hidden=hidden, head=head))
    return total / reading.ids.numel()


def train(student: Any, lessons: Lessons, settings: RecoverySettings, folder: Path) -> Progress:
    """Trains those parameters of `student` that want gradients, and leaves it at its best.

    Goes on from `folder` when a killed run left something there, and keeps what it would need to
    go on itself there, also at the end. Best is the least validation loss, the start included.

    Raises:
        Diverged: a loss was no number.
    """
    run = _start_run(student, lessons, settings, folder)
    with tqdm(total=1.0, desc="recover", unit="budget", bar_format=BAR) as bar:
        while can_afford_step(run.progress, lessons, settings):
            run.losses.append(_take_step(run))
            if run.progress.step % settings.evaluate_every == 0:
                _judge_and_keep(run, folder)
            bar.n = min(share_spent(run.progress, settings), 1.0)
            bar.set_postfix_str(_progress_line(run))
    if run.losses:
        _judge_and_keep(run, folder)
    checkpoints.copy_into(run.weights, run.best)
    return run.progress


BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


def _start_run(
    student: Any, lessons: Lessons, settings: RecoverySettings, folder: Path
) -> TrainingRun:
    """A new training with its first judgement, or the one that was killed."""
    weights = {name: p for name, p in student.named_parameters() if p.requires_grad}
    run = TrainingRun(
        student=student,
        lessons=lessons,
        settings=settings,
        weights=weights,
        optimizer=_make_optimizer(student, settings),
    )
    found = checkpoints.load_state(folder, weights, run.optimizer)
    if found is None:
        loss = validation_loss(student, lessons)
        if not math.isfinite(loss):
            raise Diverged(f"the pruned model's validation loss is {loss} before any training")
        run.progress = Progress(first_loss=loss, best_loss=loss)
        say_figures(0, recovery__validation_loss=loss)
        run.best = checkpoints.copy_of(weights)
    else:
        facts, run.best = found
        run.progress = Progress(**facts)
        print(f"note: recovery goes on from step {run.progress.step}", file=sys.stderr)
    return run


LARGEST_RATE = "largest_rate"
"""Of a group of parameters; what it is at a step is a share of that."""


def _make_optimizer(student: Any, settings: RecoverySettings) -> torch.optim.AdamW:
    """AdamW over what wants gradients: matrices, norms and biases, and embeddings."""
    trained = [p for p in student.parameters() if p.requires_grad]
    embeddings = {id(student.get_input_embeddings().weight), id(head_of(student).weight)}
    inner = [p for p in trained if id(p) not in embeddings]
    rates = (settings.learning_rate, settings.learning_rate, settings.embedding_learning_rate)
    decays = (settings.weight_decay, 0.0, 0.0)
    members = (
        [p for p in inner if p.ndim > 1],
        [p for p in inner if p.ndim <= 1],
        [p for p in trained if id(p) in embeddings],
    )
    groups = [
        {"params": group, "weight_decay": decay, LARGEST_RATE: rate}
        for group, decay, rate in zip(members, decays, rates, strict=True)
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=BETAS, fused=True)


def _progress_line(run: TrainingRun) -> str:
    progress = run.progress
    _, latest, judged = progress.curve[-1] if progress.curve else (0, 0.0, progress.first_loss)
    return (
        f"step {progress.step}, loss {run.losses[-1] if run.losses else latest:.3f},"
        f" validation {judged:.3f} (best {progress.best_loss:.3f})"
    )


def _judge_and_keep(run: TrainingRun, folder: Path) -> None:
    _judge_weights(run)
    checkpoints.save_state(folder, asdict(run.progress), run.weights, run.best, run.optimizer)


def _judge_weights(run: TrainingRun) -> None:
    """Notes the validation loss, and the weights when none before were better."""
    start = time.perf_counter()
    loss = validation_loss(run.student, run.lessons)
    progress = run.progress
    progress.seconds += time.perf_counter() - start
    trained = sum(run.losses) / len(run.losses)
    if not math.isfinite(trained + loss):
        raise Diverged(
            f"training after pruning gave no number by step {progress.step} (training loss"
            f" {trained}, validation loss {loss}); try a smaller recovery.learning_rate than"
            f" {run.settings.learning_rate:g}"
        )
    progress.curve.append([progress.step, trained, loss])
    say_figures(progress.step, recovery__train_loss=trained, recovery__validation_loss=loss)
    run.losses = []
    if loss < progress.best_loss:
        progress.best_loss = loss
        progress.best_step = progress.step
        run.best = checkpoints.copy_of(run.weights)


def _take_step(run: TrainingRun) -> float:
    """One step's loss; the dense model's part of it is not counted as training time."""
    progress = run.progress
    lessons = run.lessons
    wanted = lessons.choose_batch(progress.step, run.settings.batch_blocks)
    states = lessons.teacher.states(lessons.training, wanted)
    start = time.perf_counter()
    tokens = states[..., 0].numel()
    middle = replace(progress, tokens=progress.tokens + tokens // 2)
    share = share_of_rate(share_spent(middle, run.settings), run.settings.warmup_share)
    for group in run.optimizer.param_groups:
        group["lr"] = group[LARGEST_RATE] * share
    loss = _descend_once(run, wanted, states)
    progress.tokens += tokens
    progress.step += 1
    progress.seconds += time.perf_counter() - start
    return loss


def _descend_once(run: TrainingRun, wanted: list[int], states: torch.Tensor) -> float:
    """Moves the weights once; returns the loss on the `wanted` blocks.

    `states` [blocks, tokens, hidden] are the dense model's final hidden states.
    """
    reading = run.lessons.training
    ids = reading.ids[wanted].to(states.device)
    dense = run.lessons.teacher.expect(states.flatten(0, 1), reading.certain[wanted].flatten())
    with torch.enable_grad():
        with autocast(ids.device, run.settings.dtype):
            hidden = decoder_of(run.student)(input_ids=ids, use_cache=False).last_hidden_state
        loss = distillation_loss(
            dense, NextTokens(hidden=hidden.flatten(0, 1), head=head_of(run.student).weight)
        )
        loss.backward()
    _clip_gradient(run)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def _clip_gradient(run: TrainingRun) -> None:
    """Scales a gradient that is too long; one that is not is left alone, which saves a pass."""
    gradients = [p.grad for p in run.weights.values() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if norm > run.settings.gradient_clip:
        torch.nn.utils.clip_grads_with_norm_(run.weights.values(), run.settings.gradient_clip, norm)
