"""What travels with a stored model."""

from dataclasses import replace
from typing import Any

import pytest

from prune_exp.measurement.records import Interval
from prune_exp.pruning.plan import Reconstructed, describe_lost_scripts
from support.store import Store

pytestmark = pytest.mark.slow


def test_the_card_says_what_was_tracked(tracked: Store) -> None:
    from huggingface_hub import ModelCard

    for sparsity in ("0.2", "0.4"):
        card = ModelCard.load(tracked.files(sparsity) / "README.md")
        metrics = tracked.client.get_run(tracked.run_id(sparsity)).data.metrics
        data = card.data.to_dict()
        assert data["library_name"] == "transformers"
        assert data["pipeline_tag"] == "text-generation"
        assert data["license"] == "mit"
        assert "pruned" in data["tags"]
        assert data["datasets"] == ["text.txt"]
        known: Any = card.data
        found = {one.metric_type: one.metric_value for one in known.eval_results}
        assert found == {
            "perplexity": metrics["pruned/perplexity"],
            "bits_per_byte": metrics["pruned/bits_per_byte"],
            "perplexity_ratio": metrics["perplexity_ratio"],
        }
        speed = Interval.read(metrics, "speedup")  # of few pairs, beside other tests
        ends = "not known" if speed.tells_nothing else f"{speed.low:.3f} to {speed.high:.3f}"
        assert f"| Speedup | {speed.value:.3f}x | {ends} |" in card.text
        for words in ("## Uses and limits", "## Procedure", "whose licence is mit"):
            assert words in card.text


@pytest.mark.parametrize(("kept", "words"), [(1.0, "is maintained"), (0.0, "**not maintained**")])
def test_lost_quality_is_said_plainly(kept: float, words: str) -> None:
    from prune_exp.registry.card import model_card
    from prune_exp.tracking.read import TrackedTrial

    metrics = {
        "sparsity_achieved": 0.5,
        "quality_maintained": kept,
        "perplexity_ratio": 3.0,
        "perplexity_ratio_ci95_low": 2.9,
        "perplexity_ratio_ci95_high": 3.1,
    }
    trial = TrackedTrial(
        run_id="1",
        name="t",
        status="FINISHED",
        number=0,
        metrics=metrics,
        params={"model.base_model": "who/what", "data.path": "/home/me/secret place/text.txt"},
        tags={},
    )
    card = model_card(trial, None)
    assert words in card.text
    assert card.data.base_model == "who/what"
    assert "Speed and memory were not measured" in card.text
    assert "its verdict on quality is without correction" in card.text
    assert "/home/me" not in str(card)


def test_the_first_paragraph_names_texts_and_scripts_that_are_lost() -> None:
    from prune_exp.registry.card import summarize_trial
    from prune_exp.tracking.read import TrackedTrial
    from support import made_up_runs as made_up

    metrics = (
        {"sparsity_achieved": 0.4, "quality_maintained": 1.0}
        | made_up.interval("perplexity_ratio", 1.02, 0.01)
        | made_up.on_text("wiki", 1.02, kept=True)
        | made_up.on_text("code", 1.4, kept=False)
    )
    few = metrics | {"quality_maintained": 0.0, "domain/wiki/documents": 7.0}
    trial = TrackedTrial(
        run_id="1", name="t", status="FINISHED", number=0, metrics=metrics, params={}, tags={}
    )
    said = summarize_trial(trial)
    assert "Quality on wiki is maintained" in said
    assert "It is lost on code (1.40x)" in said
    said = summarize_trial(replace(trial, metrics=few))
    assert "Quality on wiki is **not shown to be maintained**" in said
    assert "a verdict needs 12 held-out documents, and there are fewer of wiki (7)" in said
    scripts = {
        "LATIN": (900, 900),
        "CYRILLIC": (500, 20),
        "CJK": (700, 0),
        "THAI": (20, 0),
        "none": (800, 1),
    }
    plan = made_up.plan(scripts=scripts)
    assert plan.lost_scripts == ["CJK", "CYRILLIC"]
    assert "hardly knows these scripts any more: Chinese, Cyrillic." in describe_lost_scripts(plan)


def test_only_layers_that_training_changed_are_called_trained() -> None:
    from prune_exp.registry.card import model_card
    from prune_exp.tracking.read import TrackedTrial
    from support import made_up_runs as made_up

    trial = TrackedTrial(
        run_id="1",
        name="t",
        status="FINISHED",
        number=0,
        metrics={"sparsity_achieved": 0.5} | made_up.interval("perplexity_ratio", 3.0, 0.1),
        params={},
        tags={},
    )
    left = {2: 1.0, 8: 0.7, 11: 0.8}
    tried = tuple(
        Reconstructed(layer=layer, removed_after=1, error_left=share)
        for layer, share in left.items()
    )
    told = model_card(trial, made_up.plan(reconstructed=tried)).text
    assert "layers trained to do what removed ones after them did: 8, 11\n" in told
    for unchanged in ((), tried[:1]):
        assert "layers trained" not in model_card(trial, made_up.plan(reconstructed=unchanged)).text


def test_a_card_tells_what_went_what_judged_and_what_is_not_known() -> None:
    from prune_exp.registry.card import model_card
    from prune_exp.tracking.read import TrackedTrial
    from support import made_up_runs as made_up

    one_document = {"perplexity_ratio_ci95_low": 1e-6, "perplexity_ratio_ci95_high": 1e6}
    trial = TrackedTrial(
        run_id="1",
        name="t",
        status="FINISHED",
        number=0,
        metrics={"sparsity_achieved": 0.5, "perplexity_ratio": 1.1} | one_document,
        params={"data.path": "mine.txt", "quality.keep_on": '["code", "poems"]'},
        tags={},
    )
    plan = made_up.plan(ballot="fixed", heads=dict.fromkeys((0, 2, 3), (0, 1, 5)))
    told = model_card(trial, plan)
    assert "every layer that stays 3 query heads, 2 MLP channels; 0 tokens" in told.text
    assert "others of code + poems" in told.text
    assert told.data.datasets == ["mine.txt"]
    assert "with an upper end of unknown height" in told.text
    assert "| Perplexity ratio | 1.100x | not known |" in told.text
