"""Run a decoder one block at a time over many blocks of text, and look inside.

Only one layer's activations exist at a time: hidden states are [blocks, tokens, hidden].
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prune_exp.models import decoder_of, layers_of

if TYPE_CHECKING:
    import torch
    from torch import nn

Watch = Callable[["torch.Tensor"], None]


class _Stop(Exception):
    """Ends a forward pass once the first block has been reached."""


class LayerStream:
    """What is needed to call a model's blocks directly: first hidden states and call arguments."""

    def __init__(self, model: Any, ids: "torch.Tensor") -> None:
        """Embeds `ids` [blocks, tokens] and records how the model calls each of its blocks."""
        import torch

        self.kwargs = [_without_cache(call) for call in _record_calls(model, ids[:1])]
        with torch.no_grad():
            self.hidden = torch.cat([_first_input(model, block[None]) for block in ids])

    def run(self, layer: Any, index: int, hidden: "torch.Tensor") -> "torch.Tensor":
        """One block's output [blocks, tokens, hidden], computed block of text by block of text."""
        import torch

        with torch.no_grad():
            outputs = [_tensor(layer(one[None], **self.kwargs[index])) for one in hidden]
        return torch.cat(outputs)


def _tensor(output: Any) -> "torch.Tensor":
    return output[0] if isinstance(output, tuple) else output


def _without_cache(call: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in call.items() if "past_key_value" not in key}


def _record_calls(model: Any, ids: "torch.Tensor") -> list[dict[str, Any]]:
    import torch

    calls: list[dict[str, Any]] = []

    def record(_module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        assert len(args) == 1, "blocks are called with hidden states and keywords"
        calls.append(kwargs)

    hooks = [
        layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers_of(model)
    ]
    try:
        with torch.no_grad():
            decoder_of(model)(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _first_input(model: Any, ids: "torch.Tensor") -> "torch.Tensor":
    found: list[Any] = []

    def stop(_module: Any, args: Any) -> None:
        found.append(args[0])
        raise _Stop

    hook = layers_of(model)[0].register_forward_pre_hook(stop)
    try:
        decoder_of(model)(input_ids=ids, use_cache=False)
    except _Stop:
        pass
    finally:
        hook.remove()
    return found[0]


@contextmanager
def watch(inputs: dict["nn.Module", Watch], outputs: dict["nn.Module", Watch]) -> Iterator[None]:
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
        see(args[0])

    return hook


def _see_output(see: Watch) -> Callable[..., None]:
    def hook(_module: Any, _args: Any, output: Any) -> None:
        see(_tensor(output))

    return hook
