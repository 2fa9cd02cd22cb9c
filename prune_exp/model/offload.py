"""A model whose layers stay on disk: each is read when it is used, and let go afterwards.

Nothing is written to the checkpoint. A layer that was changed lies in a folder of its own from then
on, in the type in which it will be exported.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig

from prune_exp.model.architectures import layers_of, submodule_of
from prune_exp.model.loading import (
    HEADS,
    list_weights_files,
    load_skeleton,
    settle_generation,
    silence_transformers,
)
from prune_exp.settings.errors import SettingError

Place = tuple[Path, str]
"""A file of weights, and a weight's name in it."""
Convert = Callable[[str, torch.Tensor], torch.Tensor]
"""Gives a weight, by its name, the type in which it is kept."""
ON_DISK = "layer_on_disk"
"""The attribute of a layer's module that says where its weights lie."""


@dataclass(kw_only=True)
class LayerOnDisk:
    """Where a layer's weights lie, and who uses them."""

    places: dict[str, Place]
    """By their names in the layer."""
    device: str
    """Where they are used."""
    own: Path
    """The file for the layer once it is changed."""
    convert: Convert
    users: int = 0
    read: dict[str, nn.Parameter] = field(default_factory=dict)
    """The weights as they were read, while somebody uses them."""

    @property
    def is_changed(self) -> bool:
        """Whether the weights lie in the layer's own file."""
        return all(path == self.own for path, _ in self.places.values())

    def take(self, module: Any) -> None:
        """Puts the weights in their places unless they are there."""
        self.users += 1
        if self.users == 1:
            self.read = read_weights(self.places, self.device)
            _put_weights(module, self.read)

    def leave(self, module: Any) -> None:
        """Lets the weights go when nobody uses them; changed ones are written before."""
        self.users -= 1
        if self.users == 0:
            now = dict(module.named_parameters())
            if any(self.read[name] is not weight for name, weight in now.items()):
                self.write(now)
            self.drop(module)

    def drop(self, module: Any) -> None:
        """Lets the weights go; of each is left what size it has."""
        self.users = 0
        self.read = {}
        _put_weights(module, {name: _without_values(w) for name, w in module.named_parameters()})

    def write(self, weights: dict[str, nn.Parameter]) -> None:
        """Keeps weights, by their names in the layer, in the layer's own file.

        A file of that name is replaced and not written to: weights may be mapped from it.
        """
        kept = {name: self.convert(name, weight.data) for name, weight in weights.items()}
        partial = self.own.with_suffix(".partial")
        save_file({name: one.contiguous().cpu() for name, one in kept.items()}, partial)
        os.replace(partial, self.own)
        self.places = {name: (self.own, name) for name in kept}


def open_model(folder: Path, *, device: str, scratch: Path, convert: Convert) -> Any:
    """A checkpoint's model for inference, in float32, whose layers stay on disk.

    What is not in a layer (embeddings, the last norm, the head) is loaded. Layers that are changed
    go to `scratch`, each weight as `convert` gives it.

    Raises:
        SettingError: as `load_model` does, or the checkpoint calls its weights otherwise.
    """
    config = load_skeleton(folder).config
    vars(config).pop("auto_map", None)
    model = _without_weights(config)
    places = _place_weights(model, folder)
    inside = {name for prefix, _ in _named_layers(model) for name in places if _in(name, prefix)}
    outside = {name: place for name, place in places.items() if name not in inside}
    model.load_state_dict(read_weights(outside, device), strict=False, assign=True)
    model.tie_weights()
    for number, (prefix, module) in enumerate(_named_layers(model)):
        own = {name: places[f"{prefix}.{name}"] for name, _ in module.named_parameters()}
        kept = LayerOnDisk(
            places=own,
            device=device,
            own=scratch / f"{number}.safetensors",
            convert=lambda name, weight, prefix=prefix: convert(f"{prefix}.{name}", weight),
        )
        put_on_disk(module, kept)
    _move_buffers(model, device)
    _read_generation(model, folder)
    return model.eval().requires_grad_(False)


