"""What the loss would do if a unit were not there, to first order."""

from typing import Any

import torch
from tqdm import tqdm

from prune_exp.model.architectures import blocks_of
from prune_exp.pruning.layer_stream import watch


def taylor(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """First-order effect on the loss of removing each unit (arXiv:1611.06440).

    For every unit, the sum over a block's tokens of activation * gradient; its absolute value is
    averaged over the blocks of ids [blocks, tokens].
    """
    total: dict[str, torch.Tensor] = {}
    for block in tqdm(ids.to(model.device), "gradients", unit="block"):
        for name, value in _taylor_block(model, block[None]).items():
            total[name] = total.get(name, 0) + value.abs() / len(ids)
    return total


def _taylor_block(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    seen: dict[str, list[torch.Tensor]] = {"mlp": [], "heads": []}
    blocks = blocks_of(model)
    inputs: dict[Any, Any] = {block.mlp_out: seen["mlp"].append for block in blocks}
    inputs |= {block.heads_out: seen["heads"].append for block in blocks}
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_(True)
    with torch.enable_grad(), watch(inputs, {}):
        output = model(inputs_embeds=embedded, labels=ids, use_cache=False)
        wanted = [*seen["mlp"], *seen["heads"], embedded, output.logits]
        gradients = torch.autograd.grad(output.loss, wanted)
    n, dim = len(blocks), blocks[0].heads.dim
    products = [v.detach() * g for v, g in zip(wanted, gradients, strict=True)]
    read, written = products.pop(-2), products.pop()
    effects = [product.flatten(0, -2).sum(0) for product in products]
    return {
        "mlp_taylor": torch.stack(effects[:n]),
        "heads_taylor": torch.stack([e.view(-1, dim).sum(1) for e in effects[n:]]),
        "vocab_taylor": written.sum((0, 1)).index_add(0, ids[0], read[0].sum(-1)),
    }
