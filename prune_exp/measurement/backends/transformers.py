"""transformers: its own generation with a growing cache, or a static cache and a compiled step."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from prune_exp.measurement.backends.protocol import Arrived, Generate, Load, LoadedModel, ServeSpec
from prune_exp.measurement.footprint import footprint_of
from prune_exp.model.plain_generation import plain_generation


def start(serving: ServeSpec) -> Load:
    """Imports torch and the architecture's code, and what compiles; makes threads and buffers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(serving.threads)
    config = AutoConfig.from_pretrained(serving.folder, trust_remote_code=False)
    AutoModelForCausalLM._model_mapping.get(type(config), None)  # imports the architecture
    torch.mm(*torch.randn(2, 256, 256, device=serving.device))
    if serving.compile:
        torch.compile(lambda x: x + 1, dynamic=False)(torch.ones(8, device=serving.device))
    return load


def load(serving: ServeSpec) -> LoadedModel:
    """A checkpoint as stock transformers loads it, in the asked type."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        serving.folder,
        dtype=getattr(torch, serving.dtype),
        use_safetensors=True,
        attn_implementation="sdpa",
        trust_remote_code=False,
    )
    model = model.to(serving.device).eval().requires_grad_(False)
    model.generation_config = plain_generation(model.generation_config)
    footprint = footprint_of(model)
    if serving.cache == "dynamic":
        return LoadedModel(generate=_generate_growing(model), footprint=footprint)
    static = StaticCacheModel(model, serving)
    return LoadedModel(
        generate=static.generate, footprint=replace(footprint, cache_tokens=serving.cache_tokens)
    )


class _Streamer:
    """What `generate` hands its tokens to; the first call brings the prompt."""

    def __init__(self, arrived: Arrived) -> None:
        self._arrived = arrived
        self._prompt_seen = False

    def put(self, _tokens: Any) -> None:
        if self._prompt_seen:
            self._arrived()
        self._prompt_seen = True

    def end(self) -> None:
        pass


def _generate_growing(model: Any) -> Generate:
    def generate(
        ids: list[list[int]], new_tokens: int, arrived: Arrived
    ) -> tuple[list[list[int]], int]:
        import torch

        prompt = torch.tensor(ids, device=model.device)
        with torch.inference_mode():
            output = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                use_cache=True,  # some checkpoints forbid it in their config
                pad_token_id=0,
                streamer=_Streamer(arrived),
                return_dict_in_generate=True,
            )
        tokens = output.sequences[:, prompt.shape[1] :].tolist()
        return tokens, cache_bytes(output.past_key_values)

    return generate


class StaticCacheModel:
    """Greedy decoding over a cache with room for `cache_tokens`, its step compiled if asked for.

    Each number of sequences has a cache of its own, which its next request finds again.
    """

    def __init__(self, model: Any, serving: ServeSpec) -> None:
        """Compiles for one sequence, so that loading takes as long as it takes."""
        self._model = model
        self._room = serving.cache_tokens
        self._caches: dict[int, Any] = {}
        self._step: Callable[[Any, Any], Any] = self._next
        if serving.compile:
            import torch

            # a GPU waits for the launches of a small step's kernels; a graph launches them at once
            mode = "reduce-overhead" if serving.device == "cuda" else None
            self._step = torch.compile(self._next, dynamic=False, mode=mode)
            self.generate([[0]], 3, lambda: None)

    def generate(
        self, ids: list[list[int]], new_tokens: int, arrived: Arrived
    ) -> tuple[list[list[int]], int]:
        """As `Generate`; the prompt's pass is never compiled, since lengths differ."""
        import torch

        with torch.no_grad():
            cache = self._emptied(len(ids))
            tokens = self._next(torch.tensor(ids, device=self._model.device), cache)
            found = [tokens.cpu()]  # waits for the device: a token has arrived once it is there
            arrived()
            for _ in range(new_tokens - 1):
                tokens = self._step(tokens, cache).clone()  # a graph reuses its output's memory
                found.append(tokens.cpu())
                arrived()
        return torch.cat(found, dim=1).tolist(), cache_bytes(cache)

    def _next(self, tokens: Any, cache: Any) -> Any:
        """The most likely tokens [batch, 1] after tokens [batch, new]."""
        out = self._model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].argmax(-1, keepdim=True)

    def _emptied(self, sequences: int) -> Any:
        from transformers import StaticCache

        if sequences in self._caches:
            self._caches[sequences].reset()
        else:
            config = self._model.config
            self._caches[sequences] = StaticCache(config=config, max_cache_len=self._room)
        return self._caches[sequences]


def cache_bytes(cache: Any) -> int:
    """Bytes of the keys and values that a cache holds."""
    return sum(
        tensor.numel() * tensor.element_size()
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
    )
