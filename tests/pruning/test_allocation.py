"""Requests are met, or refused with a reason."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_exp.model.shape import Heads, ModelShape
from prune_exp.pruning.allocation import TOLERANCE, allocate_budget
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import PruningSettings

SMOLLM2 = ModelShape(
    layers=30,
    hidden=576,
    width=1536,
    query_heads=9,
    kv_heads=3,
    head_dim=64,
    free_heads=True,
    vocab=49152,
    params_total=134_515_008,
    params_layer=3_540_096,
    params_channel=1728,
    params_query_head=73_728,
    params_kv_head=73_728,
    params_embedding_only=0,
    params_token=576,
    vocab_removable=48_900,
)


@given(
    st.floats(0.05, 0.8),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["group", "query"]),
)
def test_every_request_is_met(
    sparsity: float, vocab: float, depth: float, heads: float, unit: str
) -> None:
    pruning = PruningSettings(
        vocab_share=vocab, depth_share=depth, heads_share=heads, head_unit=unit
    )
    chosen = allocate_budget(SMOLLM2, sparsity, pruning)
    assert abs(chosen.params_removed / SMOLLM2.params_total - sparsity) <= TOLERANCE
    assert chosen.layers < SMOLLM2.layers
    assert chosen.channels < SMOLLM2.width
    assert chosen.tokens <= SMOLLM2.vocab_removable


def test_tokens_go_unasked_only_where_nothing_else_is_left() -> None:
    assert allocate_budget(SMOLLM2, 0.78, PruningSettings()).tokens == 0
    chosen = allocate_budget(SMOLLM2, 0.8, PruningSettings())
    assert chosen.tokens > 0


def test_removed_parameters_by_hand() -> None:
    pruning = PruningSettings(units=["mlp"], depth_share=0, heads_share=0)
    chosen = allocate_budget(SMOLLM2, 0.5, pruning)
    assert chosen.channels == round(0.5 * 134_515_008 / (30 * 1728))
    assert chosen.params_removed == 30 * 1728 * chosen.channels


def test_more_than_there_is_names_the_limit() -> None:
    blocks_only = PruningSettings(units=["layers", "heads", "mlp"])
    with pytest.raises(SettingError, match=r"embeddings hold 21.0%.*sparsity=0.78"):
        allocate_budget(SMOLLM2, 0.8, blocks_only)


def test_only_heads_that_the_config_takes_are_left() -> None:
    shape = replace(SMOLLM2, accepted_heads=frozenset({Heads(queries=6, groups=2, dim=64)}))
    wanted = PruningSettings(depth_share=0, heads_share=0.6)
    assert allocate_budget(SMOLLM2, 0.2, wanted).kv_groups == 2
    assert allocate_budget(shape, 0.2, wanted).kv_groups == 1
    none = replace(SMOLLM2, accepted_heads=frozenset())
    for unit in ("group", "query"):
        chosen = allocate_budget(none, 0.2, replace(wanted, heads_share=0.9, head_unit=unit))
        assert chosen.kv_groups == chosen.queries_per_group == 0
