"""Who decides on channels is elected: by text that no voter read, and the vote wins ties."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prune_exp.pruning.allocation import NOTHING
from prune_exp.pruning.consensus import Ballot, vote_on_channels
from prune_exp.pruning.election import Candidate, Judge, hold_election, list_candidates
from prune_exp.pruning.plan import PruningPlan
from support.cli import command, runs_in
from support.plans import empty_plan

LAYERS, CHANNELS, GONE = 3, 12, 5
BALLOT = Ballot(kind="adaptive", vote_threshold=0.5)


def scores(*voters: str) -> dict[str, torch.Tensor]:
    """Scores [layers, channels] that differ from voter to voter."""
    return {
        name: torch.rand(LAYERS, CHANNELS, generator=torch.Generator().manual_seed(number))
        for number, name in enumerate(voters)
    }


def plan_for(own: dict[str, torch.Tensor]) -> PruningPlan:
    """What the vote takes out of layers 0 and 2; layer 1 is gone."""
    allocated = empty_plan(
        layers=(1,),
        heads={0: (), 2: ()},
        channels={0: (), 2: ()},
        allocation=replace(NOTHING, channels=GONE),
    )
    return vote_on_channels(allocated, own, BALLOT)


def test_everyone_stands_with_as_many_channels_and_each_plan_once() -> None:
    own = scores("a", "b", "c")
    plan = plan_for(own)
    found = list_candidates(plan, own, BALLOT)
    assert [one.name for one in found] == [
        *("the vote", "a alone", "b alone", "c alone", "1 of 3 agree", "3 of 3 agree")
    ]
    for one in found:
        assert {layer: len(gone) for layer, gone in one.plan.channels.items()} == {0: 5, 2: 5}
        assert one.plan.layers == (1,)
    lowest = own["b"][2].argsort()[:GONE].tolist()
    assert found[2].plan.channels[2] == tuple(sorted(lowest))
    same = {"a": own["a"], "b": own["a"]}
    assert [one.name for one in list_candidates(plan_for(same), same, BALLOT)] == ["the vote"]


def candidates(*names: str) -> list[Candidate]:
    plans = [empty_plan(channels={0: (number,)}) for number in range(len(names))]
    return [Candidate(name=name, plan=plan) for name, plan in zip(names, plans, strict=True)]


def judge_of(levels: list[float], noise: list[float], calls: Counter[int]) -> Judge:
    """Losses about each level that move alike from block to block, and each one's own noise."""

    def judge(plan: PruningPlan, blocks: int) -> torch.Tensor:
        number = plan.channels[0][0]
        calls[blocks] += 1
        alike = torch.arange(blocks) % 3
        own = torch.tensor([1.0, -1.0]).repeat(blocks)[:blocks]
        return levels[number] + alike + noise[number] * own

    return judge


def test_the_best_wins_where_its_lead_is_no_chance() -> None:
    found = hold_election(
        candidates("the vote", "a alone", "b alone"),
        judge_of([3.0, 2.9, 3.1], [0.0, 0.1, 0.0], Counter()),
    )
    assert found.channels[0] == (1,)
    assert [(one.name, one.chosen) for one in found.elected] == [
        *(("the vote", False), ("a alone", True), ("b alone", False))
    ]


def test_what_cannot_be_told_from_the_best_loses_to_the_vote() -> None:
    found = hold_election(
        candidates("the vote", "a alone"), judge_of([3.0, 2.99], [0.0, 0.1], Counter())
    )
    assert found.channels[0] == (0,)


@pytest.mark.parametrize("broken", [0, 1])
def test_who_gives_no_number_is_not_elected(broken: int) -> None:
    levels = [3.0, 2.0, 2.5]
    levels[broken] = float("nan")
    found = hold_election(
        candidates("the vote", "a alone", "b alone"), judge_of(levels, [0.0] * 3, Counter())
    )
    assert found.channels[0] == ((1,) if broken == 0 else (2,))
    nobody = judge_of([float("nan")] * 3, [0.0] * 3, Counter())
    assert hold_election(candidates("the vote", "a", "b"), nobody).channels[0] == (0,)


def test_where_there_is_no_more_text_nobody_is_judged_twice() -> None:
    calls: Counter[int] = Counter()
    inner = judge_of([3.0, 2.0], [0.0, 0.0], calls)
    found = hold_election(
        candidates("the vote", "a alone"), lambda plan, blocks: inner(plan, min(blocks, 5))
    )
    assert calls == {4: 2, 5: 2}
    assert found.channels[0] == (1,)


def test_more_blocks_judge_fewer_and_the_vote_is_never_voted_out() -> None:
    calls: Counter[int] = Counter()
    levels = [9.0, *(2.0 + 0.1 * number for number in range(11))]
    names = ["the vote", *(f"{number} alone" for number in range(11))]
    found = hold_election(candidates(*names), judge_of(levels, [0.0] * 12, calls))
    assert calls == {4: 12, 8: 9, 16: 4}
    assert found.channels[0] == (1,)
    assert {one.name: one.blocks for one in found.elected}["the vote"] == 16
    assert PruningPlan.from_json(json.loads(json.dumps(found.to_json()))) == found


@given(st.lists(st.floats(0, 10), min_size=1, max_size=15))
def test_without_noise_nobody_beats_what_is_carried_out(levels: list[float]) -> None:
    names = ["the vote", *(f"{number} alone" for number in range(1, len(levels)))]
    found = hold_election(candidates(*names), judge_of(levels, [0.0] * len(levels), Counter()))
    assert levels[found.channels[0][0]] == pytest.approx(min(levels), abs=1e-5)


def test_a_trial_holds_an_election_and_keeps_its_record(
    tiny_args: list[str], tmp_path: Path
) -> None:
    arguments = [*tiny_args, "benchmark=off", "pruning.elect=true", "data.calibration_blocks=40"]
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = runs_in(tmp_path)
    (file,) = (tmp_path / "mlruns" / "artifacts").rglob(f"{run.info.run_id}/artifacts/plan.json")
    plan = PruningPlan.from_json(json.loads(file.read_text(encoding="utf-8")))
    assert plan.elected[0].name == "the vote"
    assert sum(one.chosen for one in plan.elected) == 1
    assert len(plan.elected) > 3
    assert [one.layer for one in plan.jury] == sorted(plan.channels)
    assert all(one.agreed <= len(plan.channels[one.layer]) for one in plan.jury)
    report = next((tmp_path / "mlruns").rglob("report.md")).read_text(encoding="utf-8")
    assert "| the vote |" in report
    assert "A jury settles these layer by layer" in report


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ("pruning.refit=false", "pruning.refit=true"),
        ("pruning.ballot=fixed", "pruning.ballot=adaptive"),
        ("pruning.method=weight_masks", "pruning.method=structured"),
        ("data.calibration_blocks=16", "data.calibration_blocks=48"),
    ],
)
def test_an_election_needs_a_refit_and_blocks_that_judge(
    more: str, word: str, tiny_args: list[str], tmp_path: Path
) -> None:
    done = command(*tiny_args, "pruning.elect=true", more, cwd=tmp_path)
    assert done.returncode == 1
    assert "pruning.elect=true" in done.stderr
    assert word in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
