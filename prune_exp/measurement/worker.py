"""One model in a process of its own that answers requests: what `benchmark` measures.

Started as `python -m prune_exp.measurement.worker SERVING STARTED`, the first a line of JSON
(`backends.protocol`), the second a time of the monotonic clock; one JSON object a line on standard
input and output. Times are milliseconds, memory MiB.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from prune_exp.machine.device import wait_for_device
from prune_exp.machine.memory import PeakMemory
from prune_exp.measurement.backends import BACKENDS
from prune_exp.measurement.backends.protocol import ServeSpec, from_line
from prune_exp.measurement.footprint import MIB


class Stamps:
    """Notes when each token arrives, pauses left out.

    Tokens arrive on the processor, so what has come has been computed, whatever the device.

    `pause` is called after every new token but the last of `new_tokens` and returns when the next
    one is wanted.
    """

    def __init__(self, new_tokens: int, pause: Callable[[], None] | None) -> None:
        self.times: list[float] = []
        self.paused_s = 0.0
        self._pauses = range(1, new_tokens) if pause is not None else range(0)
        self._pause = pause

    def arrived(self) -> None:
        """Called with every new token."""
        now = time.perf_counter()
        self.times.append(now - self.paused_s)
        if self._pause is not None and len(self.times) in self._pauses:
            self._pause()
            self.paused_s += time.perf_counter() - now


class Worker:
    """A loaded model, the memory level before it was loaded, and the largest cache so far."""

    def __init__(self, serving: ServeSpec) -> None:
        load = BACKENDS[serving.backend].start(serving)
        self.cache_bytes = 0
        self.device = serving.device
        self.peak = PeakMemory(serving.device)
        self.served = load(serving)
        wait_for_device(serving.device)

    def generate(
        self, ids: list[list[int]], new_tokens: int, pause: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """Greedy tokens for equally long prompts [batch, tokens], and when they came."""
        stamps = Stamps(new_tokens, pause)
        wait_for_device(self.device)
        start = time.perf_counter()
        tokens, cache_bytes = self.served.generate(ids, new_tokens, stamps.arrived)
        wait_for_device(self.device)
        total = time.perf_counter() - start - stamps.paused_s
        self.cache_bytes = max(self.cache_bytes, cache_bytes)
        return {
            "total_ms": 1000 * total,
            "ttft_ms": 1000 * (stamps.times[0] - start),
            "tpot_ms": 1000 * (stamps.times[-1] - stamps.times[0]) / (new_tokens - 1),
            "ids": tokens,
        }

    def memory(self) -> dict[str, Any]:
        """Peak above the level before the load, the largest cache, and what the model reads."""
        return {
            "peak_memory_mib": self.peak.measure_mib(),
            "kv_cache_mib": self.cache_bytes / MIB,
            "footprint": asdict(self.served.footprint),
        }


def main() -> None:
    """Answers requests until standard input ends. Only answers reach standard output."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker(from_line(sys.argv[1]))
    _send_answer(answers, {"startup_s": time.monotonic() - float(sys.argv[2])})
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "generate":
            pause = _pause_on(answers) if request.get("by_token") else None
            _send_answer(answers, worker.generate(request["ids"], request["new_tokens"], pause))
        else:
            _send_answer(answers, worker.memory())


def _pause_on(stream: Any) -> Callable[[], None]:
    def pause() -> None:
        _send_answer(stream, {"paused": True})
        if not sys.stdin.readline():
            sys.exit("nobody asked for the next token")

    return pause


def _send_answer(stream: Any, answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
