"""llama.cpp on the processor, on an unquantized GGUF file."""

import ctypes
from dataclasses import replace
from pathlib import Path
from typing import Any

from prune_exp.measurement.backends.gguf import ARCHITECTURES, write_gguf
from prune_exp.measurement.backends.protocol import (
    Arrived,
    Load,
    LoadedModel,
    ServeSpec,
    read_footprint,
    write_footprint,
)
from prune_exp.measurement.footprint import Footprint, footprint_of

FILE = "model.gguf"
GGML_TYPES = {"float32": 0, "bfloat16": 30}
"""`enum ggml_type` in ggml.h."""
FAMILIES = tuple(ARCHITECTURES)


def export(checkpoint: Path, folder: Path, dtype: str) -> None:
    """Writes model.gguf."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    write_gguf(model, folder / FILE, dtype)
    write_footprint(footprint_of(model.to(getattr(torch, dtype))), folder)


def start(_serving: ServeSpec) -> Load:
    """Imports the runtime."""
    import llama_cpp  # pyright: ignore[reportMissingImports]

    llama_cpp.llama_backend_init()
    return load


def load(serving: ServeSpec) -> LoadedModel:
    """The model and a context of as many sequences and tokens as will be asked for."""
    context = Context(serving)
    footprint = replace(read_footprint(serving.folder), cache_tokens=context.tokens)
    return LoadedModel(generate=context.generator(footprint), footprint=footprint)


class Context:
    """A model with its context; keys and values have the type of the weights."""

    def __init__(self, serving: ServeSpec) -> None:
        import llama_cpp  # pyright: ignore[reportMissingImports]

        self.api = llama_cpp
        path = str(Path(serving.folder) / FILE).encode()
        model = llama_cpp.llama_model_load_from_file(path, llama_cpp.llama_model_default_params())
        if not model:
            raise RuntimeError(f"llama.cpp cannot load {serving.folder}")
        asked = llama_cpp.llama_context_default_params()
        asked.n_seq_max = serving.sequences
        asked.n_ctx = serving.sequences * serving.cache_tokens
        asked.n_batch = asked.n_ctx
        asked.n_threads = asked.n_threads_batch = serving.threads
        asked.type_k = asked.type_v = GGML_TYPES[serving.dtype]
        self.context = llama_cpp.llama_init_from_model(model, asked)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context of this size")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self.tokens = llama_cpp.llama_n_ctx(self.context) // serving.sequences
        self.sequences = serving.sequences

    def generator(self, footprint: Footprint) -> Any:
        """Generation whose cache is the whole context's, whatever the request."""
        held = self.sequences * footprint.kv_bytes(0)

        def generate(
            ids: list[list[int]], new_tokens: int, arrived: Arrived
        ) -> tuple[list[list[int]], int]:
            self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
            found: list[list[int]] = [[] for _ in ids]
            tokens = ids
            place = 0
            for _ in range(new_tokens):
                following = self._next(tokens, place)
                place += len(tokens[0])
                tokens = [[one] for one in following]
                for own, one in zip(found, following, strict=True):
                    own.append(one)
                arrived()
            return found, held

        return generate

    def _next(self, tokens: list[list[int]], place: int) -> list[int]:
        """The most likely token after each sequence's tokens, the first of which is at `place`."""
        import numpy as np

        new = len(tokens[0])
        last = []
        batch = self.api.llama_batch_init(len(tokens) * new, 0, 1)
        try:
            for sequence, own in enumerate(tokens):
                for offset, token in enumerate(own):
                    at = sequence * new + offset
                    batch.token[at] = token
                    batch.pos[at] = place + offset
                    batch.n_seq_id[at] = 1
                    batch.seq_id[at][0] = sequence
                    batch.logits[at] = offset == new - 1
                last.append(sequence * new + new - 1)
            batch.n_tokens = len(tokens) * new
            code = self.api.llama_decode(self.context, batch)
        finally:
            self.api.llama_batch_free(batch)
        if code:
            raise RuntimeError(f"llama.cpp could not decode (code {code})")
        rows = [self.api.llama_get_logits_ith(self.context, at) for at in last]
        kind = ctypes.POINTER(ctypes.c_float)
        return [
            int(np.ctypeslib.as_array(ctypes.cast(row, kind), (self.vocab,)).argmax())
            for row in rows
        ]