def put_on_disk(module: Any, kept: LayerOnDisk) -> None:
    """Has a layer's module read its weights whenever it is called."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        with at_hand(module):
            return type(module).forward(module, *args, **kwargs)

    setattr(module, ON_DISK, kept)
    module.forward = forward


@contextmanager
def at_hand(module: Any) -> Iterator[None]:
    """Has a layer's weights there; those that stay on disk are let go afterwards.

    Weights that were changed by then are kept, unless there was an error.
    """
    kept = on_disk(module)
    if kept is None:
        yield
        return
    kept.take(module)
    try:
        yield
    except BaseException:
        kept.drop(module)
        raise
    kept.leave(module)


def on_disk(module: Any) -> LayerOnDisk | None:
    """Where a layer's weights lie; None where they are with the layer."""
    return getattr(module, ON_DISK, None)


def is_on_disk(model: Any) -> bool:
    """Whether a model's layers stay on disk."""
    return on_disk(layers_of(model)[0].module) is not None


def pass_on(old: Any, new: Any) -> None:
    """Has the layers of a `new` model lie where those of an `old` one with equal layers lie."""
    for name, module in old.named_modules():
        kept = on_disk(module)
        if kept is not None:
            put_on_disk(submodule_of(new, name), kept)


def weights_left(model: Any) -> list[str]:
    """Names of weights that have no values, and not because they stay on disk."""
    away = [prefix for prefix, module in _named_layers(model) if on_disk(module) is not None]
    return [
        name
        for name, weight in model.named_parameters()
        if weight.is_meta and not any(_in(name, prefix) for prefix in away)
    ]


def whole_state(model: Any) -> dict[str, torch.Tensor] | None:
    """All weights by name, those of layers mapped from disk; None where no layer stays there.

    Layers are kept in the type of the export first, also those that nothing was taken from.
    """
    if not is_on_disk(model):
        return None
    state = model.state_dict()
    for prefix, module in _named_layers(model):
        kept = on_disk(module)
        assert kept is not None
        if not kept.is_changed:
            kept.write(read_weights(kept.places, kept.device))
        with safe_open(kept.own, "pt") as file:
            state |= {f"{prefix}.{name}": file.get_tensor(name) for name in kept.places}
    return state


def read_weights(places: dict[str, Place], device: str) -> dict[str, nn.Parameter]:
    """Weights in float32 by the names that `places` has; from float32 files they are mapped."""
    by_file: dict[Path, list[tuple[str, str]]] = defaultdict(list)
    for name, (path, key) in places.items():
        by_file[path].append((name, key))
    found = {}
    for path, names in by_file.items():
        with safe_open(path, "pt", device=device) as file:
            for name, key in names:
                found[name] = nn.Parameter(file.get_tensor(key).float(), requires_grad=False)
    return found


def _without_weights(config: Any) -> Any:
    """A model whose weights have no values, and whose buffers have theirs."""
    from accelerate import init_empty_weights

    with silence_transformers(), init_empty_weights(include_buffers=False):
        model: Any = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="sdpa"
        )
    model.tie_weights()
    return model


def _place_weights(model: Any, folder: Path) -> dict[str, Place]:
    """Where each of a model's weights lies.

    Base models' checkpoints leave the first word of names out, and heads have two names.
    """
    known: dict[str, Path] = {}
    for path in list_weights_files(folder):
        with safe_open(path, "pt") as file:
            known |= dict.fromkeys(file.keys(), path)
    prefix = f"{model.base_model_prefix}."
    places = {}
    for name, _ in model.named_parameters():
        names = [name, name.removeprefix(prefix), f"{prefix}{name}"]
        names += HEADS if name in HEADS else ()
        found = next((one for one in names if one in known), None)
        if found is None:
            raise SettingError(
                f"model.offload=true finds no {name} in {folder}, whose weights have other names;"
                " use model.offload=false"
            )
        places[name] = (known[found], found)
    return places


def _named_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Each layer's module with its name in the model."""
    names = {id(module): name for name, module in model.named_modules()}
    for layer in layers_of(model):
        yield names[id(layer.module)], layer.module


def _in(name: str, prefix: str) -> bool:
    return name.startswith(f"{prefix}.")


def _put_weights(module: Any, weights: dict[str, nn.Parameter]) -> None:
    for name, weight in weights.items():
        owner, _, last = name.rpartition(".")
        setattr(submodule_of(module, owner) if owner else module, last, weight)


def _without_values(weight: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(torch.empty(weight.shape, device="meta"), requires_grad=False)


def _move_buffers(model: Any, device: str) -> None:
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)


def _read_generation(model: Any, folder: Path) -> None:
    """Gives a model the settings of generation that its checkpoint has."""
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    settle_generation(model.generation_config)
