"""What training after pruning did."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What training after pruning did; losses are mean KL(dense || pruned) per token, in nats."""

    steps: int
    tokens: int
    seconds: float
    """Time of steps and judgements, over all starts of the trial."""
    best_step: int
    """Step whose weights were exported; 0 when nothing beat the model as it was pruned."""
    validation_kl_before: float
    validation_kl_after: float
    """That of the exported weights."""
    curve: tuple[tuple[int, float, float], ...] = ()
    """(step, training loss since the last judgement, validation loss)."""
