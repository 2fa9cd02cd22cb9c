"""Every backend says the same tokens."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prune_exp.measurement.backends import BACKENDS
from prune_exp.measurement.backends.protocol import LoadedModel, ServeSpec
from support.cli import command, runs_in
from support.models import make_tiny

PROMPTS = [[7, 8, 9, 10, 11], [200, 3, 77, 5, 21]]


NEW = 8


EAGER = {"backend": "transformers", "dtype": "float32", "cache": "dynamic", "compile": False}


def needs(backend: str) -> None:
    for module in BACKENDS[backend].modules:
        pytest.importorskip(module)


def serve(checkpoint: Path, scratch: Path, **how: Any) -> LoadedModel:
    """A model as a measured process has it."""
    how = EAGER | how
    backend, folder = BACKENDS[how["backend"]], checkpoint
    if backend.export is not None:
        folder = scratch / "export"
        folder.mkdir()
        backend.export(checkpoint, folder, how["dtype"])
    told = ServeSpec(
        folder=str(folder), device="cpu", threads=1, sequences=2, cache_tokens=16, **how
    )
    return backend.start(told)(told)


def greedy_tokens(model: Any, ids: list[list[int]]) -> list[list[int]]:
    """The oracle: the whole text through the model again for every token, no cache."""
    text = torch.tensor(ids)
    for _ in range(NEW):
        text = torch.cat([text, model(text).logits[:, -1:].argmax(-1)], dim=1)
    return text[:, len(ids[0]) :].tolist()


def nothing() -> None:
    pass


def test_a_checkpoint_that_forbids_the_cache_is_served_with_one(tmp_path: Path) -> None:
    """Training with gradient checkpointing leaves `use_cache: false` in config.json."""
    model = make_tiny("llama")
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"use_cache": False}))
    tokens, held = serve(tmp_path, tmp_path).generate(PROMPTS, NEW, nothing)
    assert tokens == greedy_tokens(model, PROMPTS)
    assert held > 0


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_static_cache_says_the_same_tokens(tmp_path: Path, compiled: bool) -> None:
    model = make_tiny("llama")
    model.save_pretrained(tmp_path)
    served = serve(tmp_path, tmp_path, cache="static", compile=compiled)
    for ids in (PROMPTS[:1], PROMPTS, PROMPTS[1:]):  # the cache is emptied and made anew
        tokens, held = served.generate(ids, NEW, nothing)
        assert tokens == greedy_tokens(model, ids)
        assert held == len(ids) * served.footprint.kv_bytes(1)
    assert served.footprint.kv_bytes(1) == 4 * 2 * 16 * 2 * 8 * 4


@pytest.mark.parametrize("model_type", ["gemma3_text", "gpt2", "qwen3"])
def test_a_static_cache_serves_other_families(model_type: str, tmp_path: Path) -> None:
    model = make_tiny(model_type)
    model.save_pretrained(tmp_path)
    served = serve(tmp_path, tmp_path, cache="static")
    for _ in range(2):
        tokens, held = served.generate(PROMPTS, NEW, nothing)
        assert tokens == greedy_tokens(model, PROMPTS)
        assert held == 2 * served.footprint.kv_bytes(1)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_a_checkpoints_own_penalties_do_not_count(cache: str, tmp_path: Path) -> None:
    """Repetition is measured, so nothing may suppress it, and backends answer alike."""
    model = make_tiny("llama")
    model.save_pretrained(tmp_path)
    own = tmp_path / "generation_config.json"
    prefers = {"repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "eos_token_id": 2}
    own.write_text(json.dumps(prefers), encoding="utf-8")
    served = serve(tmp_path, tmp_path, cache=cache)
    assert served.generate(PROMPTS, NEW, nothing)[0] == greedy_tokens(model, PROMPTS)


def test_a_static_cache_is_found_again_by_requests_of_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    made: list[Any] = []

    class Counted(transformers.StaticCache):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            made.append(self)

    model = make_tiny("llama")
    model.save_pretrained(tmp_path)
    served = serve(tmp_path, tmp_path, cache="static")
    monkeypatch.setattr(transformers, "StaticCache", Counted)
    for ids in (PROMPTS, PROMPTS[:1], PROMPTS, PROMPTS[:1]):
        assert served.generate(ids, NEW, nothing)[0] == greedy_tokens(model, ids)
    assert len(made) == 2


def test_bfloat16_is_half_as_large(tmp_path: Path) -> None:
    make_tiny("llama").save_pretrained(tmp_path)
    whole = serve(tmp_path, tmp_path)
    half = serve(tmp_path, tmp_path, dtype="bfloat16")
    assert half.footprint.weight_bytes * 2 == whole.footprint.weight_bytes
    assert half.footprint.decode_bytes(1, 5, 3) * 2 == whole.footprint.decode_bytes(1, 5, 3)
    held = [served.generate(PROMPTS, NEW, nothing)[1] for served in (whole, half)]
    assert held[0] == 2 * held[1] == 2 * whole.footprint.kv_bytes(5 + NEW - 1)


@pytest.mark.parametrize(
    ("backend", "cache"),
    [
        ("transformers", "dynamic"),
        ("transformers", "static"),
        *((name, "dynamic") for name in ("openvino", "llama_cpp")),
    ],
)
def test_bfloat16_says_what_is_nearly_likeliest(backend: str, cache: str, tmp_path: Path) -> None:
    """bf16 keeps 8 bits: the float32 logit of what it says is near the largest one."""
    needs(backend)
    model = make_tiny("llama")
    model.save_pretrained(tmp_path)
    served = serve(tmp_path, tmp_path, backend=backend, cache=cache, dtype="bfloat16")
    tokens, _ = served.generate(PROMPTS, NEW, nothing)
    text = torch.tensor([[*ids, *new] for ids, new in zip(PROMPTS, tokens, strict=True)])
    logits = model(text[:, :-1]).logits[:, -NEW:]
    said = logits.gather(-1, torch.tensor(tokens)[..., None])[..., 0]
    assert ((logits.amax(-1) - said) < 0.1 * logits.std(-1)).all()
    assert served.footprint.element_bytes == 2


EXPORTS = [name for name, one in BACKENDS.items() if one.export]


@pytest.mark.parametrize(
    ("backend", "model_type"),
    [
        pytest.param(name, kind, marks=[pytest.mark.slow] if kind != "llama" else [])
        for name in EXPORTS
        for kind in BACKENDS[name].families
    ],
)
def test_a_backend_says_the_same_tokens(backend: str, model_type: str, tmp_path: Path) -> None:
    needs(backend)
    model = make_tiny(model_type)
    model.save_pretrained(tmp_path)
    served, arrivals = serve(tmp_path, tmp_path, backend=backend), [0]

    def arrived() -> None:
        arrivals[0] += 1

    for ids in (PROMPTS, PROMPTS[:1]):
        tokens, held = served.generate(ids, NEW, arrived)
        assert tokens == greedy_tokens(model, ids)
        if served.footprint.cache_tokens:
            assert held == 2 * served.footprint.kv_bytes(0)
        else:
            assert held == len(ids) * served.footprint.kv_bytes(5 + NEW - 1)
    assert arrivals == [2 * NEW]


def test_a_token_has_arrived_once_it_is_on_the_processor(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(tiny_folder, tiny_folder, cache="static")
    fetch, events = torch.Tensor.cpu, []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda one: events.append("fetched") or fetch(one))
    served.generate(PROMPTS, 3, lambda: events.append("arrived"))
    assert events == ["fetched", "arrived"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("backend", EXPORTS)
def test_a_trial_end_to_end(backend: str, tiny_args: list[str], tmp_path: Path) -> None:
    needs(backend)
    done = command(*tiny_args, f"benchmark.backend={backend}", "benchmark.prompts=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = runs_in(tmp_path)
    assert run.data.params["benchmark.backend"] == backend
    assert run.data.metrics["speedup"] > 0
    assert run.data.metrics["saved/weights_mib"] > 0
    served = [path.name for path in tmp_path.glob(f"cache/served/*/{backend}-*")]
    assert len([name for name in served if not name.endswith(".lock")]) == 1


@pytest.mark.slow
def test_a_compiled_trial_end_to_end(tiny_args: list[str], tmp_path: Path) -> None:
    how = ["benchmark.runtime.cache=static", "benchmark.runtime.compile=true"]
    done = command(*tiny_args, *how, "benchmark.prompts=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = runs_in(tmp_path)
    assert run.data.params["benchmark.runtime.compile"] == "True"
    metrics = run.data.metrics
    assert metrics["dense/kv_cache_mib"] == metrics["dense/kv_cache_measured_mib"]
