"""Greedy decoding by a function that makes logits and longer keys and values of shorter ones."""

from collections.abc import Callable
from typing import Any

from prune_exp.measurement.backends.protocol import Arrived, Generate

Step = Callable[[Any, list[Any]], tuple[Any, list[Any]]]
"""Ids [batch, new] and keys and values, to logits [batch, vocab] and keys and values."""


def make_greedy(
    step: Step, empty: Callable[[int], list[Any]], size_of: Callable[[list[Any]], int]
) -> Generate:
    """Generation by `step`, from `empty` keys and values of a batch; `size_of` counts bytes."""

    def generate(
        ids: list[list[int]], new_tokens: int, arrived: Arrived
    ) -> tuple[list[list[int]], int]:
        import numpy as np

        found: list[Any] = []
        tokens = np.asarray(ids, dtype=np.int64)
        past = empty(len(ids))
        for _ in range(new_tokens):
            logits, past = step(tokens, past)
            tokens = logits.argmax(-1, keepdims=True)
            found.append(tokens)
            arrived()
        return np.concatenate(found, axis=1).tolist(), size_of(past)

    return generate
