"""What a trial lacks is said before it starts, and what it starts from is told apart."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prune_exp.model.architectures import shape_of
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import BenchmarkSettings, RecoverySettings
from prune_exp.settings.schema import Settings
from prune_exp.text.corpus import Corpus, TokenBlocks
from prune_exp.trial.prepare import (
    check_lengths,
    check_points,
    check_room,
    check_tokens,
    prepare_trial,
    trial_memory_mib,
)
from support.models import make_tiny
from support.settings import settings_for
from support.tokenizers import make_tokenizer


def test_prompts_that_the_model_has_no_room_for_are_refused() -> None:
    config = make_tiny("llama").config
    check_lengths(BenchmarkSettings(prompt_tokens=[250], new_tokens=6), config)
    with pytest.raises(SettingError, match=r"exceed the model's 256 positions"):
        check_lengths(BenchmarkSettings(prompt_tokens=[250], new_tokens=7), config)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gpt_neox"])
def test_text_that_the_model_has_no_room_for_is_refused(kind: str) -> None:
    config = make_tiny(kind).config
    settings = Settings()
    settings.data.context_tokens = 256
    check_room(settings, config, 256)
    with pytest.raises(SettingError, match="come to 257 tokens, and the model has 256 positions"):
        check_room(settings, config, 257)
    settings.benchmark.enabled = False
    check_room(settings, config, 257)
    settings.recovery = RecoverySettings(name="distill", context_tokens=300)
    with pytest.raises(SettingError, match=r"use recovery\.context_tokens=256 or less"):
        check_room(settings, config, 1)
    settings.data.context_tokens = 512
    with pytest.raises(SettingError, match=r"use data\.context_tokens=256 or less"):
        check_room(settings, config, 1)


def blocks(*ids: int) -> TokenBlocks:
    return TokenBlocks(ids=torch.tensor([ids]), bytes_scored=1, digest="d", source="s")


def test_text_with_a_token_that_the_model_has_no_row_for_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    fine = Corpus(calibration=blocks(3, 256), heldout=blocks(7))
    check_tokens(tokenizer, 257, fine, [[5]])
    for corpus, prompts in (
        (Corpus(calibration=blocks(257), heldout=blocks(7)), [[5]]),
        (Corpus(calibration=blocks(3), heldout=blocks(257)), [[5]]),
        (fine, [[5], [257]]),
    ):
        with pytest.raises(SettingError, match=r"holds \[PAD\], token 257, .* has 257 rows"):
            check_tokens(tokenizer, 257, corpus, prompts)
    unwritten = Corpus(
        calibration=TokenBlocks(
            ids=torch.zeros(0, 8, dtype=torch.long), bytes_scored=0, digest="d", source="s"
        ),
        heldout=blocks(7),
    )
    check_tokens(tokenizer, 257, unwritten, [])


@pytest.mark.parametrize("what", ["dense model", "text", "prompts"])
def test_other_inputs_behind_the_same_paths_are_told_apart(
    what: str, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    model, text, prompts = tmp_path / "model", tmp_path / "text.txt", tmp_path / "prompts.txt"
    shutil.copytree(tiny_folder, model)
    shutil.copy(text_file, text)
    prompts.write_text("one\ntwo\n", encoding="utf-8")
    settings = settings_for(model, text, tmp_path / "cache", calibration="documents")
    settings.benchmark.prompts, settings.benchmark.prompts_path = 2, str(prompts)
    before, _ = check_points([settings])
    assert before == check_points([settings])[0]
    assert "version of torch" in before
    if what == "dense model":
        make_tiny("llama", seed=1).save_pretrained(model)
    else:
        file = text if what == "text" else prompts
        file.write_text("A new beginning. " + file.read_text(encoding="utf-8"), encoding="utf-8")
    after, _ = check_points([settings])
    differ = [key for key in before if before[key] != after[key]]
    assert differ == [f"digest of the {what}"]


def test_a_trial_takes_more_memory_for_a_larger_model() -> None:
    shape = shape_of(make_tiny("llama"))
    small = replace(shape, params_total=134_515_008)
    assert 2500 < trial_memory_mib(small) < 3500, "as was seen with SmolLM2-135M"
    assert trial_memory_mib(replace(shape, params_total=10**9)) > 15_000


def test_who_looks_for_kept_quality_needs_a_verdict(
    tiny_folder: Path, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for(tiny_folder, text_file, tmp_path)
    settings.data.heldout_blocks = 1
    prepare_trial(settings, write=False)
    assert "there will be no verdict on quality: 1 held-out blocks" in capsys.readouterr().err
    settings.search.sampler = "largest_kept"
    with pytest.raises(SettingError, match=r"largest_kept looks for kept quality, but there will"):
        prepare_trial(settings, write=False)
