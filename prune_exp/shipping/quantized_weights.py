"""A model with the weights that a GGUF file of it would give back."""

from typing import Any

from prune_exp.model.loading import HEADS
from prune_exp.shipping.gguf_model import is_transposed, name_tensors
from prune_exp.shipping.quantization import CHOICES, encode


def quantize_weights(model: Any, kind: str) -> None:
    """Rounds a model's weights, in place, to what a file of a kind in `CHOICES` holds.

    llama.cpp also rounds what it multiplies them with; that is not done here. Blocks lie in rows,
    so it does not matter that a file may have rows in another order.
    """
    import gguf
    import torch

    config = model.config
    choose, _ = CHOICES[kind]
    names = name_tensors(config)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    for name, value in model.state_dict().items():
        if tied and name in HEADS:
            continue
        turned = value.T if is_transposed(config, name, value) else value
        rows = turned.detach().float().contiguous().numpy()
        chosen = choose(names(name), rows.shape, config.num_hidden_layers, tied)
        if chosen == "F32":
            continue
        encoded, number = encode(rows, chosen)
        back = torch.from_numpy(gguf.quants.dequantize(encoded, number).reshape(rows.shape).copy())
        value.copy_(back.T if turned is not value else back)
