"""Every voter's scores, worked out by hand."""

from dataclasses import fields, replace

import pytest
import torch

from prune_exp.pruning.statistics import Statistics, TokenStatistics
from prune_exp.pruning.voters import VOTERS, check_voters, score_units
from prune_exp.settings.errors import SettingError


def statistics(**given: torch.Tensor) -> Statistics:
    """One layer of two channels and two query heads of one output each; all ones unless given."""
    shapes = {"mlp": (1, 2), "heads": (1, 2, 1), "layers": (1,), "vocab": (3,), "kv": ()}
    per_head = ("heads_weight_norm", "heads_taylor")
    made = {
        one.name: torch.ones((1, 2) if one.name in per_head else shapes[one.name.split("_")[0]])
        for one in fields(Statistics)
        if one.name != "tokens"
    }
    return Statistics(**made | given)  # pyright: ignore[reportArgumentType]


def about_tokens(expected: list[float], place: list[int], script: list[int]) -> TokenStatistics:
    return TokenStatistics(
        expected=torch.tensor(expected), place=torch.tensor(place), script=torch.tensor(script)
    )


def test_wanda_is_the_energy_of_what_a_unit_writes() -> None:
    known = statistics(
        mlp_down_norm_sq=torch.tensor([[4.0, 9.0]]),
        mlp_activation_mean_sq=torch.tensor([[1.0, 4.0]]),
        layers_input_norm_sq=torch.tensor([10.0]),
    )
    assert VOTERS["wanda"](known, "mlp", 0).tolist() == [[2.0, 6.0]]  # pyright: ignore
    # channels 4 + 36, heads 1 + 1, over an input of 10
    layers = VOTERS["wanda"](known, "layers", 0)
    assert layers is not None
    assert layers.item() == pytest.approx(4.2**0.5)


def test_fluctuation_is_variance_times_weight() -> None:
    known = statistics(
        mlp_down_norm_sq=torch.tensor([[2.0, 3.0]]),
        mlp_activation_mean_sq=torch.tensor([[5.0, 5.0]]),
        mlp_activation_mean=torch.tensor([[2.0, 1.0]]),
    )
    found = VOTERS["fluctuation"](known, "mlp", 0)
    assert found is not None
    assert found.tolist() == [[2.0 * (5 - 4), 3.0 * (5 - 1)]]


def test_obs_is_weight_over_the_inverse_moment() -> None:
    known = statistics(
        mlp_down_norm_sq=torch.tensor([[6.0, 6.0]]),
        mlp_inverse_moment_diag=torch.tensor([[2.0, 3.0]]),
    )
    found = VOTERS["obs"](known, "mlp", 0)
    assert found is not None
    assert found.tolist() == [[3.0, 2.0]]


def test_who_cannot_judge_abstains() -> None:
    known = statistics()
    abstain = {
        kind: sorted(name for name, vote in VOTERS.items() if vote(known, kind, 0) is None)
        for kind in ("mlp", "heads", "layers", "vocab")
    }
    assert abstain == {
        "mlp": ["expected", "merges", "script", "similarity"],
        "heads": ["expected", "merges", "script", "similarity"],
        "layers": ["expected", "fluctuation", "gradient", "merges", "obs", "script"],
        "vocab": ["expected", "fluctuation", "merges", "obs", "script", "similarity"],
    }


def test_expected_is_half_counted_and_half_foreseen() -> None:
    known = replace(
        statistics(vocab_frequency=torch.tensor([0.5, 0.0, 0.0])),
        tokens=about_tokens([0.25, 0.125, 0.0], [0, 1, 2], [0, 0, 0]),
    )
    found = VOTERS["expected"](known, "vocab", 0)
    assert found is not None
    assert found.tolist() == [[0.375, 0.0625, 0.0]]


def test_merges_keeps_what_was_made_first() -> None:
    known = replace(statistics(), tokens=about_tokens([0, 0, 0], [2, 0, 1], [0, 0, 0]))
    found = VOTERS["merges"](known, "vocab", 0)
    assert found is not None
    assert found[0].argsort().tolist() == [0, 2, 1]


def test_script_weighs_a_script_by_its_need_and_its_tokens_by_zipf() -> None:
    """Script 0 is needed 0.9 times, script 1 0.1 times; within one the earlier tokens lead."""
    known = replace(
        statistics(vocab_frequency=torch.tensor([0.8, 0.1, 0.1, 0.0])),
        tokens=about_tokens([0.8, 0.1, 0.1, 0.0], [0, 200, 50, 100], [0, 0, 1, 1]),
    )
    found = VOTERS["script"](known, "vocab", 0)
    assert found is not None
    assert found[0].tolist() == pytest.approx([0.9 / 50, 0.9 / 250, 0.1 / 100, 0.1 / 150])


def test_heads_are_scored_by_group_or_within_it() -> None:
    known = statistics(
        heads_weight_norm=torch.tensor([[1.0, 2.0, 3.0, 4.0]]), kv_heads=torch.tensor(2)
    )
    by_group = score_units(["magnitude"], known, "heads", head_unit="group", seed=0)
    assert by_group["magnitude"].tolist() == [[3.0, 7.0]]
    within = score_units(["magnitude"], known, "heads", head_unit="query", seed=0)
    assert within["magnitude"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_what_is_no_number_counts_as_lowest() -> None:
    known = statistics(mlp_weight_norm=torch.tensor([[float("nan"), 0.0]]))
    found = score_units(["magnitude"], known, "mlp", head_unit="group", seed=0)["magnitude"]
    assert found.argmin().item() == 0


def test_a_kind_that_nobody_can_judge_and_names_that_nobody_has_are_refused() -> None:
    with pytest.raises(SettingError, match="none of them can judge layers; add wanda"):
        score_units(["obs"], statistics(), "layers", head_unit="group", seed=0)
    with pytest.raises(SettingError, match="did you mean wanda"):
        check_voters(["wnda"])


def test_a_voter_without_any_number_is_not_counted_as_a_vote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing = torch.full((2, 4), float("nan"))
    monkeypatch.setitem(VOTERS, "wanda", lambda *_: nothing)
    with pytest.raises(ArithmeticError, match="wanda gave no number for mlp"):
        score_units(["wanda"], statistics(), "mlp", head_unit="group", seed=0)
