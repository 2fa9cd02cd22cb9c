"""Text that the dense model writes: seeded, kept, apart from what judges."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prune_exp.model import sources
from prune_exp.settings.errors import SettingError
from prune_exp.text import generation
from prune_exp.text.generated_text import first_tokens
from prune_exp.text.generation import IDS, generate_blocks
from prune_exp.trial.prepare import check_points, prepare_trial
from support.cli import command, runs_in
from support.models import count_loads, make_tiny
from support.settings import settings_for
from support.tokenizers import make_fallback_tokenizer, make_tokenizer


def test_blocks_are_seeded_kept_and_begin_with_ordinary_tokens(
    tiny_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = count_loads(monkeypatch, generation)
    settings = settings_for(tiny_folder, text_file, tmp_path / "a")
    first = prepare_trial(settings).dense.corpus
    assert first.calibration.ids.shape == (5, 24)
    assert len(first.documents) == 5
    assert first.calibration.source == "written by tiny"
    assert not (first.calibration.ids[:, 0] == 0).any(), "a special token"
    again = prepare_trial(settings).dense.corpus
    assert len(loads) == 1, "read back the second time"
    assert again == replace(first, calibration=again.calibration, heldout=again.heldout)
    assert torch.equal(again.calibration.ids, first.calibration.ids)
    elsewhere = prepare_trial(settings_for(tiny_folder, text_file, tmp_path / "b")).dense.corpus
    assert elsewhere.calibration.digest == first.calibration.digest
    other = prepare_trial(replace(settings, seed=1)).dense.corpus
    assert other.calibration.digest != first.calibration.digest
    warm = settings_for(tiny_folder, text_file, tmp_path / "a", generation_temperature=0.2)
    assert prepare_trial(warm).dense.corpus.calibration.digest != first.calibration.digest


def test_what_judges_is_the_files_and_nothing_else_of_it_is_read(
    tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    parts = text_file.read_text(encoding="utf-8").split("\n\n")
    changed = tmp_path / "changed.txt"
    kept = [part if i % 5 == 0 else "Something else entirely." for i, part in enumerate(parts)]
    changed.write_text("\n\n".join(kept), encoding="utf-8")
    from_file = settings_for(tiny_folder, text_file, tmp_path, calibration="documents")
    ours, same, plain = (
        prepare_trial(one).dense.corpus
        for one in (
            settings_for(tiny_folder, text_file, tmp_path),
            settings_for(tiny_folder, changed, tmp_path),
            from_file,
        )
    )
    assert ours.heldout.digest == same.heldout.digest == plain.heldout.digest
    assert ours.calibration.digest == same.calibration.digest != plain.calibration.digest
    assert not set(ours.documents) & set(parts)


def test_a_killed_generation_goes_on_to_the_same_text(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources.ModelSource(folder=tiny_folder, digest="d")
    prompts = torch.randint(1, 257, (7, 2), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(generation, "BATCH", 3)

    def write(cache: Path) -> torch.Tensor:
        return generate_blocks(source, prompts, tokens=9, temperature=1.0, seed=0, cache_dir=cache)

    whole = write(tmp_path / "whole")
    assert whole.shape == (7, 9)
    assert torch.equal(whole[:, :2], prompts)
    sample, calls = generation.sample_blocks, []

    def cut_short(*arguments: Any) -> torch.Tensor:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return sample(*arguments)

    monkeypatch.setattr(generation, "sample_blocks", cut_short)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "cut")
    assert len(list((tmp_path / "cut").rglob(IDS))) == 1
    assert torch.equal(write(tmp_path / "cut"), whole)
    assert len(calls) == 4, "the batch that was done is not written again"


def test_a_text_begins_as_the_tokenizer_has_it() -> None:
    own = make_fallback_tokenizer("gemma")
    assert first_tokens(own, 3, seed=0).tolist() == [[own.bos_token_id]] * 3
    plain = first_tokens(make_tokenizer(), 200, seed=0)
    assert plain.shape == (200, 1)
    assert plain.min() > 0
    assert len(plain.unique()) > 50


def test_nothing_is_written_while_a_sweep_is_checked(
    tiny_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = count_loads(monkeypatch, generation)
    settings = settings_for(tiny_folder, text_file, tmp_path)
    check_points([settings, replace(settings, sparsity=0.3)])
    assert not loads
    settings.recovery.name, settings.recovery.tokens = "distill", 100_000
    settings.recovery.context_tokens = 256
    with pytest.raises(SettingError, match=r"data\.calibration_blocks=\d{3} or more"):
        check_points([settings])


def test_a_trial_on_the_models_own_text(
    tiny_args: list[str], text_file: Path, tmp_path: Path
) -> None:
    own = [one for one in tiny_args if one != "data=file"]
    done = command(
        *("-m", *own, "data=self", "data.package=null", "sparsity=0.2", "benchmark=off"),
        *("recovery=distill", "recovery.minutes=null", "recovery.tokens=128"),
        *(
            "recovery.context_tokens=32",
            "recovery.validation_blocks=1",
            "recovery.evaluate_every=2",
        ),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    _, run = runs_in(tmp_path)
    assert run.data.params["data.calibration"] == "generated"
    texts = {
        tag.value: one.dataset.name
        for one in run.inputs.dataset_inputs
        for tag in one.tags
        if tag.key == "mlflow.data.context"
    }
    assert texts == {
        "calibration": "written by tiny (calibration)",
        "heldout": f"{text_file.name} (heldout)",
        "training": "written by tiny (training)",
        "validation": "written by tiny (validation)",
    }
    report = next((tmp_path / "mlruns").rglob("report.md")).read_text(encoding="utf-8")
    assert "written by the dense model at temperature 1.0, 6 blocks" in report


def test_text_is_sampled_from_the_model_alone_whatever_its_checkpoint_prefers() -> None:
    prompts = torch.randint(1, 257, (3, 4), generator=torch.Generator().manual_seed(0))
    model = make_tiny("llama")
    plain = generation.sample_blocks(model, prompts, 40, 1.0, 0)
    prefers = {"repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "min_p": 0.5, "top_k": 2}
    for name, value in prefers.items():
        setattr(model.generation_config, name, value)
    assert torch.equal(generation.sample_blocks(model, prompts, 40, 1.0, 0), plain)
    assert {name: getattr(model.generation_config, name) for name in prefers} == prefers


def test_generated_text_is_seeded_and_starts_from_its_prompts(
    tiny_folder: Path, tmp_path: Path
) -> None:
    source = sources.ModelSource(folder=tiny_folder, digest="d")
    prompts = torch.randint(1, 257, (3, 4), generator=torch.Generator().manual_seed(0))

    def sample(seed: int, cache: str) -> torch.Tensor:
        return generate_blocks(
            source, prompts, tokens=12, temperature=1.0, seed=seed, cache_dir=tmp_path / cache
        )

    first = sample(0, "a")
    assert first.shape == (3, 12)
    assert torch.equal(first[:, :4], prompts)
    assert torch.equal(first, sample(0, "b"))
    assert not torch.equal(first, sample(1, "a"))
