"""Plots: drawn from what there is, and nothing but a reason where there is nothing."""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prune_exp.pruning.plan import Settled
from prune_exp.reporting.plots.gallery import PLOTS, draw_plots
from prune_exp.reporting.plots.pareto import (
    Point,
    _place_labels,
    pareto_front,
    points_of,
    short_labels,
)
from prune_exp.reporting.plots.roofline import draw_roofline
from prune_exp.reporting.plots.style import new_figure
from prune_exp.reporting.plots.votes import group_contested, nominations_by_layer
from prune_exp.tracking.metrics import metric_keys
from prune_exp.tracking.read import TrackedTrial
from support import made_up_runs as made_up
from support.made_up_runs import NASTY, samples, trial

planes = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


@given(planes)
def test_the_front_is_what_no_other_beats(points: list[tuple[float, float]]) -> None:
    def beaten(one: tuple[float, float]) -> bool:
        return any(
            cost <= one[0] and gain >= one[1] and (cost, gain) != one for cost, gain in points
        )

    kept = pareto_front(points)
    assert sorted(kept) == [i for i, one in enumerate(points) if not beaten(one)]
    assert [points[i][0] for i in kept] == sorted(points[i][0] for i in kept)


def test_labels_say_what_differs() -> None:
    assert short_labels(["s=0.30 t=0.50", "s=0.50 t=0.50"]) == ["s=0.30", "s=0.50"]
    assert short_labels(["s=0.30 t=0.50", "s=0.30 t=0.50"]) == ["s=0.30 t=0.50"] * 2
    assert short_labels(["s=0.30 t=0.50"]) == ["s=0.30 t=0.50"]


def test_size_stands_in_for_speed_where_nothing_was_timed() -> None:
    bare = [trial(i, s, metrics=made_up.figures(s, speed=False)) for i, s in ((0, 0.3), (1, 0.5))]
    failed = trial(2, status="FAILED", metrics={})
    points, gain = points_of([*bare, failed], bare[1].run_id)
    assert gain == "params_pruned_pct"
    assert [one.gain for one in points] == [30, 50]
    assert [one.chosen for one in points] == [False, True]
    points, gain = points_of([*bare, trial(3, 0.7)], "")
    assert (gain, len(points)) == ("speedup", 1)


def test_the_gain_is_speed_for_equal_text_where_tokens_differ() -> None:
    plain = trial(0, metrics=made_up.figures(0.3))
    trimmed = trial(1, metrics=made_up.figures(0.5) | made_up.interval("text_speedup", 1.2, 0.1))
    plain.metrics.update(made_up.interval("text_speedup", plain.metrics["speedup"], 0.05))
    assert points_of([plain], "")[1] == "speedup"
    trimmed.metrics.update({"dense/bytes_per_token": 4.0, "pruned/bytes_per_token": 3.6})
    points, gain = points_of([plain, trimmed], "")
    assert gain == "text_speedup"
    assert [one.gain for one in points] == [plain.metrics["speedup"], 1.2]


@pytest.mark.parametrize("cost", [math.nan, math.inf])
def test_a_trial_whose_quality_is_no_number_is_left_out(cost: float, tmp_path: Path) -> None:
    sound, broken = trial(0, 0.3), trial(1, 0.5)
    broken.metrics.update(dict.fromkeys(made_up.interval("perplexity_ratio", 1, 0), cost))
    assert len(points_of([sound, broken], "")[0]) == 1
    assert not drawn(sound, tmp_path, [broken])
    why = "no finished trial has its quality measured"
    (alone := tmp_path / "alone").mkdir()
    assert drawn(broken, alone)["pareto.png"] == why


def test_an_interval_that_tells_nothing_is_not_drawn() -> None:
    one = trial(0, 0.3)
    one.metrics.update({"perplexity_ratio_ci95_low": 1e-6, "perplexity_ratio_ci95_high": 1e6})
    (point,) = points_of([one], "")[0]
    assert point.cost_ends == (point.cost, point.cost)


def many_points(count: int) -> list[Point]:
    return [
        Point(
            cost=1 + (i * 37 % 11) / 4,
            gain=1 + (i * 53 % 13) / 5,
            label=f"trial number {i}",
            quality="no",
            chosen=i == 3,
            cost_ends=(1.0, 1.0),
            gain_ends=(1.0, 1.0),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [1, 4, 20, 60])
def test_labels_do_not_overlap_and_the_chosen_one_has_its_own(count: int) -> None:
    points = many_points(count)
    figure = new_figure((9, 6), "x")
    axis = figure.subplots()
    axis.scatter([one.cost for one in points], [one.gain for one in points])
    axis.margins(0.12)
    _place_labels(figure, axis, points)
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axis.texts]
    frame = axis.get_window_extent(renderer)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    wanted = "trial number 3" if count > 3 else "trial number 0"
    assert wanted in [text.get_text() for text in axis.texts]


def drawn(one: TrackedTrial, folder: Path, others: Sequence[TrackedTrial] = (), **given: Any):
    chosen = {"samples": samples(), "plan": made_up.plan()} | given
    reasons = draw_plots(one, [one, *others], chosen["samples"], chosen["plan"], folder)
    assert set(reasons) == set(PLOTS)
    for name, why in reasons.items():
        assert (folder / name).exists() == (not why), name
    return {name: why for name, why in reasons.items() if why}


