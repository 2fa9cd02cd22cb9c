"""What a trial lacks is said before it starts."""

import pytest

from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import BenchmarkSettings
from prune_exp.trial.prepare import check_lengths
from support.models import make_tiny


def test_prompts_that_the_model_has_no_room_for_are_refused() -> None:
    config = make_tiny("llama").config
    check_lengths(BenchmarkSettings(prompt_tokens=[250], new_tokens=6), config)
    with pytest.raises(SettingError, match=r"exceed the model's 256 positions"):
        check_lengths(BenchmarkSettings(prompt_tokens=[250], new_tokens=7), config)
