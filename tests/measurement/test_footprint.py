"""Bytes and operations of a token, by hand."""

from dataclasses import replace

import pytest

from prune_exp.measurement.footprint import Footprint, footprint_of
from support.models import make_tiny

LAYER = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32
"""Queries and output, keys and values, three matrices of the MLP, two norms."""


MULTIPLIED = 4 * LAYER + 32


TABLE = 300 * 32


KV_OF_TOKEN = 2 * 2 * 8 * 4
"""Bytes of a layer's keys and values of two heads of eight fp32 numbers."""


def test_bytes_of_a_tied_model_count_the_head_and_all_matrices_once() -> None:
    found = footprint_of(make_tiny("llama"))
    assert found.weight_bytes == found.weight_bytes_read == 4 * (MULTIPLIED + TABLE)
    assert (found.weights_multiplied, found.head_params) == (MULTIPLIED, TABLE)


def test_bytes_of_an_untied_model_count_one_row_of_the_embedding() -> None:
    found = footprint_of(make_tiny("llama", tie=False))
    assert found.weight_bytes == 4 * (MULTIPLIED + 2 * TABLE)
    assert found.weight_bytes_read == 4 * (MULTIPLIED + TABLE + 32)
    assert found.weights_multiplied == MULTIPLIED


def test_positions_are_a_table_of_which_one_row_is_read() -> None:
    model = make_tiny("gpt2")
    found = footprint_of(model)
    positions = model.transformer.wpe.weight.numel()
    assert found.weight_bytes - found.weight_bytes_read == 4 * (positions - 32)


def test_keys_and_values_by_hand() -> None:
    found = footprint_of(make_tiny("llama"))
    assert found.kv_bytes(10) == 10 * 4 * KV_OF_TOKEN
    # two steps after the first token: they attend to 6 and 7 tokens
    assert found.kv_bytes_read(5, 3) == 6.5 * 4 * KV_OF_TOKEN
    assert found.decode_bytes(2, 5, 3) == 4 * (MULTIPLIED + TABLE) + 2 * 6.5 * 4 * KV_OF_TOKEN
    step = 2 * (MULTIPLIED + TABLE) + 4 * 4 * 8 * 6.5 * 4
    assert found.decode_flop(3, 5, 3) == 3 * step


def windowed(*windows: int) -> Footprint:
    return Footprint(
        weight_bytes=0,
        weight_bytes_read=0,
        weights_multiplied=0,
        head_params=0,
        query_heads=1,
        kv_heads=1,
        head_dim=1,
        windows=windows,
        element_bytes=1,
    )


@pytest.mark.parametrize("window", [0, 3, 4, 50])
def test_windows_limit_what_is_attended_to(window: int) -> None:
    found, most = windowed(window), window or 10**9
    assert found.prefill_flop(7) == 4 * sum(min(i, most) for i in range(1, 8))
    assert found.kv_bytes_read(7, 3) == 2 * (min(8, most) + min(9, most)) / 2


@pytest.mark.parametrize("window", [0, 3, 40])
def test_a_preallocated_cache_is_held_and_read_whole(window: int) -> None:
    found = replace(windowed(0, window), cache_tokens=20)
    inside = min(window or 20, 20)
    assert found.kv_bytes(7) == 2 * (20 + inside)
    assert found.kv_bytes_read(7, 3) == 2 * (20 + inside)
