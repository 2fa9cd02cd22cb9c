"""How each runtime opens what is shipped, with nothing of this package in between.

Graphs are decoded by their own tokenizer, greedily, over the keys and values that they give back.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from prune_exp.shipping.graph import CACHES_FROM, ONNX_FILE, OPENVINO_FILE


@dataclass(frozen=True, kw_only=True)
class Said:
    """A continuation."""

    text: str
    decoded: int
    """Tokens after the first new one, which belongs to the prompt's time."""
    decode_s: float
    """What these took."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An opened model."""

    encode: Callable[[str], list[int]]
    """By its own tokenizer, with what that puts before a text."""
    score: Callable[[list[int], list[int]], Any]
    """Ids and places to log-probabilities [places, vocab] of what follows each place."""
    complete: Callable[[str, int], Said]


Open = Callable[[str, int, int], Opened]
"""A path, a number of threads, and the most tokens of a text."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One way to run a shipped file."""

    start: Callable[[], Open]
    """Imports the runtime."""
    package: str
    """The distribution whose version is recorded."""


def log_softmax(logits: Any) -> Any:
    """Log-probabilities of logits [.., vocab]."""
    import numpy as np

    shifted = np.asarray(logits, dtype=np.float64)
    shifted = shifted - shifted.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def start_transformers() -> Open:
    """Stock transformers, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def open_checkpoint(path: str, threads: int, _context: int) -> Opened:
        torch.set_num_threads(threads)
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        ).eval()
        tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)

        def step(ids: Any, past: Any) -> tuple[Any, Any]:
            with torch.inference_mode():
                out = model(torch.from_numpy(ids), past_key_values=past, use_cache=True)
            return out.logits[0].numpy(), out.past_key_values

        return _opened_by_steps(
            lambda text: tokenizer(text)["input_ids"],
            lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
            step,
            lambda: None,
            Path(path),
        )

    return open_checkpoint


def start_onnxruntime() -> Open:
    """ONNX Runtime on the processor."""
    import onnxruntime

    def open_graph(path: str, threads: int, _context: int) -> Opened:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            str(Path(path) / ONNX_FILE), options, providers=["CPUExecutionProvider"]
        )
        inputs = [one.name for one in session.get_inputs()]

        def run(values: list[Any]) -> list[Any]:
            return list(session.run(None, dict(zip(inputs, values, strict=True))))

        shape = session.get_inputs()[-1].shape
        return _opened_graph(
            Path(path), run, len(inputs) - CACHES_FROM, int(shape[1]), int(shape[3])
        )

    return open_graph


def start_openvino() -> Open:
    """OpenVINO on the processor, computing in float32 as the weights are."""
    import openvino

    def open_graph(path: str, threads: int, _context: int) -> Opened:
        compiled = openvino.Core().compile_model(
            str(Path(path) / OPENVINO_FILE),
            "CPU",
            {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads},
        )

        def run(values: list[Any]) -> list[Any]:
            return [one.copy() for one in compiled(values).to_tuple()]

        shape = compiled.inputs[-1].partial_shape
        sizes = shape[1].get_length(), shape[3].get_length()
        return _opened_graph(Path(path), run, len(compiled.inputs) - CACHES_FROM, *sizes)

    return open_graph


def _opened_graph(
    folder: Path, run: Callable[[list[Any]], list[Any]], caches: int, heads: int, dim: int
) -> Opened:
    """A graph with the tokenizer beside it."""
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def step(ids: Any, past: list[Any]) -> tuple[Any, list[Any]]:
        before = past[0].shape[2]
        attended = np.ones((1, before + ids.shape[1]), dtype=np.int64)
        places = np.arange(before, before + ids.shape[1])[None]
        logits, *longer = run([ids, attended, places, *past])
        return logits[0], longer

    def empty() -> list[Any]:
        return [np.zeros((1, heads, 0, dim), dtype=np.float32) for _ in range(caches)]

    return _opened_by_steps(
        lambda text: list(tokenizer.encode(text).ids),
        lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        step,
        empty,
        folder,
    )


def _opened_by_steps(
    encode: Callable[[str], list[int]],
    decode: Callable[[list[int]], str],
    step: Callable[[Any, Any], tuple[Any, Any]],
    empty: Callable[[], Any],
    folder: Path,
) -> Opened:
    """Greedy decoding by a step from ids [1, new] and a past to logits [new, vocab] and a past."""
    import numpy as np

    ends = list_end_tokens(folder)

    def score(ids: list[int], places: list[int]) -> Any:
        at_once = max(1, len(ids) - ONE_BY_ONE)
        logits, past = step(np.array([ids[:at_once]], dtype=np.int64), empty())
        rows = [logits]
        for token in ids[at_once:]:  # as answers are made: over what was read before
            logits, past = step(np.array([[token]], dtype=np.int64), past)
            rows.append(logits)
        return log_softmax(np.concatenate(rows)[places])

    def complete(prompt: str, new_tokens: int) -> Said:
        logits, past = step(np.array([encode(prompt)], dtype=np.int64), empty())
        found = [int(logits[-1].argmax())]
        start = time.perf_counter()
        while len(found) < new_tokens and found[-1] not in ends:
            logits, past = step(np.array([found[-1:]], dtype=np.int64), past)
            found.append(int(logits[-1].argmax()))
        spent = time.perf_counter() - start
        return Said(text=decode(found), decoded=len(found) - 1, decode_s=spent)

    return Opened(encode=encode, score=score, complete=complete)


def list_end_tokens(folder: Path) -> list[int]:
    """The tokens that end a text, by a checkpoint's generation config; by its config if none."""
    path = folder / "generation_config.json"
    path = path if path.is_file() else folder / "config.json"
    ends = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def start_llamacpp() -> Open:
    """Stock llama.cpp by its own server, in this process."""
    xllamacpp: Any = import_module("xllamacpp")  # its types do not name what it has

    def open_gguf(path: str, threads: int, context: int) -> Opened:
        params = xllamacpp.CommonParams()
        params.model.path = path
        params.n_ctx = context
        params.n_parallel = 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.hostnames = ["127.0.0.1"]
        server = xllamacpp.Server(params)
        return Opened(
            encode=lambda text: _tokenize_there(server, text),
            score=lambda ids, places: _score_there(server, ids, places),
            complete=lambda prompt, new_tokens: _complete_there(server, prompt, new_tokens),
        )

    return open_gguf


