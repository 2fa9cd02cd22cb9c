"""Train the layer before removed ones until it does their work too.

Least squares can only solve its last projection again. Where what is trained holds something that
is not linear, little text is enough (arXiv:2510.14444). One small module in the place of a run of
layers is the idea of LLM-Streamline (arXiv:2403.19135); here it is the layer before them.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from prune_exp.pruning.targets import weigh_tokens

JUDGED_EVERY = 16
"""Of so many blocks one judges and is not trained on."""
STEP = 3
"""How much further on the next one is among its own: with it they are 19 apart, a prime number."""
WARMUP_STEPS = 10
LEAST_RMS = 1e-3
"""A weight that is smaller moves as if it were so large; biases may begin at 0."""

Call = Callable[[torch.Tensor], torch.Tensor]
"""What the layer makes of a block [1, tokens, hidden]."""


@dataclass(frozen=True, kw_only=True)
class ReconstructionSettings:
    """How a layer is trained."""

    epochs: int
    """Times that its text is read (`pruning.reconstruct_epochs`)."""
    step: float
    """Adam's largest step (`pruning.reconstruct_step`), as a share of the root mean square of the
    weights that take it, as in Adafactor (arXiv:1804.04235)."""
    seed: int
    """Of the order of the blocks."""


def train_layer(
    module: Any,
    call: Call,
    hidden: torch.Tensor,
    target: torch.Tensor,
    how: ReconstructionSettings,
) -> float:
    """Trains all weights of a layer, in place; returns how much of its error is left.

    `call` runs `module` on a block of `hidden` [blocks, tokens, hidden], which it is to turn into
    `target`, likewise. Weights are kept of the epoch after which the error is least on blocks that
    are not trained on. Those from before the first stay, and 1 is returned, where nothing helped,
    where there is no error, and where there is only one block.
    """
    judged = choose_judges(len(hidden))
    trained = [block for block in range(len(hidden)) if block not in judged]
    task = _Task(call=call, hidden=hidden, target=target, weights=weigh_tokens(target))
    before = least = task.mean_error(judged)
    if not trained or not before:
        return 1.0
    best = module.state_dict()
    module.load_state_dict(deepcopy(best), assign=True)  # those that were there stay as they are
    optimizer, schedule = _start_adam(module, how, steps=how.epochs * len(trained))
    order = torch.Generator().manual_seed(how.seed)
    # in the line of the bar around it: two lines at once are no use in a log
    for _ in tqdm(range(how.epochs), "train layer", unit="epoch", leave=False, position=0):
        for place in torch.randperm(len(trained), generator=order).tolist():
            (task.error(trained[place]) / before).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        now = task.mean_error(judged)
        if now < least:
            least, best = now, deepcopy(module.state_dict())
    module.load_state_dict(best, assign=True)
    module.requires_grad_(False)
    return least / before


def choose_judges(blocks: int) -> list[int]:
    """One block of every `JUDGED_EVERY`, each time further on among them: files of a mix take
    turns, and at equal distances the same one would come up again and again."""
    firsts = range(0, blocks, JUDGED_EVERY)
    places = [STEP * turn % JUDGED_EVERY for turn in range(len(firsts))]
    return [min(a + b, blocks - 1) for a, b in zip(firsts, places, strict=True)]


def _start_adam(module: Any, how: ReconstructionSettings, steps: int) -> tuple[Any, Any]:
    """Adam with a step of its own for each weight, and the schedule of these steps."""
    module.requires_grad_(True)
    groups = [
        {"params": [weight], "lr": how.step * max(_root_mean_square(weight), LEAST_RMS)}
        for weight in module.parameters()
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))

    def share_at(step: int) -> float:
        return min((step + 1) / WARMUP_STEPS, 1.0) * (1 - step / steps)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share_at)


def _root_mean_square(weight: torch.Tensor) -> float:
    return math.sqrt(float(weight.detach().double().square().mean()))


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What a layer is to make of which blocks."""

    call: Call
    hidden: torch.Tensor
    target: torch.Tensor
    weights: torch.Tensor
    """Of the tokens [blocks, tokens, 1]."""

    def error(self, block: int) -> torch.Tensor:
        """Mean squared error on a block [], every token in proportion to its norm."""
        one = slice(block, block + 1)
        apart = self.call(self.hidden[one]) - self.target[one]
        return (apart * self.weights[one]).square().mean()

    def mean_error(self, blocks: list[int]) -> float:
        """The same on several blocks, without gradients."""
        with torch.no_grad():
            return sum(float(self.error(block)) for block in blocks) / len(blocks)
