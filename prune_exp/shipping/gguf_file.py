"""One GGUF file that llama.cpp opens with nothing added."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from prune_exp.model import loading
from prune_exp.settings.errors import SettingError
from prune_exp.shipping.gguf_model import ARCHITECTURES, check_config, tensors_of, write_sizes
from prune_exp.shipping.gguf_vocabulary import name_split, takes_spaces, write_vocabulary
from prune_exp.shipping.quantization import CHOICES, encode
from prune_exp.shipping.runtimes import list_end_tokens

PHI3 = re.compile(r"phi-?3", re.IGNORECASE)


def check_gguf(checkpoint: Path) -> None:
    """Raises SettingError for a model or a tokenizer that llama.cpp has no words for."""
    check_config(loading.load_skeleton(checkpoint).config)
    tokenizer = loading.load_tokenizer(checkpoint)
    name_split(tokenizer)
    if tokenizer.eos_token_id is None and not list_end_tokens(checkpoint):
        raise SettingError(
            "GGUF cannot hold this tokenizer: no token ends a text, and llama.cpp would take any"
            " other one for that; name one in the dense model's generation_config.json and prune it"
            " again"
        )


def write_gguf(checkpoint: Path, path: Path, kind: str, name: str) -> None:
    """Writes weights, sizes and tokenizer; `kind` is a name in `CHOICES`."""
    import gguf

    choose, file_type = CHOICES[kind]
    model = loading.load_model(checkpoint)
    config = model.config
    arch = gguf.MODEL_ARCH[ARCHITECTURES[config.model_type]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    tokenizer = loading.load_tokenizer(checkpoint)
    writer.add_name(name_for_readers(name, takes_spaces(tokenizer)))
    _write_papers(writer, checkpoint)
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_sizes(writer, model)
    write_vocabulary(writer, tokenizer, config.vocab_size, list_end_tokens(checkpoint))
    tied = config.tie_word_embeddings
    for own, array in tensors_of(model):
        chosen = choose(own, array.shape, config.num_hidden_layers, tied)
        encoded, number = encode(array, chosen)
        writer.add_tensor(own, encoded, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def name_for_readers(name: str, spaces_taken: bool) -> str:
    """The name in a file; by it llama.cpp knows whether special tokens take the spaces after them,
    which a file has no other way to say."""
    if spaces_taken:
        return name if PHI3.search(name) else f"{name} (phi-3 tokens)"
    return PHI3.sub("phi 3", name)


def _write_papers(writer: Any, checkpoint: Path) -> None:
    """The licence and the dense model, as far as the model's card names them."""
    from huggingface_hub import ModelCard

    card = checkpoint / "README.md"
    if not card.is_file():
        return
    try:
        data: Any = ModelCard.load(card, ignore_metadata_errors=True).data
    except Exception:  # of a dense model anybody may have written it, and in any way
        return
    if isinstance(data.license, str):
        writer.add_license(data.license)
    if isinstance(data.base_model, str):
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, data.base_model.rpartition("/")[2])
        if "/" in data.base_model:
            writer.add_base_model_repo_url(0, f"https://huggingface.co/{data.base_model}")


def describe_types(path: Path) -> str:
    """How many matrices of a file have which type."""
    import gguf

    tensors: list[Any] = gguf.GGUFReader(path).tensors
    counts = Counter(one.tensor_type.name for one in tensors if len(one.shape) > 1)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())
