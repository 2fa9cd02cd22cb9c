"""A shipped file against the checkpoint that it was made of: the same text, the same prompts."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from prune_exp.machine.cache import file_sha256, folder_sha256
from prune_exp.machine.packages import installed_version
from prune_exp.measurement.prompts import list_prompts
from prune_exp.measurement.records import Interval
from prune_exp.measurement.turns import take_turn
from prune_exp.model import loading
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import BenchmarkSettings
from prune_exp.shipping.probe import ProbeAnswer, ProbeRequest
from prune_exp.shipping.runtimes import RUNTIMES
from prune_exp.text.corpus import all_blocks

PROMPTS = 5
CHATS = 2
"""Chats that both tokenizers encode."""
NEW_TOKENS = 24
CONTEXT_TOKENS = 64
"""Of a text that is compared."""
EVERY = 4
"""Between the places of a text whose distributions are compared, in tokens."""
ROOM_TOKENS = 512
"""Of a prompt or a text, and what follows it."""
MOST_DOCUMENTS = 1000
"""That are looked at for some that are long enough."""
SENTENCE = 400
"""Characters of each document that both tokenizers encode."""
TIMEOUT_S = 3600
PLAINLY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
"""The most likely token, always, as runtimes are asked for it, whatever a checkpoint prefers."""


class ShippingError(RuntimeError):
    """A file that its runtime could not open or answer from."""


def list_shipped_prompts() -> list[str]:
    """What every shipped file continues."""
    return list_prompts(BenchmarkSettings())[:PROMPTS]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The checkpoint, the text that files are compared on, and what it makes of it."""

    checkpoint: Path
    documents: tuple[str, ...]
    positions: int

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's own."""
        return loading.load_tokenizer(self.checkpoint)

    @cached_property
    def places(self) -> list[int]:
        """After which tokens of every text the next one is predicted."""
        return list(range(EVERY - 1, CONTEXT_TOKENS - 1, EVERY))

    @cached_property
    def texts(self) -> torch.Tensor:
        """As many texts as give the places that are asked for [texts, tokens], of as many
        documents as there are.

        Raises:
            SettingError: there are too few documents.
        """
        wanted = -(-self.positions // len(self.places))
        found = self._cut_from_each(wanted)
        if len(found) < wanted:  # short documents, which give more together
            found = all_blocks(self.documents, self.tokenizer, CONTEXT_TOKENS)[:wanted]
        if len(found) < wanted:
            raise SettingError(
                f"positions={self.positions} needs {wanted} texts of {CONTEXT_TOKENS} tokens and"
                f" there are {len(found)}; give fewer positions or a longer text=FILE"
            )
        return found

    def _cut_from_each(self, wanted: int) -> torch.Tensor:
        """The beginnings of documents that are long enough, or more of each where they are few."""
        cut: list[torch.Tensor] = []
        for document in self.documents[:MOST_DOCUMENTS]:
            if len(cut) == wanted:
                break
            blocks = all_blocks([document], self.tokenizer, CONTEXT_TOKENS)
            cut += [blocks] if len(blocks) else []
        rows = [(place, at) for at, blocks in enumerate(cut) for place in range(len(blocks))]
        chosen = [cut[at][place] for place, at in sorted(rows)[:wanted]]
        return torch.stack(chosen) if chosen else torch.zeros(0, CONTEXT_TOKENS, dtype=torch.long)

    @cached_property
    def written(self) -> list[str]:
        """The beginnings of some documents, which a runtime's own tokenizer has to encode alike."""
        return [one[:SENTENCE] for one in self.documents[:PROMPTS]]

    @cached_property
    def chats(self) -> list[str]:
        """The same as chats of the checkpoint's template, special tokens and all; none without."""
        if not self.tokenizer.chat_template:
            return []
        return [text for one in self.written[:CHATS] if (text := self._write_chat(one))]

    def _write_chat(self, said: str) -> str:
        turns = [{"role": role, "content": said} for role in ("user", "assistant", "user")]
        try:
            return self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
        except Exception:  # templates refuse what they do not like in words of their own
            return ""

    @cached_property
    def prompts(self) -> list[str]:
        """What is continued."""
        return list_shipped_prompts()

    @cached_property
    def scores(self) -> torch.Tensor:
        """The checkpoint's log-probabilities [texts * places, vocab]."""
        model = loading.load_model(self.checkpoint)
        with torch.no_grad():
            rows = [model(text[None]).logits[0, self.places] for text in self.texts]
        return torch.cat(rows).double().log_softmax(-1)

    @cached_property
    def followers(self) -> torch.Tensor:
        """The tokens that came [texts * places]."""
        return self.texts[:, [place + 1 for place in self.places]].flatten()

    @cached_property
    def encoded(self) -> list[list[int]]:
        """`written` and `chats` as the checkpoint's tokenizer has them."""
        return [self.tokenizer(text)["input_ids"] for text in (*self.written, *self.chats)]

    @cached_property
    def completions(self) -> list[str]:
        """The checkpoint's own greedy continuations."""
        model = loading.load_model(self.checkpoint)
        return [self._complete(model, prompt) for prompt in self.prompts]

    def _complete(self, model: Any, prompt: str) -> str:
        ids = torch.tensor([self.tokenizer(prompt)["input_ids"]])
        with torch.inference_mode(), loading.silence_transformers():
            said = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW_TOKENS,
                use_cache=True,
                pad_token_id=0,
                **PLAINLY,
            )
        return str(self.tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True))


