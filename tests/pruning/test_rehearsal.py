"""A rehearsal foretells what carrying the plan out would give, and changes nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prune_exp.model.architectures import layers_of, shape_of
from prune_exp.pruning import surgery
from prune_exp.pruning.layer_stream import LayerStream
from prune_exp.pruning.plan import PruningPlan
from prune_exp.pruning.rehearsal import best_rehearsed, closest_run, rehearse_plan
from support.cli import small_trial
from support.models import GROUPED, MODEL_TYPES, make_tiny
from support.plans import empty_plan

IDS = torch.randint(1, 300, (6, 24), generator=torch.Generator().manual_seed(1))


HOW = surgery.REFIT


def streams(model: Any) -> list[torch.Tensor]:
    """The residual stream before each block and after the last [blocks, tokens, hidden]."""
    stream = LayerStream(model, IDS)
    found = [stream.hidden]
    for index, block in enumerate(layers_of(model)):
        found.append(stream.run(block, index, found[-1]))
    return found


def loss(model: Any, ids: torch.Tensor) -> float:
    with torch.no_grad():
        return float(model(ids, labels=ids).loss)


def plan_without(model_type: str, *layers: int) -> PruningPlan:
    left = [i for i in range(4) if i not in layers]
    heads = (0, 1) if model_type in GROUPED else ()
    return empty_plan(
        layers=layers,
        heads=dict.fromkeys(left, heads),
        channels={i: tuple(range(i, i + 20, 2)) for i in left},
    )


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_nothing_removed_is_the_dense_loss(model_type: str) -> None:
    model = make_tiny(model_type)
    found = rehearse_plan(model, empty_plan(), IDS, streams(model).__getitem__, HOW)
    assert found == pytest.approx(loss(model, IDS[3:]), rel=1e-3)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("layers", [(1,), (0, 2), (3,)])
def test_foretells_the_loss_after_the_refit(model_type: str, layers: tuple[int, ...]) -> None:
    plan, model = plan_without(model_type, *layers), make_tiny(model_type)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = rehearse_plan(model, plan, IDS, streams(model).__getitem__, HOW)
    pruned = surgery.carry_out_plan(make_tiny(model_type), plan, IDS[:3])
    assert found == pytest.approx(loss(pruned, IDS[3:]), rel=1e-4)
    assert found != pytest.approx(loss(model, IDS[3:]), rel=1e-4)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_plan_with_the_least_loss_is_chosen_and_all_are_recorded() -> None:
    model = make_tiny("llama")
    with torch.no_grad():
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            model.get_submodule(f"model.layers.2.{name}").weight.zero_()
    others, nothing = dict.fromkeys((0, 2, 3), ()), dict.fromkeys((0, 1, 3), ())
    plans = [
        empty_plan(layers=(1,), heads=others, channels=others),
        empty_plan(layers=(2,), heads=nothing, channels=nothing),
    ]
    states = streams(model).__getitem__
    best = best_rehearsed(model, plans, IDS, states, HOW)
    assert [one.layers for one in best.rehearsed] == [(1,), (2,)]
    losses = [one.loss_nats for one in best.rehearsed]
    assert losses[1] == pytest.approx(loss(model, IDS[3:]), rel=1e-3)
    assert abs(losses[0] - losses[1]) > 0.01
    wanted = plans[losses.index(min(losses))]
    assert replace(best, rehearsed=()) == wanted
    assert replace(best_rehearsed(model, plans[::-1], IDS, states, HOW), rehearsed=()) == wanted
    assert PruningPlan.from_json(best.to_json()) == best


def test_the_run_that_turns_the_stream_least_by_hand() -> None:
    degrees = torch.tensor([0.0, 40.0, 50.0, 55.0, 100.0]).deg2rad()
    states = [torch.stack([x.cos(), x.sin()]).expand(2, 3, 2) for x in degrees]
    assert closest_run(states.__getitem__, 4, 1) == (2,)
    assert closest_run(states.__getitem__, 4, 2) == (1, 2)
    assert closest_run(states.__getitem__, 4, 3) == (0, 1, 2)
    assert closest_run(states.__getitem__, 4, 0) == ()


def test_a_rehearsed_trial_carries_out_one_of_its_plans(
    tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    from peers.ours import settings_from
    from prune_exp.machine.stopwatch import Stopwatch
    from prune_exp.model import loading
    from prune_exp.pruning.pruner import prune_model
    from prune_exp.trial.prepare import prepare_trial, pruning_request

    args = small_trial(tiny_folder, text_file, tmp_path)
    settings = settings_from([*args, "sparsity=0.3", "pruning.rehearse=[0.0,0.9]"])
    inputs, watch = prepare_trial(settings).dense, Stopwatch()
    request = pruning_request(settings)
    pruned = prune_model(request, inputs, loading.load_model(inputs.source.folder), watch)
    tried = pruned.plan.rehearsed
    assert len({len(one.layers) for one in tried}) > 1
    best = min(tried, key=lambda one: one.loss_nats)
    assert (best.layers, best.channels) == (pruned.plan.layers, pruned.plan.allocation.channels)
    assert shape_of(pruned.model).layers == inputs.shape.layers - len(best.layers)
    assert "rehearse" in watch.seconds
