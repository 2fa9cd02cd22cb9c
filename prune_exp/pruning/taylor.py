"""What the loss would do if a unit were not there, to first order."""

from typing import Any

import torch
from tqdm import tqdm

from prune_exp.model.architectures import layers_of
from prune_exp.pruning.layer_stream import watch_modules


def taylor_effects(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """First-order effect on the loss of removing each unit (arXiv:1611.06440).

    For every unit, the sum over a block's tokens of activation * gradient; its absolute value is
    averaged over the blocks of ids [blocks, tokens].
    """
    total: dict[str, torch.Tensor] = {}
    for block in tqdm(ids.to(model.device), "gradients", unit="block"):
        for name, value in _effects_in_block(model, block[None]).items():
            total[name] = total.get(name, 0) + value.abs() / len(ids)
    return total


def _effects_in_block(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The signed effects in one block of text [1, tokens]."""
    seen: dict[str, list[torch.Tensor]] = {"mlp": [], "heads": []}
    layers = layers_of(model)
    inputs: dict[Any, Any] = {layer.mlp_out: seen["mlp"].append for layer in layers}
    inputs |= {layer.heads_out: seen["heads"].append for layer in layers}
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_(True)
    with torch.enable_grad(), watch_modules(inputs, {}):
        output = model(inputs_embeds=embedded, labels=ids, use_cache=False)
        wanted = [*seen["mlp"], *seen["heads"], embedded, output.logits]
        gradients = torch.autograd.grad(output.loss, wanted)
    products = [v.detach() * g for v, g in zip(wanted, gradients, strict=True)]
    *inside, read, written = products
    effects = [product.flatten(0, -2).sum(0) for product in inside]
    count = len(layers)
    dim = layers[0].heads.dim
    return {
        "mlp_taylor": torch.stack(effects[:count]),
        "heads_taylor": torch.stack([e.view(-1, dim).sum(1) for e in effects[count:]]),
        "vocab_taylor": written.sum((0, 1)).index_add(0, ids[0], read[0].sum(-1)),
    }