@dataclass(frozen=True, kw_only=True)
class DensePair:
    """What a file gains over the dense model's of the same kind, in the same runtime."""

    text_speedup: Interval
    """How much faster the same text is written: rounds in turns, times the tokens that it needs."""
    memory_ratio: Interval
    """Peak memory over the dense one's."""
    dense_size_mib: float
    dense_tokens_per_s: list[float]
    """By round."""
    tokens_per_s: list[float]

    @property
    def metrics(self) -> dict[str, float]:
        """Its figures with their intervals."""
        found = self.text_speedup.metrics("text_speedup")
        found |= self.memory_ratio.metrics("memory_ratio")
        return found | {"dense_size_mib": self.dense_size_mib}


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """What was found out about one shipped file or folder."""

    target: str
    file: str
    sha256: str
    size_mib: float
    runtime: str
    """With its version."""
    kl_nats: float
    """Mean divergence from the checkpoint."""
    kl_nats_max: float
    kl_limit: float
    perplexity_ratio_to_checkpoint: float
    perplexity_ratio: float | None
    """The same times the trial's own ratio to the dense model; None where that was not measured."""
    positions: int
    load_s: float
    tokens_per_s: float | None
    peak_memory_mib: float
    threads: int
    same_tokens: bool
    """Whether the runtime's tokenizer encodes text as the checkpoint's does."""
    same_chats: bool
    """Whether it does so with chats by the checkpoint's template."""
    same_texts: int
    """How many of the prompts it continues as the checkpoint does."""
    texts: list[dict[str, str]]
    chats_must_be_same: bool = True
    note: str | None = None
    """What else there is to say of the file."""
    beside_dense: DensePair | None = None
    """Beside the dense model's file; None where they were not timed."""

    @property
    def fault(self) -> str | None:
        """Why it is not kept; None where it is."""
        if not self.same_tokens:
            return "its tokenizer does not encode as the checkpoint's does"
        if self.chats_must_be_same and not self.same_chats:
            return (
                "its tokenizer does not encode the chat template as the checkpoint's does;"
                " same_chats=false keeps it all the same"
            )
        if not self.kl_nats <= self.kl_limit:
            return (
                f"it diverges from the checkpoint by {self.kl_nats:.2g} nats a token, and the limit"
                f" is {self.kl_limit:g}"
            )
        return None

    def to_json(self) -> dict[str, Any]:
        """As it lies beside the file."""
        return asdict(self)

    @property
    def metrics(self) -> dict[str, float]:
        """Its figures."""
        wanted = ("size_mib", "kl_nats", "kl_nats_max", "perplexity_ratio_to_checkpoint")
        wanted += ("perplexity_ratio", "load_s", "tokens_per_s", "peak_memory_mib", "same_texts")
        found = {name: getattr(self, name) for name in wanted}
        known = {name: float(value) for name, value in found.items() if value is not None}
        return known | (self.beside_dense.metrics if self.beside_dense else {})


