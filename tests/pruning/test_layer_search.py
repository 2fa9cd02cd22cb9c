"""Of the contested layers those go that cost least, one after another, and few are asked twice."""

import math
from typing import Any

import pytest
import torch

from prune_exp.model.architectures import layers_of
from prune_exp.pruning import rehearsal, surgery
from prune_exp.pruning.layer_search import LayerSearch, search_layers
from prune_exp.pruning.layer_stream import LayerStream
from prune_exp.pruning.plan import PruningPlan
from prune_exp.pruning.rehearsal import RehearsalText, as_cost, plain_text, rehearse_plan
from support.models import GROUPED, MODEL_TYPES, make_tiny
from support.plans import empty_plan

LAYERS = 6
IDS = torch.randint(1, 300, (8, 24), generator=torch.Generator().manual_seed(2))
HOW = surgery.REFIT


def text_for(model: Any) -> RehearsalText:
    stream = LayerStream(model, IDS)
    states = [stream.hidden]
    for index, layer in enumerate(layers_of(model)):
        states.append(stream.run(layer, index, states[-1]))
    return plain_text(IDS, states.__getitem__)


def plan_without(layers: tuple[int, ...], *, heads: bool = False) -> PruningPlan:
    left = [i for i in range(LAYERS) if i not in layers]
    return empty_plan(
        layers=layers,
        heads=dict.fromkeys(left, (0, 1) if heads else ()),
        channels={i: tuple(range(i, i + 20, 2)) for i in left},
    )


def search_in(model: Any, left: list[int], *, heads: bool = False) -> LayerSearch:
    def plan_for(layers: tuple[int, ...]) -> PruningPlan:
        return plan_without(layers, heads=heads)

    return LayerSearch(model=model, text=text_for(model), how=HOW, plan_for=plan_for, left=left)


def found_in(model: Any, agreed: set[int], contested: set[int], count: int) -> tuple[int, ...]:
    sets = {"agreed": agreed, "contested": contested}
    return search_layers(model, text_for(model), HOW, plan_without, **sets, count=count)


def loss_of(model: Any, plan: PruningPlan) -> float:
    return float(rehearse_plan(model, plan, text_for(model), HOW).mean())


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_losses_are_those_of_a_rehearsal(model_type: str) -> None:
    model = make_tiny(model_type, num_hidden_layers=LAYERS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    heads = model_type in GROUPED
    search = search_in(model, [0, 1, 2, 4, 5], heads=heads)
    search.take_out((3,))
    assert search.loss == loss_of(model, plan_without((3,), heads=heads))
    for _ in range(3):
        search.remove_cheapest()
        assert search.loss == loss_of(model, plan_without(search.gone, heads=heads))
    assert len(search.gone) == 4
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_cheapest_of_the_contested_goes(model_type: str) -> None:
    model = make_tiny(model_type, num_hidden_layers=LAYERS)
    contested = (0, 1, 3, 5)
    losses = {i: loss_of(model, plan_without(tuple(sorted((2, i))))) for i in contested}
    best = min(losses, key=losses.__getitem__)
    assert max(losses.values()) > min(losses.values())
    assert found_in(model, {2}, {2, *contested}, 2) == tuple(sorted((2, best)))


def test_where_all_is_agreed_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_tiny("llama", num_hidden_layers=LAYERS)
    monkeypatch.setattr(LayerSearch, "try_without", None)
    assert found_in(model, {1, 4}, {0, 1, 4}, 2) == (1, 4)


def test_few_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_tiny("llama", num_hidden_layers=LAYERS)
    asked: list[int] = []
    run = LayerSearch.try_without

    def count(search: LayerSearch, layers: tuple[int, ...]) -> Any:
        asked.append(len(layers))
        return run(search, layers)

    monkeypatch.setattr(LayerSearch, "try_without", count)
    found_in(model, set(), {*range(LAYERS)}, 3)
    assert asked[:7] == [0, 1, 1, 1, 1, 1, 1], "everyone is asked once"
    assert len(asked) < 1 + 6 + 5 + 4


def test_layers_beside_a_gap_are_asked_again() -> None:
    model = make_tiny("llama", num_hidden_layers=LAYERS)
    search = search_in(model, [0, 1, 3, 4, 5])
    search.take_out((2,))
    search.costs = {0: 5.0, 1: 9.0, 3: 9.0, 4: 5.0, 5: 5.0}
    search.remove_cheapest()
    assert search.costs[1] != 9.0
    assert search.costs[3] != 9.0


@pytest.mark.parametrize("gone", [(), (2,), (0, 5), (4, 5)])
def test_a_run_goes_on_right_before_what_is_new(
    gone: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny("llama", num_hidden_layers=LAYERS)
    search = search_in(model, [i for i in range(LAYERS) if i not in gone])
    search.take_out(gone)
    refit: list[int] = []
    before = rehearsal.refit_layer

    def note(run: Any, layer: Any, index: int, following: int) -> None:
        refit.append(index)
        before(run, layer, index, following)

    monkeypatch.setattr(rehearsal, "refit_layer", note)
    for one in search.left:
        refit.clear()
        search.try_without((*gone, one))
        kept = [i for i in range(LAYERS) if i not in (*gone, one)]
        start = max((i for i in kept if i < one), default=0)
        assert refit == [i for i in kept if i >= start]


@pytest.mark.parametrize("rise", [math.nan, math.inf])
def test_what_is_no_number_costs_most(rise: float) -> None:
    assert as_cost(rise) == math.inf
    assert as_cost(-0.5) == -0.5


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_where_only_layers_go_losses_are_those_of_a_rehearsal_too(model_type: str) -> None:
    """Without any of them nothing is refit, so nothing is known to go on from."""

    def plan_for(layers: tuple[int, ...]) -> PruningPlan:
        left = dict.fromkeys((i for i in range(LAYERS) if i not in layers), ())
        return empty_plan(layers=layers, heads=left, channels=left)

    model = make_tiny(model_type, num_hidden_layers=LAYERS)
    text = text_for(model)
    left = [1, 2, 4, 5]
    search = LayerSearch(model=model, text=text, how=HOW, plan_for=plan_for, left=left)
    search.take_out(())
    for one in left:
        assert search.try_without((one,))[0] == loss_of(model, plan_for((one,)))
    for _ in range(2):
        search.remove_cheapest()
        assert search.loss == loss_of(model, plan_for(search.gone))
