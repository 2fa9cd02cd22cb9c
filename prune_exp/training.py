"""The training loop: a budget, a schedule, the best weights, and going on after a kill."""

import math
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_exp import checkpoints
from prune_exp.device import autocast
from prune_exp.distillation import Side, distillation_loss, divergence
from prune_exp.models import decoder_of, head_of
from prune_exp.settings import RecoverySettings
from prune_exp.teacher import Teacher

if TYPE_CHECKING:
    import torch

BETAS = (0.9, 0.99)


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
    """Blocks of the student's token ids with their teacher."""

    training: "torch.Tensor"
    """[blocks, tokens]"""
    validation: "torch.Tensor"
    """[blocks, tokens]; no document gives blocks to both."""
    teacher: Teacher
    seed: int

    def batch(self, step: int, size: int) -> list[int]:
        """Which blocks a step trains on: in order the first time round, then shuffled anew."""
        import torch

        count, places = len(self.training), []
        for at in range(step * size, (step + 1) * size):
            epoch, place = divmod(at, count)
            if epoch:
                chance = torch.Generator().manual_seed(self.seed + epoch)
                place = int(torch.randperm(count, generator=chance)[place])
            places.append(place)
        return places


def spent(progress: Progress, settings: RecoverySettings) -> float:
    """Share of the budget that is gone, of time or tokens, whichever is more."""
    by_time = progress.seconds / (60 * settings.minutes) if settings.minutes else 0.0
    by_tokens = progress.tokens / settings.tokens if settings.tokens else 0.0
    return max(by_time, by_tokens)


def learning_rate(share: float, settings: RecoverySettings) -> float:
    """Linear warm-up, then half a cosine down to 0, over shares of the budget in [0, 1]."""
    warmup = settings.warmup_share
    if share < warmup:
        return settings.learning_rate * share / warmup
    left = (min(share, 1.0) - warmup) / max(1 - warmup, 1e-9)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * left))


def validation_loss(student: Any, lessons: Lessons) -> float:
    """Mean KL(dense || student) per token of the validation blocks, in nats."""
    import torch

    blocks, dense_head, total = lessons.validation, lessons.teacher.head, 0.0
    head = head_of(student).weight.detach().to(dense_head.dtype)
    for index, ids in enumerate(blocks.to(head.device)):
        dense = lessons.teacher.states(blocks, [index])[0]
        with torch.no_grad(), autocast(head.device, lessons.teacher.dtype):
            hidden = decoder_of(student)(input_ids=ids[None], use_cache=False).last_hidden_state[0]
        total += divergence(Side(hidden=dense, head=dense_head), Side(hidden=hidden, head=head))
    return total / blocks.numel()


def train(student: Any, lessons: Lessons, settings: RecoverySettings, folder: Path) -> Progress:
    """Trains those parameters of `student` that want gradients, and leaves it at its best.

    Goes on from `folder` when a killed run left something there, and keeps what it would need to
    go on itself there while it runs. Best is the least validation loss, the start included.
    """
    from tqdm import tqdm

    weights = {name: p for name, p in student.named_parameters() if p.requires_grad}
    optimizer = _optimizer(list(weights.values()), settings)
    progress, best = _resume(folder, weights, optimizer)
    if best is None:
        best = _judge(student, lessons, weights, progress, None, math.nan)
    losses: list[float] = []
    with tqdm(total=1.0, desc="recover", unit="budget", bar_format=BAR) as bar:
        while _affordable(progress, lessons, settings):
            losses.append(_timed(progress, lessons, settings, student, optimizer))
            if progress.step % settings.evaluate_every == 0:
                mean = sum(losses) / len(losses)
                best, losses = _judge(student, lessons, weights, progress, best, mean), []
                checkpoints.save(folder, asdict(progress), weights, best, optimizer)
            bar.n = min(spent(progress, settings), 1.0)
            bar.set_postfix_str(_words(progress, losses))
    if losses:
        best = _judge(student, lessons, weights, progress, best, sum(losses) / len(losses))
    checkpoints.copy_into(weights, best)
    return progress


BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


def _words(progress: Progress, losses: list[float]) -> str:
    _, latest, judged = progress.curve[-1] if progress.curve else (0, 0.0, progress.first_loss)
    return (
        f"step {progress.step}, loss {losses[-1] if losses else latest:.3f},"
        f" validation {judged:.3f} (best {progress.best_loss:.3f})"
    )


def _affordable(progress: Progress, lessons: Lessons, settings: RecoverySettings) -> bool:
    batch = settings.batch_blocks * lessons.training.shape[1]
    fits = settings.tokens is None or progress.tokens + batch <= settings.tokens
    return fits and spent(progress, settings) < 1


def _optimizer(parameters: list[Any], settings: RecoverySettings) -> "torch.optim.AdamW":
    import torch

    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=BETAS, fused=True)


Best = dict[str, "torch.Tensor"]


def _resume(folder: Path, weights: dict[str, Any], optimizer: Any) -> tuple[Progress, Best | None]:
    found = checkpoints.load(folder, weights, optimizer)
    if found is None:
        return Progress(), None
    facts, best = found
    print(f"note: recovery goes on from step {facts['step']}", file=sys.stderr)
    return Progress(**facts), best


def _judge(
    student: Any,
    lessons: Lessons,
    weights: dict[str, Any],
    progress: Progress,
    best: Best | None,
    training_loss: float,
) -> Best:
    """Notes the validation loss; returns the best weights so far."""
    start = time.perf_counter()
    loss = validation_loss(student, lessons)
    progress.seconds += time.perf_counter() - start if best is not None else 0.0
    if best is None:
        progress.first_loss = progress.best_loss = loss
        return checkpoints.copy_of(weights)
    progress.curve.append([progress.step, training_loss, loss])
    if loss < progress.best_loss:
        progress.best_loss, progress.best_step = loss, progress.step
        return checkpoints.copy_of(weights)
    return best


def _timed(
    progress: Progress,
    lessons: Lessons,
    settings: RecoverySettings,
    student: Any,
    optimizer: "torch.optim.AdamW",
) -> float:
    """One step; the dense model's part of it is not counted as training time."""
    wanted = lessons.batch(progress.step, settings.batch_blocks)
    states = lessons.teacher.states(lessons.training, wanted)
    start, progress.tokens = time.perf_counter(), progress.tokens + states[..., 0].numel()
    rate = learning_rate(spent(progress, settings), settings)
    for group in optimizer.param_groups:
        group["lr"] = rate
    ids = lessons.training[wanted].to(states.device)
    loss = _step(student, ids, states, lessons, settings, optimizer)
    progress.step += 1
    progress.seconds += time.perf_counter() - start
    return loss


def _step(
    student: Any,
    ids: "torch.Tensor",
    states: "torch.Tensor",
    lessons: Lessons,
    settings: RecoverySettings,
    optimizer: "torch.optim.AdamW",
) -> float:
    import torch

    with torch.enable_grad():
        with autocast(ids.device, settings.dtype):
            hidden = decoder_of(student)(input_ids=ids, use_cache=False).last_hidden_state
        loss = distillation_loss(
            Side(hidden=states.flatten(0, 1), head=lessons.teacher.head),
            Side(hidden=hidden.flatten(0, 1), head=head_of(student).weight),
        )
        loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())
