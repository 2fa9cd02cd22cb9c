"""Requests are met, or refused with a reason."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_exp.model.shape import Heads, ModelShape
from prune_exp.pruning.allocation import (
    COSTS,
    QUANTIZED,
    TOLERANCE,
    allocate_budget,
    describe_fixed_heads,
    describe_odd_width,
)
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
    pruning = PruningSettings(units=["mlp"], depth_share=0, heads_share=0, width_multiple=1)
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


WIDE = replace(
    SMOLLM2,
    layers=16,
    width=8192,
    params_channel=6144,
    params_layer=60_821_504,
    params_total=1_235_814_400,
)
"""As Llama 3.2 1B."""


@given(
    st.sampled_from([SMOLLM2, WIDE]),
    st.floats(0.05, 0.75),
    st.floats(0, 1),
    st.floats(0, 0.5),
)
def test_widths_can_be_quantized_where_the_request_allows_it(
    shape: ModelShape, sparsity: float, depth: float, vocab: float
) -> None:
    free = PruningSettings(depth_share=depth, vocab_share=vocab)
    chosen = allocate_budget(shape, sparsity, free)
    width = shape.width - chosen.channels
    assert abs(chosen.params_removed / shape.params_total - sparsity) <= TOLERANCE
    any_width = allocate_budget(shape, sparsity, replace(free, width_multiple=1))
    if width % QUANTIZED:
        assert chosen == any_width, "as near to the request as can be"
        assert describe_odd_width(shape, width, sparsity, free)
    else:
        assert not describe_odd_width(shape, width, sparsity, free)
        assert chosen.tokens >= any_width.tokens - COSTS * any_width.params_removed
    if shape is WIDE:
        assert not width % QUANTIZED, "a step is less than 0.3 % of all parameters"


@given(st.floats(0.1, 0.6), st.sampled_from([1, 7, 32, 48]))
def test_a_multiple_that_is_asked_for_is_kept(sparsity: float, multiple: int) -> None:
    wanted = PruningSettings(width_multiple=multiple)
    chosen = allocate_budget(WIDE, sparsity, wanted)
    width = WIDE.width - chosen.channels
    assert chosen.channels == 0 or width % multiple == 0
    assert not describe_odd_width(WIDE, width, sparsity, wanted), "nothing to say of what was asked"


@given(st.floats(0.08, 0.35), st.floats(0.15, 0.85))
def test_tokens_yield_so_that_widths_can_be_quantized(sparsity: float, share: float) -> None:
    """32 channels of each layer are 1.2 % of this model: no width alone meets every request."""
    pruning = PruningSettings(vocab_share=share, depth_share=0.0, units=["mlp", "vocab"])
    chosen = allocate_budget(SMOLLM2, sparsity, pruning)
    assert abs(chosen.params_removed / SMOLLM2.params_total - sparsity) <= TOLERANCE
    more = (SMOLLM2.width - chosen.channels) % QUANTIZED
    moved = more * SMOLLM2.layers * SMOLLM2.params_channel / (sparsity * SMOLLM2.params_total)
    assert not more or moved > COSTS - TOLERANCE / sparsity, "from tokens to channels"
    wanted = share * sparsity * SMOLLM2.params_total / SMOLLM2.params_token
    wanted = min(wanted, SMOLLM2.vocab_removable)
    width = QUANTIZED * SMOLLM2.layers * SMOLLM2.params_channel
    assert wanted - width / SMOLLM2.params_token - 1 <= chosen.tokens <= wanted + 1


def test_tokens_that_yield_by_hand() -> None:
    """271 channels would go beside 29,808 tokens; it is 288 of 1,728 x 30 parameters, and of the
    31,216,932 that are to go 16,287,012 remain for tokens of 576."""
    pruning = PruningSettings(vocab_share=0.55, depth_share=0.0, units=["mlp", "vocab"])
    chosen = allocate_budget(SMOLLM2, 0.232070249674, pruning)
    assert (chosen.channels, chosen.tokens) == (288, 28276)


def test_a_multiple_of_256_is_taken_only_where_it_hardly_costs_anything() -> None:
    mlp_only = PruningSettings(units=["mlp"], depth_share=0)

    def width(removed: float) -> int:
        return SMOLLM2.width - allocate_budget(SMOLLM2, removed, mlp_only).channels

    per_channel = 30 * 1728 / 134_515_008
    assert width(768 * per_channel) == 768
    assert width((768 - 6) * per_channel) == 768, "that is what 32 comes to here"
    assert width((768 + 64) * per_channel) == 704


def test_a_width_that_cannot_be_quantized_is_said_with_what_to_type() -> None:
    small = replace(
        SMOLLM2,
        layers=4,
        width=256,
        params_channel=192,
        params_layer=55_424,
        params_total=240_960,
        vocab_removable=0,
    )
    mlp_only = PruningSettings(units=["mlp"], depth_share=0)
    width = small.width - allocate_budget(small, 0.3, mlp_only).channels
    said = describe_odd_width(small, width, 0.3, mlp_only)
    assert width == 162
    assert said is not None
    assert said.endswith("type pruning.width_multiple=32 sparsity=0.306")
    even = replace(mlp_only, width_multiple=32)
    assert small.width - allocate_budget(small, 0.306, even).channels == 160
    assert describe_odd_width(small, 256, 0.3, mlp_only) is None, "as the dense model has it"


def test_heads_that_cannot_go_are_said_to_stay() -> None:
    wanted = PruningSettings(heads_share=0.5)
    assert describe_fixed_heads(SMOLLM2, wanted) is None
    fixed = replace(SMOLLM2, free_heads=False)
    assert "derives the size of a head" in str(describe_fixed_heads(fixed, wanted))
    assert describe_fixed_heads(fixed, PruningSettings()) is None
    assert describe_fixed_heads(fixed, replace(wanted, units=["mlp"])) is None
    refusing = replace(SMOLLM2, accepted_heads=frozenset())
    assert "takes no smaller number" in str(describe_fixed_heads(refusing, wanted))
    for shape in (fixed, refusing):
        found = allocate_budget(shape, 0.3, wanted)
        assert found.kv_groups == found.queries_per_group == 0
        assert abs(found.params_removed / shape.params_total - 0.3) < 0.005


def test_heads_that_go_by_the_other_unit_are_refused_with_what_to_type() -> None:
    wanted = PruningSettings(heads_share=0.5)
    one_group = replace(SMOLLM2, query_heads=4, kv_heads=1)
    with pytest.raises(SettingError, match=r"use pruning\.head_unit=query"):
        describe_fixed_heads(one_group, wanted)
    assert describe_fixed_heads(one_group, replace(wanted, head_unit="query")) is None
