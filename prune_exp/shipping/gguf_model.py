"""A checkpoint's weights and sizes in llama.cpp's words.

Format and names: the GGUF specification (github.com/ggml-org/ggml, docs/gguf.md), the table of the
`gguf` package, and llama.cpp's own conversion script, whose reorderings these are.
"""

from collections.abc import Callable, Iterator
from typing import Any

from prune_exp.measurement.backends.gguf import interleave_pairs
from prune_exp.model.loading import HEADS
from prune_exp.model.shape import heads_of
from prune_exp.settings.errors import SettingError

ARCHITECTURES = {
    "llama": "LLAMA",
    "mistral": "LLAMA",
    "qwen2": "QWEN2",
    "qwen3": "QWEN3",
    "gemma3_text": "GEMMA3",
    "phi3": "PHI3",
    "gpt2": "GPT2",
    "gpt_neox": "GPTNEOX",
}
"""The architecture in llama.cpp of every model type that it has one for."""
ACTIVATIONS = {
    "gemma3_text": ("gelu_pytorch_tanh",),
    "gpt2": ("gelu_new", "gelu_pytorch_tanh"),
    "gpt_neox": ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"),
}
"""What a model type computes in llama.cpp; silu where it is not here."""


def check_config(config: Any) -> None:
    """Raises SettingError for what llama.cpp computes in another way than the config says."""
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise SettingError(
            f"GGUF cannot hold {kind}: llama.cpp has no such architecture; it has those of"
            f" {', '.join(ARCHITECTURES)}"
        )
    act = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    act = getattr(config, "activation_function", None) or act
    if act not in ACTIVATIONS.get(kind, ("silu", "swish")):
        _refuse(f"{kind} with the activation {act}")
    if rope_type_of(config) not in _known_ropes(kind):
        _refuse(f"{kind} with positions of type {rope_type_of(config)}")
    if kind == "gpt_neox" and (config.tie_word_embeddings or not config.attention_bias):
        _refuse("gpt_neox with tied embeddings, or without biases in its attention")
    if kind == "qwen3" and config.attention_bias:
        _refuse("qwen3 with biases in its attention")
    if (
        kind not in ("phi3", "gpt_neox", "gpt2")
        and rope_of(config).get("partial_rotary_factor", 1.0) != 1.0
    ):
        _refuse(f"{kind} that turns a part of each head alone")
    if kind == "gemma3_text":
        if config.query_pre_attn_scalar != config.head_dim:
            _refuse("gemma3_text with query_pre_attn_scalar that is not its head_dim")
        if config.attn_logit_softcapping or config.final_logit_softcapping:
            _refuse("gemma3_text with capped logits")
        period_of(config.layer_types)


def _refuse(what: str) -> None:
    raise SettingError(f"GGUF cannot hold {what}")


def _known_ropes(kind: str) -> tuple[str, ...]:
    return ("default", "llama3", "linear") if ARCHITECTURES[kind] == "LLAMA" else ("default",)


def rope_of(config: Any) -> dict[str, Any]:
    """How positions turn queries and keys, in layers that see the whole text."""
    rope = getattr(config, "rope_parameters", None) or {}
    return rope.get("full_attention", rope)


def rope_type_of(config: Any) -> str:
    """What kind of scaling positions have."""
    return rope_of(config).get("rope_type", "default")


def period_of(layer_types: list[str]) -> int:
    """After how many layers one sees the whole text; 0 where none does.

    Raises:
        SettingError: they follow no such rule, which is all that llama.cpp knows.
    """
    layers = len(layer_types)
    whole = [kind == "full_attention" for kind in layer_types]
    for period in (6, *range(1, layers + 1)):
        if whole == [(layer + 1) % period == 0 for layer in range(layers)]:
            return period
    if not any(whole):
        return 0
    raise SettingError(
        "GGUF cannot hold this gemma3_text: layers were removed, and those that see the whole"
        " text no longer come at equal distances, as llama.cpp has them"
    )


