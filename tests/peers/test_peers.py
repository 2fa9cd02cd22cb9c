"""Each peer removes what its paper says, and the comparison says what its rows say."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from peers import compare, elections, flap, optipfair_peers, ours, own, peer, torch_pruning_peers
from peers.methods import OURS, PEERS
from peers.rows import Missing, Row, kept_row
from peers.table import rise, table, verdicts
from peers.task import Method, Task
from prune_exp.measurement.records import Interval
from prune_exp.model import loading
from prune_exp.trial.prepare import prepare_trial


@pytest.fixture
def task(tiny_args: list[str]) -> Task:
    """A tiny Llama that is to lose 30 % of its parameters: 2 of 4 layers, or 32 of 48 channels."""
    settings = ours.settings_from([*tiny_args, "sparsity=0.3"])
    return Task(settings=settings, inputs=prepare_trial(settings).dense)


def activations(task: Task) -> list[torch.Tensor]:
    """What each layer's down projection reads of the calibration text [tokens, width]."""
    model, seen = task.model(), []
    for layer in model.model.layers:
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    for block in task.ids:
        model(block[None])
    return [torch.cat(seen[i :: task.shape.layers]) for i in range(task.shape.layers)]


def kept_channels(task: Task, pruned: Any) -> list[list[int]]:
    """Which dense channels a pruned model's rows of gate, up and down are, alike in all three."""
    found = []
    for dense, small in zip(task.model().model.layers, pruned.model.layers, strict=True):
        pairs = [(dense.mlp.gate_proj.weight, small.mlp.gate_proj.weight)]
        pairs.append((dense.mlp.up_proj.weight, small.mlp.up_proj.weight))
        pairs.append((dense.mlp.down_proj.weight.T, small.mlp.down_proj.weight.T))
        places = [[(whole == row).all(1).nonzero().item() for row in part] for whole, part in pairs]
        assert places[0] == places[1] == places[2]
        found.append(sorted(int(place) for place in places[0]))
    return found


def best_of(scores: torch.Tensor, count: int) -> list[int]:
    return sorted(scores.topk(count).indices.tolist())


def test_sizes_by_hand(task: Task) -> None:
    shape = task.shape
    assert (task.layers, task.width) == (2, 16)
    gone = 4 * 32 * shape.params_channel / shape.params_total
    assert gone == pytest.approx(0.3, abs=0.5 * 4 * shape.params_channel / shape.params_total)
    greedy = Task(settings=replace(task.settings, sparsity=0.9), inputs=task.inputs)
    with pytest.raises(ValueError, match="fewer"):
        _ = greedy.width


@pytest.mark.parametrize("prune", [own.block_influence, optipfair_peers.depth_importance])
def test_block_influence_removes_the_layers_that_turn_the_stream_least(
    task: Task, prune: Any
) -> None:
    model, turned = task.model(), {i: [] for i in range(4)}
    for index, layer in enumerate(model.model.layers):

        def see(_module: Any, args: Any, output: Any, index: int = index) -> None:
            after = output[0] if isinstance(output, tuple) else output
            cosine = (args[0] * after).sum(-1) / args[0].norm(dim=-1) / after.norm(dim=-1)
            turned[index].append(1 - float(cosine.mean()))

        layer.register_forward_hook(see)
    for block in task.ids:
        model(block[None])
    most = sorted(sorted(turned, key=lambda i: sum(turned[i]))[2:])
    pruned = prune(task)
    assert pruned.config.num_hidden_layers == 2
    for index, layer in zip(most, pruned.model.layers, strict=True):
        expected = model.model.layers[index].mlp.up_proj.weight
        assert torch.equal(layer.mlp.up_proj.weight, expected)


def test_optipfair_without_text_removes_the_last_layers(task: Task) -> None:
    pruned, dense = optipfair_peers.depth_last(task), task.model()
    for index in (0, 1):
        expected = dense.model.layers[index].mlp.up_proj.weight
        assert torch.equal(pruned.model.layers[index].mlp.up_proj.weight, expected)
    assert len(pruned.model.layers) == 2


