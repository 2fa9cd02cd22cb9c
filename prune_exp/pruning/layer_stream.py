"""Run a decoder one layer at a time over many blocks of text, and look inside.

Only one layer's activations exist at a time: hidden states are [blocks, tokens, hidden].
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from prune_exp.machine.device import autocast
from prune_exp.model.architectures import DecoderLayer, decoder_of, layers_of
from prune_exp.model.offload import at_hand

CACHES = ("past_key_value", "past_key_values", "layer_past", "use_cache")
Watch = Callable[[torch.Tensor], None]


class _Stop(Exception):
    """Ends a forward pass once the first layer has been reached."""


class LayerStream:
    """What is needed to call a model's layers directly: first hidden states and call arguments."""

    def __init__(self, model: Any, ids: torch.Tensor) -> None:
        """Embeds `ids` [blocks, tokens] and records how the model calls each of its layers."""
        ids = ids.to(model.device)
        self.calls = _record_calls(model, ids[:1])
        with torch.no_grad():
            self.hidden = torch.cat([first_input(model, input_ids=block[None]) for block in ids])

    def run(
        self, layer: DecoderLayer, index: int, hidden: torch.Tensor, *, dtype: str = "float32"
    ) -> torch.Tensor:
        """One layer's output [blocks, tokens, hidden], computed block of text by block of text.

        The products inside the layer are taken in `dtype`, float32 or bfloat16; the residual stream
        and all that `watch` shows stay in float32.
        """
        if not len(hidden):
            return hidden
        with torch.no_grad(), autocast(hidden.device, dtype), at_hand(layer.module):
            return torch.cat([self.call(layer, index, block[None]) for block in hidden])

    def call(self, layer: DecoderLayer, index: int, hidden: torch.Tensor) -> torch.Tensor:
        """One layer's output for one block of text [1, tokens, hidden]."""
        args, kwargs = self.calls[index]
        return _tensor_of(layer.module(hidden, *args, **kwargs))


def _tensor_of(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


Call = tuple[tuple[Any, ...], dict[str, Any]]
"""What a layer is called with besides its hidden states."""


def _record_calls(model: Any, ids: torch.Tensor) -> list[Call]:
    """How the model calls each of its layers, none of which computes anything for it."""
    calls: list[Call] = []

    def record(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        kept = {key: value for key, value in kwargs.items() if key not in CACHES}
        calls.append((args, kept))
        return hidden

    with torch.no_grad(), _answered_by(record, model):
        decoder_of(model)(input_ids=ids, use_cache=False)
    return calls


@contextmanager
def _answered_by(answer: Callable[..., torch.Tensor], model: Any) -> Iterator[None]:
    """Has a function answer in the place of every layer."""
    modules = [layer.module for layer in layers_of(model)]
    before = [module.__dict__.get("forward") for module in modules]
    for module in modules:
        module.forward = answer
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            del module.forward
            if forward is not None:
                module.forward = forward


def first_input(model: Any, **given: torch.Tensor) -> torch.Tensor:
    """What the first layer reads [1, tokens, hidden] of `input_ids`, or of `inputs_embeds`."""
    found: list[Any] = []

    def stop(_module: Any, args: Any) -> None:
        found.append(args[0])
        raise _Stop

    hook = layers_of(model)[0].module.register_forward_pre_hook(stop)
    try:
        decoder_of(model)(**given, use_cache=False)
    except _Stop:
        pass
    finally:
        hook.remove()
    return found[0]


@contextmanager
def watch_modules(
    inputs: dict[nn.Module, Watch], outputs: dict[nn.Module, Watch]
) -> Iterator[None]:
    """Shows every input [1, tokens, n] or output of some modules to a function each."""
    hooks: list[Any] = []
    for module, see in inputs.items():
        hooks.append(module.register_forward_pre_hook(_see_input(see)))
    for module, see in outputs.items():
        hooks.append(module.register_forward_hook(_see_output(see)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _see_input(see: Watch) -> Callable[..., None]:
    def hook(_module: Any, args: Any) -> None:
        see(args[0].float())

    return hook


def _see_output(see: Watch) -> Callable[..., None]:
    def hook(_module: Any, _args: Any, output: Any) -> None:
        see(_tensor_of(output).float())

    return hook
