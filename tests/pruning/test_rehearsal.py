"""A rehearsal foretells what carrying the plan out would give, and changes nothing."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from peers.ours import settings_from
from prune_exp.machine.stopwatch import Stopwatch
from prune_exp.model import loading
from prune_exp.model.architectures import layers_of, shape_of
from prune_exp.pruning import surgery
from prune_exp.pruning.inputs import Inputs
from prune_exp.pruning.layer_stream import LayerStream
from prune_exp.pruning.plan import PruningPlan
from prune_exp.pruning.plan_choice import halfway
from prune_exp.pruning.pruner import Pruned, prune_model
from prune_exp.pruning.rehearsal import (
    RehearsalText,
    as_cost,
    closest_run,
    plain_text,
    rehearse_plan,
    rehearse_plans,
    respelled_text,
)
from prune_exp.settings.errors import SettingError
from prune_exp.text.token_bytes import make_reencoder
from prune_exp.text.tokenizer import read_vocabulary, trim_tokenizer
from prune_exp.trial.dense import load_dense
from prune_exp.trial.prepare import prepare_trial, pruning_request
from support.cli import small_trial
from support.models import GROUPED, MODEL_TYPES, make_tiny
from support.plans import empty_plan
from support.tokenizers import WORDS, make_bpe_tokenizer, make_unigram_tokenizer

IDS = torch.randint(1, 300, (6, 24), generator=torch.Generator().manual_seed(1))


HOW = surgery.REFIT


def streams(model: Any) -> list[torch.Tensor]:
    """The residual stream before each block and after the last [blocks, tokens, hidden]."""
    stream = LayerStream(model, IDS)
    found = [stream.hidden]
    for index, block in enumerate(layers_of(model)):
        found.append(stream.run(block, index, found[-1]))
    return found


def text_for(model: Any) -> RehearsalText:
    return plain_text(IDS, streams(model).__getitem__)


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
    found = rehearse_plan(model, empty_plan(), text_for(model), HOW)
    assert float(found.mean()) == pytest.approx(loss(model, IDS[3:]), rel=1e-3)
    assert found.tolist() == pytest.approx([loss(model, one[None]) for one in IDS[3:]], rel=1e-3)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("layers", [(1,), (0, 2), (3,)])
def test_foretells_the_loss_after_the_refit(model_type: str, layers: tuple[int, ...]) -> None:
    plan, model = plan_without(model_type, *layers), make_tiny(model_type)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = float(rehearse_plan(model, plan, text_for(model), HOW).mean())
    pruned = surgery.carry_out_plan(make_tiny(model_type), plan, IDS[:3])
    assert found == pytest.approx(loss(pruned, IDS[3:]), rel=1e-4)
    assert found != pytest.approx(loss(model, IDS[3:]), rel=1e-4)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_all_plans_are_recorded_with_their_losses() -> None:
    model = make_tiny("llama")
    with torch.no_grad():
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            model.get_submodule(f"model.layers.2.{name}").weight.zero_()
    others, nothing = dict.fromkeys((0, 2, 3), ()), dict.fromkeys((0, 1, 3), ())
    plans = [
        empty_plan(layers=(1,), heads=others, channels=others),
        empty_plan(layers=(2,), heads=nothing, channels=nothing),
    ]
    text = text_for(model)
    tried = rehearse_plans(model, plans, lambda _plan: text, HOW)
    assert [one.layers for one in tried] == [(1,), (2,)]
    losses = [one.loss_nats for one in tried]
    assert losses[1] == pytest.approx(loss(model, IDS[3:]), rel=1e-3)
    assert abs(losses[0] - losses[1]) > 0.01
    kept = replace(plans[0], rehearsed=tuple(tried))
    assert PruningPlan.from_json(kept.to_json()) == kept


DENSE = make_bpe_tokenizer()
GONE = tuple(read_vocabulary(DENSE).removable[:25])
OWN, KEPT = trim_tokenizer(DENSE, GONE, len(DENSE))


def respelled(*, room: int | None = None) -> tuple[RehearsalText, torch.Tensor]:
    """Text for the smaller vocabulary, and what the dense model judges by."""
    words = DENSE(" ".join(WORDS * 40), add_special_tokens=False)["input_ids"]
    dense = torch.tensor(words[: 3 * 24]).view(3, 24)
    fit = torch.tensor(OWN(" ".join(WORDS[::-1] * 40), add_special_tokens=False)["input_ids"])
    respell = make_reencoder(DENSE, OWN)
    return respelled_text(fit[:72].view(3, 24), dense, respell, KEPT, room=room), dense


def loss_in_bytes(model: Any, dense: torch.Tensor) -> float:
    """The smaller model's loss on the dense model's blocks, by dense token."""
    total = 0.0
    for block in dense:
        respell = make_reencoder(DENSE, OWN)
        opening = len(respell(block[:1]))
        ids = torch.cat([respell(block[:1]), respell(block[1:])])
        with torch.no_grad():
            chances = model(ids[None]).logits[0].log_softmax(-1)
        wanted = chances[:-1].gather(1, ids[1:, None])[opening - 1 :]
        total -= float(wanted.sum())
    return total / dense[:, 1:].numel()


@pytest.mark.parametrize("layers", [(), (1,), (0, 2)])
def test_a_smaller_vocabulary_is_judged_by_the_same_bytes(layers: tuple[int, ...]) -> None:
    text, dense = respelled()
    plan = replace(plan_without("llama", *layers) if layers else empty_plan(), tokens=GONE)
    found = float(rehearse_plan(make_tiny("llama"), plan, text, HOW).mean())
    pruned = surgery.carry_out_plan(make_tiny("llama"), plan, text.fit if layers else None)
    assert found == pytest.approx(loss_in_bytes(pruned, dense), rel=1e-4)


def test_blocks_that_become_too_long_are_cut() -> None:
    whole, _ = respelled()
    longest = whole.judged.shape[1]
    assert longest > 24
    short, _ = respelled(room=longest - 5)
    assert short.judged.shape[1] <= longest - 5
    assert short.dense_tokens < whole.dense_tokens


def test_the_run_that_turns_the_stream_least_by_hand() -> None:
    degrees = torch.tensor([0.0, 40.0, 50.0, 55.0, 100.0]).deg2rad()
    states = [torch.stack([x.cos(), x.sin()]).expand(2, 3, 2) for x in degrees]
    assert closest_run(states.__getitem__, 4, 1) == (2,)
    assert closest_run(states.__getitem__, 4, 2) == (1, 2)
    assert closest_run(states.__getitem__, 4, 3) == (0, 1, 2)
    assert closest_run(states.__getitem__, 4, 0) == ()


def prune_small(
    folder: Path, text_file: Path, *options: str, tokenizer: Any = DENSE
) -> tuple[Pruned, Stopwatch, Inputs]:
    """Prunes a tiny model with these settings."""
    model = make_tiny("llama", num_hidden_layers=6, vocab=max(300, len(tokenizer)))
    loading.save_model(model, tokenizer, folder / "dense")
    settings = settings_from([*small_trial(folder / "dense", text_file, folder), *options])
    inputs, watch = prepare_trial(settings).dense, Stopwatch()
    model = load_dense(settings, inputs.source, folder / "model")
    return prune_model(pruning_request(settings), inputs, model, watch), watch, inputs


@pytest.mark.parametrize("shares", ["rehearse=[0.0,0.9]", "rehearse_vocab=[0.0,0.5]"])
@pytest.mark.parametrize("layers", [True, False])
def test_a_rehearsed_trial_carries_out_one_of_its_plans(
    shares: str, layers: bool, tmp_path: Path, text_file: Path
) -> None:
    options = ["pruning=vocab", "sparsity=0.3", f"pruning.{shares}"]
    pruned, watch, inputs = prune_small(
        tmp_path, text_file, *options, f"pruning.rehearse_layers={layers}"
    )
    tried = pruned.plan.rehearsed
    varied = len({one.tokens for one in tried}), len({len(one.layers) for one in tried})
    assert varied[0 if "vocab" in shares else 1] > 1
    best = min(tried, key=lambda one: one.loss_nats)
    plan = pruned.plan
    found = (plan.layers, plan.allocation.channels, len(plan.tokens))
    assert found == (best.layers, best.channels, best.tokens)
    assert shape_of(pruned.model).layers == inputs.shape.layers - len(best.layers)
    assert shape_of(pruned.model).vocab == inputs.shape.vocab - best.tokens
    assert "rehearse" in watch.seconds
    assert {name for one in tried for name in one.by} <= {"the vote", "closest run"} or layers


def test_who_chooses_the_layers_is_rehearsed(tmp_path: Path, text_file: Path) -> None:
    voters = "pruning.voters=[magnitude,random,wanda,similarity]"
    options = ["sparsity=0.4", "pruning.depth_share=0.9", "data.calibration_blocks=24", voters]
    pruned, _, _ = prune_small(tmp_path, text_file, *options)
    tried = pruned.plan.rehearsed
    assert sorted(name for one in tried for name in one.by) == [
        "a search",
        "closest run",
        "magnitude alone",
        "random alone",
        "similarity alone",
        "the vote",
        "wanda alone",
    ]
    assert len({one.layers for one in tried}) == len(tried) > 1, "each choice once"
    assert {len(one.layers) for one in tried} == {pruned.plan.allocation.layers}
    best = min(tried, key=lambda one: one.loss_nats)
    assert pruned.plan.layers == best.layers
    assert PruningPlan.from_json(pruned.plan.to_json()) == pruned.plan


def test_two_shares_that_come_to_the_same_layers_are_one_plan(
    tmp_path: Path, text_file: Path
) -> None:
    options = ["sparsity=0.3", "pruning.rehearse=[0.51,0.5]"]
    pruned, _, _ = prune_small(tmp_path, text_file, *options)
    tried = pruned.plan.rehearsed
    assert tried
    assert len({one.layers for one in tried}) == len(tried)
    for one in tried:
        assert len({*one.by}) == len(one.by)


@pytest.mark.parametrize(
    "without",
    [
        ["pruning.refit=false"],
        ["model.offload=true"],
        ["pruning.rehearse_layers=false"],
        ["pruning.depth_share=0"],
        ["pruning.ballot=fixed"],
    ],
)
def test_where_no_choice_can_be_rehearsed_the_vote_decides(
    without: list[str], tmp_path: Path, text_file: Path
) -> None:
    pruned, watch, _ = prune_small(tmp_path, text_file, "sparsity=0.3", *without)
    assert pruned.plan.rehearsed == ()
    assert "rehearse" not in watch.seconds


def test_where_all_choose_alike_nothing_is_rehearsed(tmp_path: Path, text_file: Path) -> None:
    options = ["sparsity=0.4", "pruning.depth_share=0.9", "data.calibration_blocks=24"]
    pruned, _, _ = prune_small(tmp_path, text_file, *options)
    assert pruned.plan.layers
    assert pruned.plan.rehearsed == ()


def test_a_share_that_no_shape_meets_is_left_out(tmp_path: Path, text_file: Path) -> None:
    """In steps of 16 channels 15 % comes about with a tenth of it from tokens, not with others."""
    units = "pruning.units=[layers,mlp,vocab]"
    options = ["pruning=vocab", "sparsity=0.15", units, "pruning.width_multiple=16"]
    shares = ["pruning.vocab_share=0.1", "pruning.rehearse_vocab=[0.0,0.3]"]
    pruned, _, _ = prune_small(tmp_path, text_file, *options, *shares)
    assert pruned.plan.tokens
    assert {one.tokens for one in pruned.plan.rehearsed} <= {len(pruned.plan.tokens)}
    for share in ("0.0", "0.3"):
        own = f"pruning.vocab_share={share}"
        with pytest.raises(SettingError, match="is not within"):
            prune_small(tmp_path / share, text_file, *options, own)


def test_shares_halfway_from_the_best_one_are_asked_too(tmp_path: Path, text_file: Path) -> None:
    options = ["pruning=vocab", "sparsity=0.15", "pruning.vocab_share=0.08"]
    shares = "pruning.rehearse_vocab=[0.0,0.15]"
    tried = prune_small(tmp_path, text_file, *options, shares)[0].plan.rehearsed
    counts = [*dict.fromkeys(one.tokens for one in tried)]
    lost = [min(one.loss_nats for one in tried if one.tokens == count) for count in counts]
    between = halfway(dict(zip((0.08, 0.0, 0.15), lost, strict=False)))
    assert len(between) in (1, 2)
    assert [0.15 * count / counts[2] for count in counts[3:]] == pytest.approx(between, abs=0.02)


@pytest.mark.parametrize(
    ("lost", "shares"),
    [
        ({0.7: 2.0, 0.4: 1.0, 0.0: 3.0, 1.0: 9.0}, [0.2, 0.55]),
        ({0.7: 2.0, 0.4: 3.0, 0.0: 1.0}, [0.2]),
        ({0.7: 1.0, 0.4: 3.0, 1.0: math.nan}, [0.55, 0.85]),
        ({0.7: 1.0}, []),
    ],
)
def test_halfway_is_between_the_best_share_and_its_neighbours(
    lost: dict[float, float], shares: list[float]
) -> None:
    assert halfway(lost) == pytest.approx(shares)


def test_a_vocabulary_that_cannot_be_trimmed_is_left_as_it_is(
    tmp_path: Path, text_file: Path
) -> None:
    tokenizer = make_unigram_tokenizer(text_file.read_text(encoding="utf-8"))
    options = ["pruning=vocab", "sparsity=0.3", "pruning.rehearse_vocab=[0.0,0.5]"]
    pruned, _, inputs = prune_small(tmp_path, text_file, *options, tokenizer=tokenizer)
    assert inputs.shape.vocab_removable == 0
    assert not pruned.plan.tokens


def test_what_is_no_number_is_never_the_best_plan() -> None:
    assert min([math.nan, 3.0, math.inf, 2.0], key=as_cost) == 2.0
