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
            self.hidden = torch.cat([_first_input(model, block[None]) for block in ids])

    def run(
        self, layer: DecoderLayer, index: int, hidden: torch.Tensor, *, bfloat16: bool = False
    ) -> torch.Tensor:
        """One layer's output [blocks, tokens, hidden], computed block of text by block of text.

        With `bfloat16` the products inside the layer are taken in that precision; the residual
        stream and all that `watch` shows stay in float32.
        """
        if not len(hidden):
            return hidden
        reduced = autocast(hidden.device, "bfloat16" if bfloat16 else "float32")
        with torch.no_grad(), reduced:
            args, kwargs = self.calls[index]
            outputs = [_tensor_of(layer.module(block[None], *args, **kwargs)) for block in hidden]
        return torch.cat(outputs)


def _tensor_of(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


Call = tuple[tuple[Any, ...], dict[str, Any]]
"""What a layer is called with besides its hidden states."""


def _record_calls(model: Any, ids: torch.Tensor) -> list[Call]:
    calls: list[Call] = []

    def record(_module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        kept = {key: value for key, value in kwargs.items() if key not in CACHES}
        calls.append((args[1:], kept))

    hooks = [
        layer.module.register_forward_pre_hook(record, with_kwargs=True)
        for layer in layers_of(model)
    ]
    try:
        with torch.no_grad():
            decoder_of(model)(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _first_input(model: Any, ids: torch.Tensor) -> torch.Tensor:
    found: list[Any] = []

    def stop(_module: Any, args: Any) -> None:
        found.append(args[0])
        raise _Stop

    hook = layers_of(model)[0].module.register_forward_pre_hook(stop)
    try:
        decoder_of(model)(input_ids=ids, use_cache=False)
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
