"""Torch-Pruning: MLP channels by group magnitude and group Taylor importance.

Attention, the down projections and the head are ignored layers: the residual stream must keep its
size, and gate, up and down of a layer then form one group. Heads stay, since a step with them did
not end here (LOG.md).
"""

from typing import Any

from .task import Method, Task


def _prune(task: Task, model: Any, importance: Any) -> Any:
    import warnings

    import torch_pruning

    kept = [model.get_output_embeddings()]
    for layer in model.base_model.layers:
        kept += [layer.self_attn, layer.mlp.down_proj]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = torch_pruning.pruner.BasePruner(
            model,
            {"input_ids": task.ids[:1, :16], "use_cache": False},  # pyright: ignore[reportArgumentType]
            importance=importance,
            # it keeps a whole number of channels; half a channel more keeps floats out of that
            pruning_ratio=1 - (task.width + 0.5) / task.shape.width,
            ignored_layers=kept,
            forward_fn=lambda traced, example: traced(**example).logits,
        )
        pruner.step()
    model.config.intermediate_size = task.width
    return model.requires_grad_(False)


def magnitude(task: Task) -> Any:
    """Norm of a channel's weights in gate, up and down (arXiv:2301.12900)."""
    import torch_pruning

    model = task.model().requires_grad_(True)
    return _prune(task, model, torch_pruning.importance.GroupMagnitudeImportance())


def taylor(task: Task) -> Any:
    """Weight times gradient of the loss on all calibration blocks, in gate, up and down."""
    import torch
    import torch_pruning
    from tqdm import tqdm

    model = task.model().requires_grad_(True)
    with torch.enable_grad():
        for block in tqdm(task.ids, "gradients", unit="block"):
            model(block[None], labels=block[None], use_cache=False).loss.backward()
    return _prune(task, model, torch_pruning.importance.GroupTaylorImportance())


NOTE = "MLP channels; heads stay, see below"
METHODS = {
    "torch-pruning-magnitude": Method(prune=magnitude, package="torch-pruning", note=NOTE),
    "torch-pruning-taylor": Method(prune=taylor, package="torch-pruning", note=NOTE),
}
