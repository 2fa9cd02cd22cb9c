"""A shipped file in a fresh process that has its runtime, and nothing of torch but for `hf`.

Started as `python -m prune_exp.shipping.probe REQUEST ANSWER`: a JSON file with what is asked, and
where to write the answer (`.json`) and the log-probabilities (`.npy`).
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prune_exp.machine.display import last_words
from prune_exp.machine.memory import PeakMemory
from prune_exp.shipping.runtimes import RUNTIMES


@dataclass(frozen=True, kw_only=True)
class ProbeRequest:
    """What a fresh process is asked."""

    runtime: str
    """A name in `RUNTIMES`."""
    path: str
    """The file or folder."""
    texts: list[list[int]]
    """Texts as token ids."""
    places: list[int]
    """After which tokens of each text the next one is predicted."""
    written: list[str]
    """Texts that the runtime's own tokenizer is to encode."""
    prompts: list[str]
    """Texts to continue."""
    new_tokens: int
    threads: int
    context: int
    """Most tokens of a text and what follows it."""

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class ProbeAnswer:
    """What it said, besides the log-probabilities [texts * places, vocab]."""

    load_s: float
    tokens_per_s: float | None
    """None where not one token came."""
    peak_memory_mib: float
    """Above the level before the load."""
    encoded: list[list[int]]
    completions: list[str]


def answer_request(asked: ProbeRequest) -> tuple[ProbeAnswer, Any]:
    """Opens what is asked about; gives the answer and the log-probabilities."""
    import numpy as np

    open_it = RUNTIMES[asked.runtime].start()
    peak = PeakMemory("cpu")
    start = time.perf_counter()
    opened = open_it(asked.path, asked.threads, asked.context)
    load_s = time.perf_counter() - start
    encoded = [opened.encode(text) for text in asked.written]
    said = [opened.complete(prompt, asked.new_tokens) for prompt in asked.prompts]
    peak_mib = peak.measure_mib()
    spent_s = sum(one.decode_s for one in said)
    scores = np.concatenate([opened.score(ids, asked.places) for ids in asked.texts])
    answer = ProbeAnswer(
        load_s=load_s,
        tokens_per_s=sum(one.decoded for one in said) / spent_s if spent_s else None,
        peak_memory_mib=peak_mib,
        encoded=encoded,
        completions=[one.text for one in said],
    )
    return answer, scores


def main() -> None:
    """Answers one request."""
    import numpy as np

    request, target = map(Path, sys.argv[1:])
    asked = ProbeRequest(**json.loads(request.read_text(encoding="utf-8")))
    try:
        answer, scores = answer_request(asked)
    except Exception as error:  # runtimes have errors of their own, and log after them
        told = {"error": last_words(error) or type(error).__name__}
        target.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")
        sys.exit(1)
    np.save(target.with_suffix(".npy"), scores.astype(np.float32))
    target.with_suffix(".json").write_text(json.dumps(asdict(answer)), encoding="utf-8")


if __name__ == "__main__":
    main()
