"""A model's own distribution, without what its checkpoint's generation config adds to it."""

from typing import Any

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def plain_generation(own: Any) -> Any:
    """A generation config that knows the special tokens of `own` and nothing else.

    No penalty for repetition, no cut of the distribution, no cache of its own choice.
    """
    from transformers import GenerationConfig

    return GenerationConfig(**{name: getattr(own, name) for name in SPECIAL})