def compare_file(
    target: str, path: Path, runtime: str, reference: Reference, *, threads: int, limit: float
) -> Shipment:
    """Opens a file in a fresh process and compares what that says with the checkpoint.

    Raises:
        ShippingError: the process could not open it.
    """
    with take_turn():  # its times and memory are kept
        answer, theirs = _ask_process(path, runtime, reference, threads)
    ours = reference.scores
    plain = len(reference.written)
    if theirs.shape != ours.shape:
        raise ShippingError(f"it knows {theirs.shape[1]} tokens, the checkpoint {ours.shape[1]}")
    each = (ours.exp() * (ours - theirs)).sum(-1)
    wanted = reference.followers[:, None]
    gap = (ours.gather(1, wanted) - theirs.gather(1, wanted)).mean()
    pairs = list(zip(reference.prompts, reference.completions, answer.completions, strict=True))
    return Shipment(
        target=target,
        file=path.name,
        sha256=folder_sha256(path) if path.is_dir() else file_sha256(path),
        size_mib=size_mib(path),
        runtime=f"{runtime} ({package} {installed_version(package)})"
        if (package := RUNTIMES[runtime].package) != runtime
        else f"{runtime} {installed_version(package)}",
        kl_nats=float(each.mean()),
        kl_nats_max=float(each.max()),
        kl_limit=limit,
        perplexity_ratio_to_checkpoint=float(gap.exp()),
        perplexity_ratio=None,
        positions=len(ours),
        load_s=answer.load_s,
        tokens_per_s=answer.tokens_per_s,
        peak_memory_mib=answer.peak_memory_mib,
        threads=threads,
        same_tokens=answer.encoded[:plain] == reference.encoded[:plain],
        same_chats=answer.encoded[plain:] == reference.encoded[plain:],
        same_texts=sum(ours.strip() == theirs.strip() for _, ours, theirs in pairs),
        texts=[
            {"prompt": prompt, "checkpoint": own, "shipped": said} for prompt, own, said in pairs
        ],
    )


def size_mib(path: Path) -> float:
    """Of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(one.stat().st_size for one in files if one.is_file()) / 2**20


def _ask_process(
    path: Path, runtime: str, reference: Reference, threads: int
) -> tuple[ProbeAnswer, torch.Tensor]:
    """What a fresh process says of a file."""
    asked = ProbeRequest(
        runtime=runtime,
        path=str(path),
        texts=reference.texts.tolist(),
        places=reference.places,
        written=[*reference.written, *reference.chats],
        prompts=reference.prompts,
        new_tokens=NEW_TOKENS,
        threads=threads,
        context=ROOM_TOKENS,
    )
    return run_probe(asked)


def run_probe(asked: ProbeRequest) -> tuple[ProbeAnswer, torch.Tensor]:
    """Asks a fresh process; its answer and the log-probabilities.

    Raises:
        ShippingError: it ended without one.
    """
    with tempfile.TemporaryDirectory(prefix="prune_exp-") as scratch:
        request = Path(scratch) / "request.json"
        asked.write(request)
        return _start_probe(request, Path(scratch) / "answer", asked.threads)


def _start_probe(request: Path, target: Path, threads: int) -> tuple[ProbeAnswer, torch.Tensor]:
    """Starts the process and reads its answer.

    Raises:
        ShippingError: it ended without one.
    """
    import numpy as np

    try:
        done = subprocess.run(
            [sys.executable, "-m", "prune_exp.shipping.probe", str(request), str(target)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ShippingError(f"its runtime gave no answer within {TIMEOUT_S} s") from None
    told = target.with_suffix(".json")
    answer = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ShippingError(
            f"its runtime ended with code {done.returncode}: {answer.get('error', last)}"
        )
    scores = torch.from_numpy(np.load(target.with_suffix(".npy"))).double()
    return ProbeAnswer(**answer), scores
