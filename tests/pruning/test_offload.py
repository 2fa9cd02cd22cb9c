"""A model that is pruned from disk gives the plan and the weights that a loaded one gives."""

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prune_exp.machine.cache import file_sha256
from prune_exp.machine.memory import memory_mib, reset_peak
from prune_exp.machine.stopwatch import Stopwatch
from prune_exp.model import loading, offload
from prune_exp.model.architectures import layers_of
from prune_exp.model.export import export_model, weights_sha256
from prune_exp.model.offload import open_model
from prune_exp.pruning import surgery
from prune_exp.pruning.calibration import ReadingSettings, compute_statistics
from prune_exp.pruning.pruner import Pruned, prune_model, repeat_pruning
from prune_exp.settings.schema import Settings
from prune_exp.trial.dense import load_dense
from prune_exp.trial.prepare import prepare_trial, pruning_request
from support.models import GROUPED, make_tiny
from support.plans import empty_plan
from support.settings import settings_for
from support.tokenizers import make_bpe_tokenizer, make_tokenizer

VOTERS = [
    "magnitude",
    "gradient",
    "wanda",
    "fluctuation",
    "obs",
    "similarity",
    "expected",
    "merges",
]

TOKENIZER = make_bpe_tokenizer()


def settings_of(folder: Path, text: Path, cache: Path, kind: str) -> Settings:
    settings = settings_for(folder, text, cache, calibration="documents", voting_blocks=3)
    settings.sparsity = 0.3
    settings.pruning.voters = VOTERS
    settings.pruning.rehearse_layers = False
    settings.pruning.vocab_share = 0.1
    settings.pruning.heads_share = 0.3 if kind in GROUPED else 0.0
    return settings


def prune(settings: Settings, target: Path) -> Pruned:
    inputs = prepare_trial(settings).dense
    model = load_dense(settings, inputs.source, target)
    pruned = prune_model(pruning_request(settings), inputs, model, Stopwatch())
    export_model(pruned.model, pruned.tokenizer, target, "float32")
    return pruned


@pytest.mark.parametrize("vocab_share", [0.1, 0.0])
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_plan_and_weights_are_those_of_the_loaded_model(
    kind: str, tie: bool, vocab_share: float, text_file: Path, tmp_path: Path
) -> None:
    dense = tmp_path / "m"
    model = make_tiny(kind, tie=tie, vocab=len(TOKENIZER))
    model.save_pretrained(dense, max_shard_size="30KB")
    TOKENIZER.save_pretrained(dense)
    before = {path: file_sha256(path) for path in dense.iterdir()}
    found = {}
    for name in ("loaded", "opened"):
        settings = settings_of(dense, text_file, tmp_path / name / "cache", kind)
        settings.model.offload = name == "opened"
        settings.pruning.vocab_share = vocab_share
        found[name] = prune(settings, tmp_path / name / "model")
    assert found["opened"].plan == found["loaded"].plan
    assert found["opened"].plan.layers
    assert bool(found["opened"].plan.tokens) == bool(vocab_share)
    for file in (tmp_path / "loaded" / "model").iterdir():
        assert (tmp_path / "opened" / "model" / file.name).read_bytes() == file.read_bytes()
    assert {path: file_sha256(path) for path in dense.iterdir()} == before


def test_a_plan_is_carried_out_again_from_disk(
    tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    settings = settings_of(tiny_folder, text_file, tmp_path / "cache", "llama")
    plan = prune(settings, tmp_path / "first").plan
    settings = replace(settings, model=replace(settings.model, offload=True))
    inputs = prepare_trial(settings).dense
    model = load_dense(settings, inputs.source, tmp_path / "second")
    again = repeat_pruning(pruning_request(settings), inputs, model, plan)
    export_model(again.model, again.tokenizer, tmp_path / "second", "float32")
    assert weights_sha256(tmp_path / "second") == weights_sha256(tmp_path / "first")


def calibrate(model: Any, ids: torch.Tensor) -> None:
    reading = ReadingSettings(voting_blocks=2, gradient_blocks=1)
    compute_statistics(model, ids, torch.full((300,), 1 / 300), reading, lambda *_: None)


def halve(model: Any, ids: torch.Tensor, removed: tuple[int, ...]) -> Any:
    layers, width = model.config.num_hidden_layers, model.config.intermediate_size
    left = [index for index in range(layers) if index not in removed]
    plan = empty_plan(
        layers=removed,
        heads=dict.fromkeys(left, ()),
        channels=dict.fromkeys(left, tuple(range(width // 2))),
    )
    return surgery.carry_out_plan(model, plan, ids)


IDS = torch.randint(1, 300, (2, 16), generator=torch.Generator().manual_seed(1))


def open_from(folder: Path, scratch: Path) -> Any:
    scratch.mkdir(exist_ok=True)
    return open_model(folder, device="cpu", scratch=scratch, convert=lambda _, weight: weight)


def test_one_layer_is_held_and_a_removed_one_that_it_makes_up_for(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_from(tiny_folder, tmp_path / "scratch")
    read, held = offload.LayerOnDisk.take, []

    def counted(kept: Any, module: Any) -> None:
        read(kept, module)
        weights = [next(layer.module.parameters()) for layer in layers_of(model)]
        held.append(sum(not one.is_meta for one in weights))

    monkeypatch.setattr(offload.LayerOnDisk, "take", counted)
    calibrate(model, IDS)
    assert set(held) == {1}
    held.clear()
    halve(model, IDS, (1, 2))
    assert set(held) == {1, 2}


@pytest.fixture
def freed_at_once() -> Iterator[None]:
    """Has the C library give memory back as soon as it is freed, so that what is held shows."""
    libc, mmap_threshold = ctypes.CDLL(None), -3
    if not hasattr(libc, "mallopt") or not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux and the GNU C library")
    libc.mallopt(mmap_threshold, 2**17)
    libc.malloc_trim(0)
    yield
    libc.mallopt(mmap_threshold, 2**25)


@pytest.mark.slow
@pytest.mark.usefixtures("freed_at_once")
def test_the_dense_model_is_never_held_whole(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 1024, "head_dim": 128}
    for layers, name in ((2, "small"), (24, "large")):
        model = make_tiny("llama", **sizes, num_hidden_layers=layers)
        model.save_pretrained(tmp_path / name, max_shard_size="40MB")
        dense_mib = sum(one.numel() for one in model.parameters()) * 4 / 2**20
    del model
    assert dense_mib > 150, "large beside what any layer needs"
    tokenizer = make_tokenizer()
    used = []
    for number, name in enumerate(("small", "small", "large")):
        level = memory_mib("VmRSS")
        assert reset_peak()
        model = open_from(tmp_path / name, tmp_path / f"{number}-scratch")
        calibrate(model, IDS)
        pruned = halve(model, IDS, (1,))
        used.append(memory_mib("VmHWM") - level)
        export_model(pruned, tokenizer, tmp_path / f"{number}-pruned", "bfloat16")
    assert max(used[1:]) < 0.25 * dense_mib, "what a first call brings into memory stays there"
    again = loading.load_model(tmp_path / "2-pruned")
    assert again.config.intermediate_size == 512
    assert len(layers_of(again)) == 23
