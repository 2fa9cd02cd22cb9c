"""What the loss would do if a unit were not there, to first order.

Gradients go back through one layer at a time, so only one layer's activations are held.
"""

from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from prune_exp.model.architectures import DecoderLayer, final_norm_of, head_of, layers_of
from prune_exp.model.offload import at_hand
from prune_exp.pruning.layer_stream import LayerStream, first_input, watch_modules


def taylor_effects(
    model: Any, calls: LayerStream, ids: torch.Tensor, states: Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """First-order effect on the loss of removing each unit (arXiv:1611.06440).

    For every unit, the sum over a block's tokens of activation * gradient; its absolute value is
    averaged over the blocks of ids [blocks, tokens]. `states` are the residual streams
    [blocks, tokens, hidden] before every layer and after the last.
    """
    ids = ids.to(model.device)
    written, gradients = _effects_of_logits(model, ids, states[-1])
    mlp: list[torch.Tensor] = []
    heads: list[torch.Tensor] = []
    layers = list(enumerate(layers_of(model)))
    for index, layer in tqdm(layers[::-1], "gradients", unit="layer"):
        before = states[index].to(model.device)
        channels, dims, gradients = _effects_in_layer(calls, layer, index, before, gradients)
        mlp.insert(0, channels)
        heads.insert(0, dims)
    tokens = _add_embeddings(model, ids, gradients, written)
    return {
        "mlp_taylor": torch.stack(mlp).abs().mean(1),
        "heads_taylor": torch.stack(heads).abs().mean(1),
        "vocab_taylor": tokens.abs().mean(0),
    }


def _effects_of_logits(
    model: Any, ids: torch.Tensor, states: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens' effects by their logits [blocks, vocab], and the loss's gradient by `states`.

    These are the last layer's outputs [blocks, tokens, hidden], and so is the gradient.
    """
    effects, gradients = [], []
    for block, tokens in zip(states.to(model.device), ids, strict=True):
        hidden = block[None].requires_grad_(True)
        with torch.enable_grad():
            logits = head_of(model)(final_norm_of(model)(hidden))
            loss = model.loss_function(
                logits=logits, labels=tokens[None], vocab_size=model.config.vocab_size
            )
            by_logits, by_hidden = torch.autograd.grad(loss, [logits, hidden])
        effects.append((logits.detach() * by_logits).sum((0, 1)))
        gradients.append(by_hidden)
    return torch.stack(effects), torch.cat(gradients)


def _effects_in_layer(
    calls: LayerStream,
    layer: DecoderLayer,
    index: int,
    before: torch.Tensor,
    after: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Effects of a layer's channels [blocks, width] and heads [blocks, heads].

    And the loss's gradient by what the layer reads, `before`, from that by what it gives, `after`,
    all [blocks, tokens, hidden].
    """
    mlp, heads, gradients = [], [], []
    with at_hand(layer.module):
        for block, gradient in zip(before, after, strict=True):
            seen: dict[str, list[torch.Tensor]] = {"mlp": [], "heads": []}
            inputs: dict[Any, Any] = {layer.mlp_out: seen["mlp"].append}
            inputs[layer.heads_out] = seen["heads"].append
            hidden = block[None].requires_grad_(True)
            with torch.enable_grad(), watch_modules(inputs, {}):
                output = calls.call(layer, index, hidden)
                wanted = [*seen["mlp"], *seen["heads"], hidden]
                found = torch.autograd.grad(output, wanted, gradient[None])
            effects = [
                (value.detach() * slope).flatten(0, -2).sum(0)
                for value, slope in zip(wanted[:2], found[:2], strict=True)
            ]
            mlp.append(effects[0])
            heads.append(effects[1].view(-1, layer.heads.dim).sum(1))
            gradients.append(found[2])
    return torch.stack(mlp), torch.stack(heads), torch.cat(gradients)


def _add_embeddings(
    model: Any, ids: torch.Tensor, gradients: torch.Tensor, effects: torch.Tensor
) -> torch.Tensor:
    """Tokens' `effects` [blocks, vocab] with those by their embeddings.

    `gradients` are the loss's by what the first layer reads [blocks, tokens, hidden].
    """
    found = []
    for tokens, gradient, known in zip(ids, gradients, effects, strict=True):
        embedded = model.get_input_embeddings()(tokens[None]).detach().requires_grad_(True)
        with torch.enable_grad():
            first = first_input(model, inputs_embeds=embedded)
            (slope,) = torch.autograd.grad(first, [embedded], gradient[None])
        products = (embedded.detach() * slope)[0].sum(-1)
        found.append(known.index_add(0, tokens, products))
    return torch.stack(found)
