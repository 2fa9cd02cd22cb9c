"""A GPU gives what the processor gives: plans, weights, tokens, trainings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prune_exp.machine.memory import PeakMemory
from prune_exp.machine.stopwatch import Stopwatch
from prune_exp.measurement.backends.transformers import StaticCacheModel
from prune_exp.measurement.worker_client import ModelProcess
from prune_exp.model import loading
from prune_exp.model.next_tokens import MergedTokens, NextTokens, sum_divergence
from prune_exp.model.offload import open_model
from prune_exp.pruning.pruner import Pruned, prune_model
from prune_exp.recovery import checkpoints
from prune_exp.recovery.training import train
from prune_exp.trial.dense import load_dense
from prune_exp.trial.prepare import prepare_trial, pruning_request
from support.lessons import make_lessons, make_settings, make_student
from support.models import make_tiny
from support.serving import eager_serving
from support.settings import settings_for
from support.tokenizers import make_tokenizer

pytestmark = pytest.mark.gpu
VOTERS = ["magnitude", "gradient", "wanda", "fluctuation", "obs", "similarity", "random"]


def prune_on(device: str, folder: Path, text: Path, cache: Path, **pruning: Any) -> Pruned:
    """With so much text that rounding is not magnified: five blocks say too little of a layer.

    And without training, which magnifies it with every step.
    """
    blocks = {"calibration_blocks": 40, "voting_blocks": 3, "gradient_blocks": 2}
    settings = settings_for(folder, text, cache, calibration="documents", **blocks)
    settings.device, settings.sparsity = device, 0.3
    settings.pruning.voters, settings.pruning.refit_dtype = VOTERS, "float32"
    settings.pruning.reconstruct_epochs = 0
    vars(settings.pruning).update(pruning)
    inputs = prepare_trial(settings).dense
    model = loading.load_model(folder, device=device)
    return prune_model(pruning_request(settings), inputs, model, Stopwatch(device))


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.parametrize(
    "pruning",
    [{"rehearse_layers": False}, {}, {"rehearse": [0.0]}, {"elect": True}],
    ids=["vote", "layers", "rehearsal", "election"],
)
def test_plans_and_logits_are_those_of_the_processor(
    kind: str, pruning: dict[str, Any], device: str, text_file: Path, tmp_path: Path
) -> None:
    make_tiny(kind).save_pretrained(tmp_path / "m")
    make_tokenizer().save_pretrained(tmp_path / "m")
    found = {
        where: prune_on(where, tmp_path / "m", text_file, tmp_path / f"{i}", **pruning)
        for i, where in enumerate(("cpu", device))
    }
    ours, theirs = found[device], found["cpu"]
    for part in ("layers", "heads", "channels", "tokens", "allocation"):
        assert getattr(ours.plan, part) == getattr(theirs.plan, part)
    assert {one.device.type for one in ours.model.parameters()} == {device}
    ids = torch.arange(1, 25)[None]
    logits = [one.model(ids.to(one.model.device)).logits.cpu() for one in (ours, theirs)]
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_a_layer_stands_in_for_others_as_well_as_on_the_processor(
    kind: str, device: str, text_file: Path, tmp_path: Path
) -> None:
    make_tiny(kind).save_pretrained(tmp_path / "m")
    make_tokenizer().save_pretrained(tmp_path / "m")
    trained = {"rehearse_layers": False, "reconstruct_epochs": 4}  # rehearsed, no layer may go
    found = [
        prune_on(where, tmp_path / "m", text_file, tmp_path / f"{i}", **trained)
        for i, where in enumerate(("cpu", device))
    ]
    ours, theirs = (one.plan.reconstructed for one in found)
    assert ours, "a layer goes"
    for one, other in zip(ours, theirs, strict=True):
        assert (one.layer, one.removed_after) == (other.layer, other.removed_after)
        assert one.error_left == pytest.approx(other.error_left, rel=0.02)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_layers_on_disk_give_what_loaded_ones_give(
    kind: str, device: str, text_file: Path, tmp_path: Path
) -> None:
    make_tiny(kind).save_pretrained(tmp_path / "m", max_shard_size="30KB")
    make_tokenizer().save_pretrained(tmp_path / "m")
    settings = settings_for(tmp_path / "m", text_file, tmp_path / "c", calibration="documents")
    settings.device, settings.sparsity = device, 0.3
    settings.pruning.voters, settings.pruning.refit_dtype = VOTERS, "float32"
    settings.pruning.rehearse_layers = False
    settings.pruning.reconstruct_epochs = 0  # a GPU may add up in another order every time
    found = {}
    for offload in (False, True):
        settings.model.offload = offload
        inputs = prepare_trial(settings).dense
        model = load_dense(settings, inputs.source, tmp_path / f"{offload}" / "model")
        pruned = prune_model(pruning_request(settings), inputs, model, Stopwatch(device))
        assert pruned.model.device.type == device
        ids = torch.arange(1, 25)[None].to(device)
        with torch.no_grad():
            found[offload] = pruned.plan, pruned.model(ids).logits.cpu()
    assert found[True][0] == found[False][0]
    torch.testing.assert_close(found[True][1], found[False][1], rtol=1e-5, atol=1e-5)


def test_one_layer_at_a_time_is_in_the_devices_memory(device: str, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 2048, "head_dim": 128}
    make_tiny("llama", **sizes, num_hidden_layers=16).save_pretrained(tmp_path / "m")
    ids = torch.arange(1, 25)[None]
    peaks, logits = [], []
    for opened in (True, False):
        peak = PeakMemory(device)
        if opened:
            kept: dict[str, Any] = {"scratch": tmp_path, "convert": lambda _, weight: weight}
            model = open_model(tmp_path / "m", device=device, **kept)
        else:
            model = loading.load_model(tmp_path / "m", device=device)
        with torch.no_grad():
            logits.append(model(ids.to(device)).logits.cpu())
        peaks.append(peak.measure_mib())
        del model
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-5)
    if device == "cuda":
        assert peaks[0] < 0.3 * peaks[1]


def test_removed_tokens_are_counted_where_the_model_is(device: str) -> None:
    merged = MergedTokens(places=torch.tensor([0, 1, 1, 2]), count=3)
    hidden, head = torch.randn(5, 8), torch.randn(4, 8)
    student = torch.randn(3, 8)
    found = []
    for where in ("cpu", device):
        dense = NextTokens(hidden=hidden, head=head.to(where), merged=merged)
        found.append(sum_divergence(dense, NextTokens(hidden=hidden, head=student.to(where))))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_peaks_are_the_devices(device: str) -> None:
    """256 MiB are more than the heap of this process ever keeps of what was freed."""
    watch = Stopwatch(device)
    with watch.phase("large"):
        torch.ones(256, 2**18, device=device)
    with watch.phase("small"):
        torch.ones(1, device=device)
    assert watch.peak_mib["large"] - watch.peak_mib["small"] > 192
    peak = PeakMemory(device)
    torch.ones(256, 2**18, device=device)
    assert peak.measure_mib() > 192


def test_a_training_that_was_cut_goes_on_there(
    device: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lessons, chosen = make_lessons(tiny_folder, tmp_path / "cache"), make_settings()
    teacher = lessons.teacher
    object.__setattr__(teacher, "head", teacher.head.to(device))
    whole = make_student(tiny_folder).to(device)
    expected = train(whole, lessons, chosen, tmp_path / "whole")
    save = checkpoints.save_state

    def cut(folder: Path, facts: dict[str, Any], *rest: Any) -> None:
        save(folder, facts, *rest)
        if facts["step"] == 30:
            raise InterruptedError

    again = make_student(tiny_folder).to(device)
    monkeypatch.setattr(checkpoints, "save_state", cut)
    with pytest.raises(InterruptedError):
        train(again, lessons, chosen, tmp_path / "cut")
    monkeypatch.setattr(checkpoints, "save_state", save)
    again = make_student(tiny_folder).to(device)
    found = train(again, lessons, chosen, tmp_path / "cut")
    assert found.step == expected.step == 60
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert one.device.type == other.device.type == device
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_both_devices_say_the_same(device: str, tiny_folder: Path) -> None:
    said = []
    for where in ("cpu", device):
        with ModelProcess(eager_serving(tiny_folder, where), 120) as process:
            process.receive()
            said.append(process.ask(do="generate", ids=[[5, 6, 7]], new_tokens=4)["ids"])
    assert said[0] == said[1]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_preallocated_cache_says_the_same(compiled: bool, device: str, tiny_folder: Path) -> None:
    said = []
    for where in ("cpu", device):
        model = loading.load_model(tiny_folder, device=where)
        spec = replace(eager_serving(tiny_folder, where), compile=compiled and where == device)
        served = StaticCacheModel(model, spec)
        requests = ([[5, 6, 7], [8, 9, 10]], [[7, 6]], [[1, 2, 3], [8, 9, 10]])
        said.append([served.generate(prompts, 6, lambda: None)[0] for prompts in requests])
    assert said[0] == said[1]