def span(weight: torch.Tensor) -> torch.Tensor:
    """Largest plus size of the smallest weight of each row."""
    return weight.max(1).values + weight.min(1).values.abs()


def test_wanda_and_optipfair_keep_the_channels_with_the_highest_scores(task: Task) -> None:
    seen, layers = activations(task), task.model().model.layers
    energy = [
        (layer.mlp.down_proj.weight.square() * x.square().sum(0)).sum(0)
        for layer, x in zip(layers, seen, strict=True)
    ]
    assert kept_channels(task, own.wanda(task)) == [best_of(one, 16) for one in energy]
    static = [span(one.mlp.gate_proj.weight) + span(one.mlp.up_proj.weight) for one in layers]
    found = kept_channels(task, optipfair_peers.maw_static(task))
    assert found == [best_of(one, 16) for one in static]
    data = kept_channels(task, optipfair_peers.maw_data(task))
    assert data != found
    assert all(len(one) == 16 for one in data)


def test_torch_pruning_keeps_the_channels_with_the_highest_scores(task: Task) -> None:
    dense = task.model().requires_grad_(True)
    for block in task.ids:
        dense(block[None], labels=block[None], use_cache=False).loss.backward()
    by_size, by_effect = [], []
    for layer in dense.model.layers:
        mlp = layer.mlp
        weights = (mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)
        effects = [w.detach() * w.grad for w in weights]
        for values, scores in (([w.detach().square() for w in weights], by_size),):
            scores.append(values[0].sum(1) + values[1].sum(1) + values[2].sum(0))
        effects = [one.abs() for one in effects]
        by_effect.append(effects[0].sum(1) + effects[1].sum(1) + effects[2].sum(0))
    found = kept_channels(task, torch_pruning_peers.magnitude(task))
    assert found == [best_of(one, 16) for one in by_size]
    found = kept_channels(task, torch_pruning_peers.taylor(task))
    assert found == [best_of(one, 16) for one in by_effect]


def test_random_channels_are_as_many_and_as_seeded(task: Task) -> None:
    first, second = (kept_channels(task, own.random(task)) for _ in range(2))
    assert first == second
    other = Task(settings=replace(task.settings, seed=1), inputs=task.inputs)
    assert kept_channels(other, own.random(other)) != first


def test_flap_adds_what_the_removed_channels_gave_on_average(task: Task, tmp_path: Path) -> None:
    seen, dense, pruned = activations(task), task.model(), flap.uniform(task)
    for x, layer, small in zip(seen, dense.model.layers, pruned.model.layers, strict=True):
        weight = layer.mlp.down_proj.weight
        kept = best_of(x.var(0) * weight.square().sum(0), 16)
        gone = [i for i in range(48) if i not in kept]
        expected = (x[:, gone] @ weight[:, gone].T).mean(0)
        assert torch.allclose(small.mlp.down_proj.bias, expected, atol=1e-4)
        assert torch.equal(small.mlp.down_proj.weight, weight[:, kept])
        assert not small.mlp.gate_proj.bias.any()
    loading.save_model(pruned, task.inputs.tokenizer, tmp_path / "flap")
    again = loading.load_model(tmp_path / "flap")
    assert torch.allclose(again(task.ids[:1]).logits, pruned(task.ids[:1]).logits, atol=1e-5)


def test_flap_with_one_threshold_for_all_layers(task: Task) -> None:
    stats = task.calibration().statistics
    groups, channels = flap.masks(task, stats)
    pruned, shape = flap.adaptive(task), task.shape
    group = shape.params_kv_head + shape.queries_per_group * shape.params_query_head
    gone = int((~groups).sum()) * group + int((~channels).sum()) * shape.params_channel
    assert abs(gone - 0.3 * shape.params_total) <= group / 2
    left = sum(p.numel() for name, p in pruned.named_parameters() if "bias" not in name)
    assert left == shape.params_total - gone
    scores = flap.standardized(
        stats.mlp_down_norm_sq * (stats.mlp_activation_mean_sq - stats.mlp_activation_mean.square())
    )
    assert scores[channels].min() >= scores[~channels].max()
    seen = activations(task)
    for index, layer in enumerate(pruned.model.layers):
        mean, weight = seen[index].mean(0), task.model().model.layers[index].mlp.down_proj.weight
        silent = ~channels[index]
        expected = weight[:, silent] @ mean[silent]
        assert torch.allclose(layer.mlp.down_proj.bias, expected, atol=1e-4)
    assert torch.isfinite(pruned(task.ids[:1]).logits).all()