def test_everything_is_drawn_of_a_whole_sweep(tmp_path: Path) -> None:
    others = [trial(i, i / 10, name=NASTY[i % len(NASTY)] + "$a_b$") for i in range(1, 8)]
    assert not drawn(trial(0, 0.3), tmp_path, others)


def test_costs_by_text_are_those_of_several_kept_kinds(tmp_path: Path) -> None:
    base = made_up.figures(0.3)
    one = made_up.on_text("wiki", 1.2, kept=True)
    two = one | made_up.on_text("c4", 1.7, kept=True) | made_up.on_text("code", 9.0, kept=False)
    alone, several = (trial(i, metrics=base | more) for i, more in enumerate((one, two)))
    points, _ = points_of([alone, several], alone.run_id)
    assert points[0].by_text == ()
    assert sorted(points[1].by_text) == [1.2, 1.7]
    assert not drawn(several, tmp_path, [alone])


def test_without_speed_all_but_the_roofline(tmp_path: Path) -> None:
    bare = trial(0, metrics=made_up.figures(speed=False))
    assert drawn(bare, tmp_path, samples=[]) == {"roofline.png": "speed was not measured"}


def test_without_quality_there_is_no_trade_to_show(tmp_path: Path) -> None:
    fast = trial(0, metrics=made_up.figures(quality=False))
    why = "no finished trial has its quality measured"
    assert drawn(fast, tmp_path) == {"pareto.png": why}


def test_masks_have_no_votes_on_units(tmp_path: Path) -> None:
    masked = trial(0, metrics=made_up.figures(masks=True))
    nobody = made_up.plan(layers=(), agreement={}, votes={}, weights_zeroed=5)
    why = "nobody voted on units that could be removed"
    assert drawn(masked, tmp_path, plan=nobody) == {"votes.png": why}


def test_without_anything_measured_there_still_is_the_size(tmp_path: Path) -> None:
    bare = trial(0, metrics=made_up.figures(speed=False, quality=False))
    reasons = drawn(bare, tmp_path, samples=[], plan=None)
    assert set(reasons) == {"pareto.png", "votes.png", "roofline.png"}


def test_an_earlier_plan_without_votes_shows_agreement_alone(tmp_path: Path) -> None:
    assert not drawn(trial(0), tmp_path, plan=made_up.plan(votes={}))


def test_a_jury_is_drawn_layer_by_layer(tmp_path: Path) -> None:
    names = ["removal cost", *(f"{number} alone" for number in range(11))]
    jury = tuple(
        Settled(layer=layer, agreed=20, contested=8, changed=2, by=name)
        for layer, name in enumerate(names)
    )
    heights = []
    for name, sat in (("without", ()), ("with", jury)):
        (tmp_path / name).mkdir()
        assert not drawn(trial(0), tmp_path / name, plan=made_up.plan(jury=sat))
        heights.append(next((tmp_path / name).rglob("votes.png")))
    without, with_jury = (Image.open(path).height for path in heights)
    assert without < with_jury


def test_who_won_most_often_comes_first_and_the_rest_share_a_colour() -> None:
    names = ["b", "a", "a", *"cdefgh", "nothing"]
    jury = tuple(
        Settled(layer=layer, agreed=3, contested=0 if name == "nothing" else 2, changed=0, by=name)
        for layer, name in enumerate(names)
    )
    found = group_contested(made_up.plan(jury=jury))
    assert [label for label, _, _ in found[:2]] == ["contested; a won", "contested; b won"]
    assert found[-1][0] == "contested; others won"
    assert [one.by for one in found[-1][1]] == ["h"]
    assert len({colour for _, _, colour in found}) == len(found)
    assert sorted(one.layer for _, rows, _ in found for one in rows) == [*range(9)]


def test_votes_stand_at_the_layers_that_stay() -> None:
    rows = nominations_by_layer("mlp", made_up.plan(), 4)
    assert rows[0] == [1, 0]
    assert all(value != value for value in rows[1])
    assert rows[2:] == [[0.5, 0.5], [0, 1]]
    assert nominations_by_layer("layers", made_up.plan(), 4) == [[0, 0], [1, 0], [0, 1], [0, 0]]


def test_the_roofline_is_drawn_from_metrics_alone(tmp_path: Path) -> None:
    keys = metric_keys(speed=True, quality=False, batches=["b1", "b8"])
    chosen = {key: 1.0 + place / 100 for place, key in enumerate(keys)}
    draw_roofline(json.loads(json.dumps(chosen)), tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_points_have_the_verdicts_of_the_table() -> None:
    trials = [trial(number, 0.3) for number in range(3)]
    for one, kept, p_value in zip(trials, (1.0, 1.0, 0.0), (1e-4, 0.02, 0.9), strict=True):
        one.metrics.update({"quality_maintained": kept, "quality_p_value": p_value})
    points, _ = points_of(trials, "")
    assert [one.quality for one in points] == ["yes", "by itself", "no"]
