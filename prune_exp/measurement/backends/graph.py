"""A decoder as a graph with explicit keys and values, for runtimes that are not torch.

Inputs: token ids [batch, new], then per layer keys and values of the tokens before them
[batch, kv_heads, past, head_dim]. Outputs: fp32 logits of the last token [batch, vocab], then per
layer keys and values with the new tokens joined. `past` may be 0.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prune_exp.machine.quiet import hush_loggers

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gpt2", "gpt_neox")
"""Model types whose graphs are tested against the model itself."""


EXPORTER = "torch.onnx._internal.exporter._registration"
"""The logger that tells of operators whose package is not installed; no model here has any."""


@contextmanager
def hush_exporters() -> Iterator[None]:
    """Says nothing of what exporters warn of, which is about their own insides."""
    with hush_loggers(EXPORTER), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def names_of(layers: int) -> list[str]:
    """Names of the keys and values, in the graph's order."""
    return [f"{kind}_{layer}" for layer in range(layers) for kind in ("keys", "values")]


def export_graph(checkpoint: Path, dtype: str) -> tuple[Any, Any]:
    """The model and its `torch.export` program; weights in float32 or bfloat16.

    Every layer attends to all of the text: windows must be longer than what will be asked.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from prune_exp.model.shape import heads_of

    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint,
        dtype=getattr(torch, dtype),
        use_safetensors=True,
        attn_implementation="sdpa",
        trust_remote_code=False,
    ).eval()
    model.requires_grad_(False)
    heads = heads_of(model.config)
    layers = model.config.num_hidden_layers
    ids = torch.ones(2, 3, dtype=torch.long)
    shape = (2, heads.groups, 4, heads.dim)
    past = [torch.zeros(shape, dtype=model.dtype) for _ in range(2 * layers)]
    free = torch.export.Dim.DYNAMIC
    shapes = ({0: free, 1: free}, [{0: free, 2: free}] * (2 * layers))
    with torch.no_grad():
        return model, torch.export.export(_make_module(model), (ids, past), dynamic_shapes=shapes)


def _make_module(model: Any) -> Any:
    import torch

    class WithPast(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, past: list[Any]) -> tuple[Any, list[Any]]:
            before = past[0].shape[2]
            new = ids.shape[1]
            places = torch.arange(new) + before
            seen = torch.arange(new + before)[None] <= places[:, None]
            out = self.model(
                input_ids=ids,
                attention_mask=seen[None, None],
                position_ids=places[None],
                past_key_values=cache_of(past),
                use_cache=True,
                logits_to_keep=1,
            )
            layers = out.past_key_values.layers
            joined = [one for layer in layers for one in (layer.keys, layer.values)]
            return out.logits[:, -1].float(), joined

    return WithPast()


def cache_of(past: list[Any]) -> Any:
    """A cache that holds `past` already, with no copy in between."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache()
    for keys, values in zip(past[::2], past[1::2], strict=True):
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys = keys
        layer.values = values
        cache.layers.append(layer)
    return cache