def row(name: str, kind: str, ratio: float, **more: Any) -> Row:
    facts = {
        "name": name,
        "kind": kind,
        "requested": 0.3,
        "achieved": 0.3,
        "dense_perplexity": 20.0,
        "perplexity": 20 * ratio,
        "ratio": Interval(value=ratio, low=ratio, high=ratio),
        "bits_per_byte": 1.5,
        "prune_s": 3.0,
        "speedup": None,
    }
    return Row(**facts | more)


def test_verdicts_by_hand() -> None:
    # rises: peers log 16 and log 9, ours log 3 (half of log 9) and log 4, the best voter log 3.5
    rows = [
        row("far", "peer", 16.0),
        row("near", "peer", 9.0, achieved=0.289),
        row("consensus", "ours", 3.0),
        row("vocab", "ours", 4.0),
        row("voter-a", "voter", 3.5),
        row("voter-b", "voter", 5.0),
        Missing(name="gone", kind="peer", requested=0.3, reason="not installed"),
    ]
    assert rise(rows[1]) == pytest.approx(math.log(9))  # pyright: ignore[reportArgumentType]
    half, more, voter = verdicts(rows)
    assert half.startswith("consensus: a rise of 1.099 is at most half of the best peer's (0.50")
    assert half.endswith("2.197 by near, which removed 28.90 %.")
    assert "vocab: a rise of 1.386 is more than half of the best peer's (0.63 of it)" in more
    assert "consensus: a rise of 1.099 beats the best single voter" in voter
    rows[4] = row("voter-a", "voter", 2.9)
    assert "does not beat" in verdicts(rows)[-1]
    lines = table(rows).splitlines()
    assert [line.split(" | ")[0].strip("| *") for line in lines[2:4]] == ["voter-a", "consensus"]
    assert "-1.1 % off the request" in next(line for line in lines if "near" in line)
    assert lines[-1].endswith("| not installed |")
    assert verdicts([rows[-1]]) == []


def rows_of_an_election(elected: float, best: float, sabotaged: float) -> dict[str, Row]:
    """Ratios whose logarithms are the figures."""
    rises = dict.fromkeys(elections.VOTERS, best + 0.2)
    rises |= {"voter-obs": best, "elected": elected, "elected-sabotaged": sabotaged}
    rises["consensus"] = best + 0.1
    return {name: row(name, "ours", math.exp(found)) for name, found in rises.items()}


def test_an_election_is_judged_by_hand() -> None:
    # against the best voter: -0.02, -0.01, 0.00; sd 0.01, half width 4.3026527 * 0.01 / sqrt(3)
    good = [rows_of_an_election(0.5 + 0.01 * i, 0.52, 0.505 + 0.01 * i) for i in range(3)]
    gaps = [elections.worse_than_best_voter(one) for one in good]
    assert gaps == pytest.approx([-0.02, -0.01, 0.0])
    assert elections.upper_end(gaps) == pytest.approx(-0.01 + 4.3026527 * 0.01 / math.sqrt(3))
    size, pooled, plain, sabotage = elections.judge({0.3: good})
    assert size.endswith("-0.0100 against the best voter, upper end +0.0148: not passed")
    assert pooled.endswith("-0.0100 against the best voter: passed")
    assert plain.endswith("+0.1000")
    assert sabotage == "sabotage costs +0.0050: passed"
    sure = [rows_of_an_election(0.5 + 0.001 * i, 0.52, 0.53) for i in range(3)]
    assert elections.judge({0.3: sure})[0].endswith(": passed")
    assert elections.judge({0.3: sure})[3].endswith(": not passed")
    lost = [rows_of_an_election(0.6, 0.52, 0.6 + 0.001 * i) for i in range(3)]
    assert elections.judge({0.3: lost})[1].endswith(": not passed")


