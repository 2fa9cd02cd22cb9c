"""What a trial lacks is said before it starts."""

import pytest
import torch

from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import BenchmarkSettings
from prune_exp.text.corpus import Corpus, TokenBlocks
from prune_exp.trial.prepare import check_lengths, check_tokens
from support.models import make_tiny
from support.tokenizers import make_tokenizer


def test_prompts_that_the_model_has_no_room_for_are_refused() -> None:
    config = make_tiny("llama").config
    check_lengths(BenchmarkSettings(prompt_tokens=[250], new_tokens=6), config)
    with pytest.raises(SettingError, match=r"exceed the model's 256 positions"):
        check_lengths(BenchmarkSettings(prompt_tokens=[250], new_tokens=7), config)


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
