"""optipfair: MLP channels by the range of their weights, and whole layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .task import Method, Task


def _batches(task: Task) -> list[dict[str, Any]]:
    import torch

    return [
        {"input_ids": one[None], "attention_mask": torch.ones_like(one)[None]} for one in task.ids
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    """The package sets up logging for the whole process when it is imported; this undoes that."""
    import logging

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        import optipfair  # noqa: F401

        logging.getLogger("optipfair").setLevel(logging.WARNING)
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _channels(task: Task, dataloader: Any) -> Any:
    with _quiet():
        from optipfair import prune_model

        gone = task.shape.width - task.width
        return prune_model(
            task.model(),
            pruning_type="MLP_GLU",
            neuron_selection_method="MAW",
            # it rounds down to whole channels; half a channel more keeps floats out of that
            pruning_percentage=100 * (gone + 0.5) / task.shape.width,
            dataloader=dataloader,
            show_progress=False,
        )


def maw_static(task: Task) -> Any:
    """Range of the weights of gate and up (`MAW`), no text."""
    return _channels(task, None)


def maw_data(task: Task) -> Any:
    """Range of the weights times the norm of the activations (`MAW` with a dataloader)."""
    return _channels(task, _batches(task))


def depth_last(task: Task) -> Any:
    """Its choice without text: the last layers."""
    with _quiet():
        from optipfair import prune_model

        return prune_model(
            task.model(),
            pruning_type="DEPTH",
            num_layers_to_remove=task.layers,
            layer_selection_method="last",
            show_progress=False,
        )


def depth_importance(task: Task) -> Any:
    """The layers that its `analyze_layer_importance` finds to change the stream the least."""
    with _quiet():
        from optipfair import analyze_layer_importance, prune_model

        model = task.model()
        found = analyze_layer_importance(model, _batches(task), show_progress=False)
        least = sorted(found, key=lambda layer: found[layer])[: task.layers]
        return prune_model(
            model, pruning_type="DEPTH", layer_indices=sorted(least), show_progress=False
        )


WHOLE = "whole layers: the nearest count"
METHODS = {
    "optipfair-maw": Method(prune=maw_static, package="optipfair", note="MLP channels"),
    "optipfair-maw-data": Method(prune=maw_data, package="optipfair", note="MLP channels"),
    "optipfair-depth-last": Method(prune=depth_last, package="optipfair", note=WHOLE),
    "optipfair-depth-importance": Method(prune=depth_importance, package="optipfair", note=WHOLE),
}
