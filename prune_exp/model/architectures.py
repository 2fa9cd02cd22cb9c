"""Decoder families: where each keeps its parts.

The only file that knows attribute names. A family is a row of a table; what all have in common is
written once. Weights are handled as [outputs, inputs] whatever the module stores.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import nn

from prune_exp.model.shape import Heads, ModelShape, heads_of
from prune_exp.settings.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class Family:
    """Attribute names; those of parts are relative to a layer."""

    layers: str = "layers"
    """The layers, relative to the base model."""
    final_norm: str = "norm"
    """What normalizes the last layer's output, relative to the base model."""
    attention: str = "self_attn"
    heads_out: str = "self_attn.o_proj"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    """Projections of queries, keys and values; one name when they are one matrix."""
    mlp_in: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    mlp_out: str = "mlp.down_proj"
    gates: int = 1
    """Rows of each `mlp_in` that a channel has: two when gate and up are one matrix."""
    width: str = "intermediate_size"
    """The config's name of the MLP width."""
    free_heads: bool = True
    """Whether the config can say how many heads there are without changing their size."""
    post_norm: bool = False
    """Whether what attention and MLP write is normalized before it joins the residual stream."""


LLAMA = Family()
FAMILIES = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma3_text": Family(post_norm=True),
    "phi3": Family(qkv=("self_attn.qkv_proj",), mlp_in=("mlp.gate_up_proj",), gates=2),
    "gpt2": Family(
        layers="h",
        final_norm="ln_f",
        attention="attn",
        heads_out="attn.c_proj",
        qkv=("attn.c_attn",),
        mlp_in=("mlp.c_fc",),
        mlp_out="mlp.c_proj",
        width="n_inner",
        free_heads=False,
    ),
    "opt": Family(
        layers="decoder.layers",
        final_norm="decoder.final_layer_norm",
        heads_out="self_attn.out_proj",
        mlp_in=("fc1",),
        mlp_out="fc2",
        width="ffn_dim",
        free_heads=False,
    ),
    "gpt_neox": Family(
        final_norm="final_layer_norm",
        attention="attention",
        heads_out="attention.dense",
        qkv=("attention.query_key_value",),
        mlp_in=("mlp.dense_h_to_4h",),
        mlp_out="mlp.dense_4h_to_h",
        free_heads=False,
    ),
}


def check_variant(config: dict[str, Any]) -> None:
    """Raises SettingError for configs (as read from config.json) that cannot be pruned."""
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise SettingError(
            f"model type {kind!r} is not supported; supported are {', '.join(FAMILIES)}"
        )
    quantized = config.get("quantization_config") or config.get("compression_config")
    if quantized:
        how = dict(quantized).get("quant_method", "by an unnamed method")
        raise SettingError(
            f"the checkpoint is quantized ({how}), and such weights cannot be pruned; use the model"
            " that it was made from"
        )
    if kind == "opt" and not config.get("do_layer_norm_before", True):
        raise SettingError(
            "OPT models that normalize after attention (opt-350m) are not supported; use another"
            " size"
        )
    if kind == "opt" and (
        config.get("_remove_final_layer_norm")
        or config.get("word_embed_proj_dim") not in (None, config.get("hidden_size"))
    ):
        raise SettingError(
            "OPT models without a last norm, or with embeddings of another size than the layers',"
            " are not supported; use another size"
        )
    if kind == "gemma3_text" and config.get("final_logit_softcapping"):
        raise SettingError(
            "Gemma 3 models with final_logit_softcapping are not supported: quality would be judged"
            " without it; set it to null where the model was trained so"
        )
    if config.get("scale_attn_by_inverse_layer_idx"):
        raise SettingError(
            "GPT-2 models with scale_attn_by_inverse_layer_idx are not supported: layers would"
            " change with their number"
        )


def submodule_of(module: Any, name: str) -> Any:
    """A module below another by its dotted name."""
    return reduce(getattr, name.split("."), module)


def weight_matrix(linear: Any) -> torch.Tensor:
    """A projection's weight as [outputs, inputs]; GPT-2 stores it the other way round."""
    weight = linear.weight
    return weight.T if type(linear).__name__ == "Conv1D" else weight


