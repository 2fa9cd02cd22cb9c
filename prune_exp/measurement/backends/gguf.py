"""Checkpoints as GGUF files, unquantized and without a vocabulary: token ids go in and come out.

Format and names: the GGUF specification (github.com/ggml-org/ggml, docs/gguf.md) and the table of
the `gguf` package. llama.cpp rotates neighbouring pairs of a head's numbers in its llama
architecture, transformers the two halves, hence the reordering of queries and keys.
"""

from pathlib import Path
from typing import Any

ARCHITECTURES = {"llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
"""The architecture in llama.cpp of every model type that is tested."""
FILE_TYPES = {"float32": "ALL_F32", "bfloat16": "MOSTLY_BF16"}


def write_gguf(model: Any, path: Path, dtype: str) -> None:
    """Writes a loaded model (in float32) with its matrices in `dtype`, everything else in float32.

    Its positions must not be scaled: the file would not say so.
    """
    import gguf

    config = model.config
    arch = gguf.MODEL_ARCH[ARCHITECTURES[config.model_type]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    _write_sizes(writer, config)
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[dtype]])
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    for name, value in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        own = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert own is not None, name
        turned = heads.get(name.split(".")[-2]) if arch == gguf.MODEL_ARCH.LLAMA else None
        _write_tensor(writer, own, interleave_pairs(value, turned) if turned else value, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_sizes(writer: Any, config: Any) -> None:
    from prune_exp.model.shape import heads_of

    heads = heads_of(config)
    rope = config.rope_parameters
    assert rope.get("rope_type", "default") == "default", rope
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads.queries)
    writer.add_head_count_kv(heads.groups)
    writer.add_key_length(heads.dim)
    writer.add_value_length(heads.dim)
    writer.add_rope_dimension_count(heads.dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("no_vocab")


def interleave_pairs(value: Any, heads: int) -> Any:
    """Rows of every head [2 * half, ...] so that what was `half` apart lies side by side."""
    split = value.reshape(heads, 2, value.shape[0] // heads // 2, *value.shape[1:])
    return split.transpose(1, 2).reshape(value.shape)


def _write_tensor(writer: Any, name: str, value: Any, dtype: str) -> None:
    import gguf

    array = value.float().contiguous().numpy()
    if dtype == "bfloat16" and array.ndim > 1:
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, array)
