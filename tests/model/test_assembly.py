"""Smaller stock models are ones that the stock config takes."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from prune_exp.model import loading
from prune_exp.model.architectures import layers_of
from prune_exp.model.assembly import accepted_heads, keep_tokens
from prune_exp.model.shape import heads_of
from prune_exp.pruning import surgery
from support.models import GROUPED, make_tiny
from support.plans import empty_plan
from support.tokenizers import make_tokenizer


def counts(config: Any) -> list[tuple[int, int]]:
    return sorted((one.queries, one.groups) for one in accepted_heads(config))


def test_heads_must_divide_a_llamas_hidden_size() -> None:
    config = AutoConfig.for_model(
        "llama", hidden_size=64, num_attention_heads=32, num_key_value_heads=8, head_dim=4
    )
    assert counts(config) == [(4, 1), (8, 2), (8, 8), (16, 4), (16, 8)]


def test_longrope_has_a_factor_for_every_pair_of_a_heads_numbers() -> None:
    rope: dict[str, Any] = {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 128,
        "rope_theta": 10000.0,
    }
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
    }
    assert counts(AutoConfig.for_model("phi3", **sizes)) == [(2, 1), (2, 2)]
    own = {"rope_parameters": rope, "original_max_position_embeddings": 128}
    assert counts(AutoConfig.for_model("phi3", **sizes, **own)) == []


@pytest.mark.parametrize("kind", sorted(GROUPED))
def test_what_is_accepted_can_be_written_and_loaded(kind: str, tmp_path: Path) -> None:
    found = counts(make_tiny(kind).config)
    assert found == [(2, 1), (2, 2)]
    for place, gone in enumerate([(2, 3), (1, 3)]):  # a group; a query head of each group
        plan = empty_plan(heads=dict.fromkeys(range(4), gone))
        pruned = surgery.carry_out_plan(make_tiny(kind), plan, None)
        loading.save_model(pruned, make_tokenizer(), tmp_path / str(place))
        again = loading.load_model(tmp_path / str(place))
        heads = heads_of(again.config)
        assert (heads.queries, heads.groups) == found[place]
        assert layers_of(again)[0].heads == heads


def test_every_setting_that_names_tokens_names_them_by_their_new_ids(tmp_path: Path) -> None:
    model = make_tiny("llama")
    generation = model.generation_config
    generation.eos_token_id = [3, 9]
    generation.suppress_tokens = [4, 5]
    generation.begin_suppress_tokens = [9]
    generation.forced_eos_token_id = 9
    generation.forced_bos_token_id = 6
    generation.bad_words_ids = [[4, 5], [4, 9]]
    generation.sequence_bias = [[[5], 2.0], [[9], 1.0]]
    kept = [one for one in range(model.config.vocab_size) if one not in (0, 9)]
    found = keep_tokens(model, kept).generation_config
    assert found.eos_token_id == [2]
    assert found.suppress_tokens == [3, 4]
    assert found.begin_suppress_tokens is None
    assert found.forced_eos_token_id is None
    assert found.forced_bos_token_id == 5
    assert found.bad_words_ids == [[3, 4]]
    assert found.sequence_bias == [[[4], 2.0]]
    found.save_pretrained(tmp_path)