def write_sizes(writer: Any, model: Any) -> None:
    """Tells a `GGUFWriter` everything that llama.cpp asks of an architecture."""
    config = model.config
    heads = heads_of(config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(_context_of(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(_width_of(config))
    writer.add_head_count(heads.queries)
    writer.add_head_count_kv(heads.groups)
    if config.model_type in ("gpt2", "gpt_neox"):
        _write_layer_norm(writer, config, heads.dim)
        return
    rope = rope_of(config)
    writer.add_key_length(heads.dim)
    writer.add_value_length(heads.dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(heads.dim * rope.get("partial_rotary_factor", 1.0)))
    if config.model_type == "phi3":
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
    if config.model_type == "gemma3_text":
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern(period_of(config.layer_types))
        local = config.rope_parameters["sliding_attention"]
        writer.add_rope_freq_base_swa(local["rope_theta"])


def _write_layer_norm(writer: Any, config: Any, head_dim: int) -> None:
    if config.model_type == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    rope = rope_of(config)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    writer.add_parallel_residual(config.use_parallel_residual)


def _context_of(config: Any) -> int:
    """The longest text; no longer than a window that llama.cpp would not keep to."""
    window = getattr(config, "sliding_window", None)
    longest = config.max_position_embeddings
    own = config.model_type == "gemma3_text"
    return longest if own or window is None else min(longest, window)


def _width_of(config: Any) -> int:
    if config.model_type == "gpt2":
        return config.n_inner or 4 * config.hidden_size
    return config.intermediate_size


def name_tensors(config: Any) -> Callable[[str], str]:
    """What llama.cpp calls a tensor of a model, by the name that transformers has for it."""
    import gguf

    arch = gguf.MODEL_ARCH[ARCHITECTURES[config.model_type]]
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)

    def find(name: str) -> str:
        own = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert own is not None, name
        return own

    return find


def tensors_of(model: Any) -> Iterator[tuple[str, Any]]:
    """Names and float32 arrays, as llama.cpp wants them."""
    config = model.config
    names = name_tensors(config)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    turn = TURNS.get(config.model_type)
    for name, value in model.state_dict().items():
        if tied and name in HEADS:
            continue
        turned = value.float() if turn is None else turn(config, name, value.float())
        yield names(name), turned.contiguous().numpy()
    if rope_type_of(config) != "default":
        yield "rope_freqs.weight", _rope_factors(model)


def _rope_factors(model: Any) -> Any:
    """By what llama.cpp has to divide the plain frequencies of positions."""
    import numpy as np

    own = model.base_model.rotary_emb.inv_freq.float().numpy()
    plain = rope_of(model.config)["rope_theta"] ** -(np.arange(len(own)) / len(own))
    return (plain / own).astype(np.float32)


def _turn_llama(config: Any, name: str, value: Any) -> Any:
    """llama.cpp rotates neighbouring pairs of a head's numbers here, transformers two halves."""
    heads = heads_of(config)
    count = {"q_proj": heads.queries, "k_proj": heads.groups}.get(name.split(".")[-2])
    return value if count is None else interleave_pairs(value, count)


def _turn_gemma(_config: Any, name: str, value: Any) -> Any:
    """transformers adds the 1 when it normalizes."""
    return value + 1.0 if name.endswith("norm.weight") else value


def is_transposed(config: Any, name: str, value: Any) -> bool:
    """Whether transformers stores a matrix as [inputs, outputs], as it does those of GPT-2."""
    own = name.split(".")[-2] in ("c_attn", "c_proj", "c_fc")
    return config.model_type == "gpt2" and own and value.ndim == 2


def _turn_gpt2(config: Any, name: str, value: Any) -> Any:
    return value.T if is_transposed(config, name, value) else value


def _turn_neox(config: Any, name: str, value: Any) -> Any:
    """Queries, keys and values are mixed head by head; llama.cpp has one after another."""
    if ".query_key_value." not in name:
        return value
    mixed = value.reshape(config.num_attention_heads, 3, -1, *value.shape[1:])
    return mixed.transpose(0, 1).reshape(value.shape)


TURNS: dict[str, Callable[[Any, str, Any], Any]] = {
    "llama": _turn_llama,
    "mistral": _turn_llama,
    "gemma3_text": _turn_gemma,
    "gpt2": _turn_gpt2,
    "gpt_neox": _turn_neox,
}
"""How a model type's weights are reordered; others lie as llama.cpp wants them."""