def test_an_election_without_a_row_is_no_result() -> None:
    gone = Missing(name="voter-obs", kind="voter", requested=0.3, reason="it failed")
    with pytest.raises(RuntimeError, match="voter-obs gave no model: it failed"):
        elections.by_name([row("elected", "ours", 2.0), gone])
    assert {*elections.NAMES} <= OURS.keys()


def test_a_row_is_computed_once_and_again_for_its_speed(tmp_path: Path) -> None:
    path, calls = tmp_path / "row.json", []

    def compute(result: Row | Missing) -> Row | Missing:
        calls.append(result)
        return result

    missing = Missing(name="a", kind="peer", requested=0.3, reason="not installed")
    assert kept_row(path, lambda: compute(missing), speed=False) == missing
    plain = row("a", "peer", 2.0)
    assert kept_row(path, lambda: compute(plain), speed=False) == plain
    assert kept_row(path, lambda: compute(missing), speed=False) == plain
    timed = row("a", "peer", 2.0, timed=True, speedup=Interval(value=1.5, low=1.4, high=1.6))
    assert kept_row(path, lambda: compute(timed), speed=True) == timed
    assert kept_row(path, lambda: compute(missing), speed=True) == timed
    assert calls == [missing, plain, timed]


def test_an_interrupted_comparison_goes_on(
    tiny_args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = [*tiny_args, f"tracking.root={tmp_path}"]
    settings, calls = ours.settings_from(base), []

    def counted(task: Task) -> Any:
        calls.append("counted")
        return own.wanda(task)

    def interrupted(_task: Task) -> Any:
        calls.append("interrupted")
        raise KeyboardInterrupt

    monkeypatch.setitem(PEERS, "counted", Method(prune=counted))
    monkeypatch.setitem(PEERS, "next", Method(prune=interrupted))
    names = ["counted", "next", "consensus"]
    with pytest.raises(KeyboardInterrupt):
        compare.compare(settings, base, [0.3], names, speed=False)
    monkeypatch.setitem(PEERS, "next", Method(prune=own.random))
    rows = compare.compare(settings, base, [0.3], names, speed=False)[0.3]
    assert calls == ["counted", "interrupted"]
    assert [one.name for one in rows] == names
    assert all(isinstance(one, Row) and abs(one.achieved - 0.3) < 0.01 for one in rows)
    assert compare.compare(settings, base, [0.3], names, speed=False)[0.3] == rows


def test_a_peer_that_is_not_there_or_fails_is_a_row_with_the_reason(task: Task) -> None:
    how = {"calibration_s": 0.0, "speed": False}
    absent = Method(prune=own.wanda, package="no-such-distribution")
    assert peer.measure("a", absent, task, **how) == Missing(
        name="a",
        kind="peer",
        requested=0.3,
        reason="not installed: pip install no-such-distribution",
    )
    greedy = Task(settings=replace(task.settings, sparsity=0.9), inputs=task.inputs)
    failed = peer.measure("a", PEERS["wanda"], greedy, **how)
    assert isinstance(failed, Missing)
    assert "fewer parameters" in failed.reason


def test_every_row_of_ours_is_a_valid_request(task: Task, tiny_args: list[str]) -> None:
    for name, one in OURS.items():
        settings = ours.row_settings(one, task, [*tiny_args, "data.voting_blocks=2"])
        assert settings.sparsity == pytest.approx(0.3 if not one.whole_layers else 0.381, abs=1e-3)
        if name != "vocab":
            prepare_trial(settings)


def test_a_peer_with_biases_is_timed_like_a_trial(task: Task) -> None:
    found = peer.measure("a", PEERS["flap-uniform"], task, calibration_s=0.0, speed=True)
    assert isinstance(found, Row)
    assert found.timed
    assert found.speedup is not None
    assert found.speedup.low <= found.speedup.value <= found.speedup.high
