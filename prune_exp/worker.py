"""One model in a process of its own that answers requests: what `benchmark` measures.

Started as `python -m prune_exp.worker MODEL_DIR THREADS DEVICE STARTED`, the last a time of the
monotonic clock; one JSON object a line on standard input and output. Times are milliseconds, memory
MiB.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from prune_exp.device import finish
from prune_exp.resident import Peak
from prune_exp.traffic import MIB, footprint_of


class Stamps:
    """A generation streamer that notes when each token arrives, pauses left out.

    Tokens arrive on the processor, so what has come has been computed, whatever the device.

    `pause` is called after every new token but the last of `new_tokens` and returns when the next
    one is wanted.
    """

    def __init__(self, new_tokens: int, pause: Callable[[], None] | None) -> None:
        self.times: list[float] = []
        self.paused_s = 0.0
        self._pauses = range(2, new_tokens + 1) if pause is not None else range(0)
        self._pause = pause

    def put(self, _tokens: Any) -> None:
        """Called with the prompt, then with every new token."""
        arrived = time.perf_counter()
        self.times.append(arrived - self.paused_s)
        if self._pause is not None and len(self.times) in self._pauses:
            self._pause()
            self.paused_s += time.perf_counter() - arrived

    def end(self) -> None:
        """Called once generation is over."""


class Worker:
    """A loaded model, the memory level before it was loaded, and the largest cache so far."""

    def __init__(self, folder: str, threads: int, device: str = "cpu") -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.set_num_threads(threads)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        AutoModelForCausalLM._model_mapping.get(type(config), None)  # imports the architecture
        torch.mm(*torch.randn(2, 256, 256, device=device))
        self.cache_bytes, self.device = 0, device
        self.peak = Peak(device)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, attn_implementation="sdpa"
        )
        self.model = model.to(device).eval()
        finish(device)

    def generate(
        self, ids: list[list[int]], new_tokens: int, pause: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """Greedy tokens for equally long prompts [batch, tokens], and when they came."""
        import torch

        prompt, stamps = torch.tensor(ids, device=self.device), Stamps(new_tokens, pause)
        finish(self.device)
        start = time.perf_counter()
        with torch.inference_mode():
            output = self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
                streamer=stamps,
                return_dict_in_generate=True,
            )
        finish(self.device)
        total = time.perf_counter() - start - stamps.paused_s
        self.cache_bytes = max(self.cache_bytes, cache_bytes(output.past_key_values))
        return {
            "total_ms": 1000 * total,
            "ttft_ms": 1000 * (stamps.times[1] - start),
            "tpot_ms": 1000 * (stamps.times[-1] - stamps.times[1]) / (new_tokens - 1),
            "ids": output.sequences[:, prompt.shape[1] :].tolist(),
        }

    def memory(self) -> dict[str, Any]:
        """Peak above the level before the load, the largest cache, and what the model reads."""
        return {
            "peak_memory_mib": self.peak.mib(),
            "kv_cache_mib": self.cache_bytes / MIB,
            "footprint": asdict(footprint_of(self.model)),
        }


def cache_bytes(cache: Any) -> int:
    """Bytes of the keys and values that a cache holds when a request has ended."""
    return sum(
        tensor.numel() * tensor.element_size()
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
    )


def main() -> None:
    """Answers requests until standard input ends. Only answers reach standard output."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    _send(answers, {"startup_s": time.monotonic() - float(sys.argv[4])})
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "generate":
            pause = _pause_on(answers) if request.get("by_token") else None
            _send(answers, worker.generate(request["ids"], request["new_tokens"], pause))
        else:
            _send(answers, worker.memory())


def _pause_on(stream: Any) -> Callable[[], None]:
    def pause() -> None:
        _send(stream, {"paused": True})
        if not sys.stdin.readline():
            sys.exit("nobody asked for the next token")

    return pause


def _send(stream: Any, answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