def _tokenize_there(server: Any, text: str) -> list[int]:
    import urllib.request

    body = json.dumps({"content": text, "add_special": True}).encode()
    asked = urllib.request.Request(
        f"{server.listening_address}/tokenize",
        data=body,
        headers={"Content-Type": "application/json"},
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(asked) as answer:
        return json.loads(answer.read())["tokens"]


def _score_there(server: Any, ids: list[int], places: list[int]) -> Any:
    """Whole distributions, one request a place; what was read before stays in its cache.

    The server gives them with a token that it says. It says none that ends the text or is half a
    character, so it is made to say a letter; the distributions are those before that.
    """
    import numpy as np

    letter = _tokenize_there(server, "a")[-1]
    rows = []
    for place in places:
        answer = server.handle_completions(
            {
                "prompt": ids[: place + 1],
                "n_predict": 1,
                "temperature": 0,
                "logit_bias": [[letter, CERTAIN]],
                "n_probs": EVERY_TOKEN,
                "cache_prompt": True,
            }
        )
        found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        row = np.full(len(found), NEVER)
        for one in found:
            row[one["id"]] = one["logprob"]
        rows.append(row)
    return log_softmax(np.stack(rows))  # the server's sum of a large vocabulary is a little off


def _complete_there(server: Any, prompt: str, new_tokens: int) -> Said:
    answer = server.handle_completions(
        {"prompt": prompt, "n_predict": new_tokens, "temperature": 0, "cache_prompt": False}
    )
    times = answer["timings"]
    return Said(
        text=answer["choices"][0]["text"],
        decoded=times["predicted_n"] - 1,
        decode_s=times["predicted_ms"] / 1000,
    )


ONE_BY_ONE = 8
"""Tokens at the end of a text that are read one after another."""
EVERY_TOKEN = 1_000_000
"""More than any vocabulary has."""
CERTAIN = 1e6
"""Added to the logit of what is to be said."""
NEVER = -100.0
"""Log-probability of what the server leaves out."""
RUNTIMES = {
    "transformers": Runtime(start=start_transformers, package="transformers"),
    "onnxruntime": Runtime(start=start_onnxruntime, package="onnxruntime"),
    "openvino": Runtime(start=start_openvino, package="openvino"),
    "llama.cpp": Runtime(start=start_llamacpp, package="xllamacpp"),
}