def set_weight_matrix(linear: Any, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Gives a projection a weight [outputs, inputs] of another size, in place."""
    conv = type(linear).__name__ == "Conv1D"
    stored = weight.T if conv else weight
    linear.weight = nn.Parameter(stored.detach().contiguous(), requires_grad=False)
    if linear.bias is not None:
        assert bias is not None
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    if conv:
        linear.nf = weight.shape[0]
        linear.nx = weight.shape[1]
    else:
        linear.out_features, linear.in_features = weight.shape


@dataclass(frozen=True, kw_only=True)
class DecoderLayer:
    """A layer of a decoder with what its family knows of it."""

    module: Any
    family: Family
    heads: Heads
    """As the dense model has them."""

    def part(self, name: str) -> Any:
        """A module of the layer by its dotted name."""
        return submodule_of(self.module, name)

    def weights(self, name: str) -> torch.Tensor:
        """The weight of one of the layer's projections [outputs, inputs]."""
        return weight_matrix(self.part(name))

    @property
    def heads_out(self) -> Any:
        """Reads the concatenated heads [.., heads * head_dim], writes towards the stream."""
        return self.part(self.family.heads_out)

    @property
    def mlp_out(self) -> Any:
        """Reads the channels [.., width], writes towards the stream."""
        return self.part(self.family.mlp_out)

    @property
    def width(self) -> int:
        """MLP channels."""
        return weight_matrix(self.mlp_out).shape[1]

    @property
    def channel_params(self) -> int:
        """Parameters of one MLP channel: its rows of the inputs and its column of the output."""
        inputs = [self.part(name) for name in self.family.mlp_in]
        rows = sum(weight_matrix(one).shape[1] + (one.bias is not None) for one in inputs)
        return self.family.gates * rows + weight_matrix(self.mlp_out).shape[0]

    @property
    def head_params(self) -> tuple[int, int]:
        """Parameters of a query head with its output columns, and of a key/value head."""
        first = self.part(self.family.qkv[0])
        row = weight_matrix(first).shape[1] + (first.bias is not None)
        column = weight_matrix(self.heads_out).shape[0]
        return self.heads.dim * (row + column), 2 * self.heads.dim * row


def layers_of(model: Any) -> list[DecoderLayer]:
    """The decoder layers of a model, in order."""
    family = FAMILIES[model.config.model_type]
    heads = heads_of(model.config)
    modules = submodule_of(model.base_model, family.layers)
    return [DecoderLayer(module=module, family=family, heads=heads) for module in modules]


def decoder_of(model: Any) -> Any:
    """The model without its language-model head; returns final hidden states."""
    return model.base_model


def head_of(model: Any) -> nn.Linear:
    """The language-model head: hidden [.., hidden] to logits [.., vocab]."""
    return model.get_output_embeddings()


def final_norm_of(model: Any) -> Any:
    """Normalizes the last layer's output [.., hidden] for the language-model head."""
    return submodule_of(model.base_model, FAMILIES[model.config.model_type].final_norm)


def channel_norms_sq(layer: DecoderLayer) -> torch.Tensor:
    """Squared norm of what makes each MLP channel, biases left out [width]."""
    rows = torch.stack([layer.weights(name).square().sum(1) for name in layer.family.mlp_in])
    return rows.sum(0).view(layer.family.gates, -1).sum(0)


def head_norms_sq(layer: DecoderLayer) -> dict[str, torch.Tensor]:
    """Squared norm of what makes queries [Q], keys and values [K], by role, biases left out."""
    heads = layer.heads
    names = layer.family.qkv
    sizes = [heads.queries, heads.groups, heads.groups]
    if len(names) == 3:
        parts = [layer.weights(name) for name in names]
    elif names[0].endswith("query_key_value"):
        mixed = layer.weights(names[0]).view(heads.queries, 3, heads.dim, -1)
        parts = [mixed[:, i].flatten(0, 1) for i in range(3)]
    else:
        parts = list(layer.weights(names[0]).split([n * heads.dim for n in sizes]))
    return {
        role: rows.square().sum(1).view(-1, heads.dim).sum(1)
        for role, rows in zip(("queries", "keys", "values"), parts, strict=True)
    }


def shape_of(model: Any) -> ModelShape:
    """Counts a model's sizes from its real tensors."""
    config = model.config
    layers = layers_of(model)
    first = layers[0]
    embedding = model.get_input_embeddings().weight
    tied = embedding is head_of(model).weight
    query_params, group_params = first.head_params
    return ModelShape(
        layers=len(layers),
        hidden=config.hidden_size,
        width=first.width,
        query_heads=first.heads.queries,
        kv_heads=first.heads.groups,
        head_dim=first.heads.dim,
        free_heads=first.family.free_heads,
        vocab=embedding.shape[0],
        params_total=sum(p.numel() for p in model.parameters()),
        params_layer=sum(p.numel() for p in first.module.parameters()),
        params_channel=first.channel_params,
        params_query_head=query_params,
        params_kv_head=group_params,
        params_embedding_only=0 if tied else embedding.numel(),
        params_token=embedding.shape[1] * (1 if tied else 2),
    )
