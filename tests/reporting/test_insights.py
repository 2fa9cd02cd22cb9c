"""No claim without its measurement."""

import pytest

from prune_exp.reporting import insights as rules
from prune_exp.reporting.insights import (
    RULES,
    conclude,
    list_insights,
    tell_load_at_start,
    tell_speed,
)
from support import made_up_runs as made_up


def figures(low: float, value: float, high: float, maintained: float = 1.0) -> dict[str, float]:
    return {
        "sparsity_requested": 0.5,
        "params_pruned_pct": 50.0,
        "speedup": value,
        "speedup_ci95_low": low,
        "speedup_ci95_high": high,
        "perplexity_ratio": 1.05,
        "perplexity_ratio_ci95_low": 1.0,
        "perplexity_ratio_ci95_high": 1.1,
        "quality_maintained": maintained,
    }


ASKED = {
    "task/facts/questions": 100.0,
    "task/facts/dense_accuracy_pct": 70.0,
    "task/facts/pruned_accuracy_pct": 62.0,
}
CACHED = {
    "machine/last_level_cache_mib": 260.0,
    "dense/mib_read_per_token": 500.0,
    "pruned/mib_read_per_token": 150.0,
}
OTHER_TOKENS = {"dense/bytes_per_token": 4.0, "pruned/bytes_per_token": 3.6}
CHANGE = "task/facts/accuracy_change_points"
ANSWERS = {
    "dense/repeated_runs_pct": 0.0,
    "pruned/repeated_runs_pct": 12.0,
    "dense/degenerate_answers_pct": 0.0,
    "pruned/degenerate_answers_pct": 0.0,
}


@pytest.mark.parametrize(
    ("interval", "word"),
    [
        ((1.1, 1.2, 1.3), "faster"),
        ((0.9, 1.05, 1.2), "No difference"),
        ((0.7, 0.8, 0.9), "slower"),
    ],
)
def test_speed_words_follow_the_interval(interval: tuple[float, float, float], word: str) -> None:
    sentence = tell_speed(figures(*interval))
    assert sentence is not None
    assert word in sentence
    assert ("faster" in conclude(figures(*interval))) == (word == "faster")


def test_maintained_is_never_said_of_what_is_not() -> None:
    bad = figures(1.1, 1.2, 1.3, maintained=0.0)
    for text in (" ".join(list_insights(bad)), conclude(bad)):
        assert "not maintained" in text
        assert " is maintained" not in text


def test_training_is_told_and_told_as_it_went() -> None:
    trained = {
        "recovery/steps": 200.0,
        "recovery/tokens": 102400.0,
        "recovery/seconds": 900.0,
        "recovery/best_step": 160.0,
        "recovery/validation_kl_before": 0.9,
        "recovery/validation_kl_after": 0.6,
    }
    assert "trained" not in " ".join(list_insights(figures(1.1, 1.2, 1.3)))
    told = " ".join(list_insights(figures(1.1, 1.2, 1.3) | trained))
    assert "not that of pruning alone" in told
    assert "102,400 tokens for 15.0 minutes" in told
    vain = " ".join(list_insights(figures(1.1, 1.2, 1.3) | trained | {"recovery/best_step": 0.0}))
    assert "did not help" in vain
    assert "fell from" not in vain


def test_nothing_measured_nothing_claimed() -> None:
    bare = {"sparsity_requested": 0.5, "params_pruned_pct": 50.0}
    text = " ".join(list_insights(bare)) + conclude(bare)
    assert "not measured" in text
    assert "One request is" not in text


@pytest.mark.parametrize(
    ("load", "use", "warned"),
    [(0.1, 3.0, False), (1.0, 3.0, False), (1.5, 3.0, True), (0.1, 60.0, True)],
)
def test_a_busy_machine_is_warned_of(load: float, use: float, warned: bool) -> None:
    """One per core is what the trial's own pruning leaves behind."""
    m = figures(1.1, 1.2, 1.3)
    m |= {"machine/load_per_core_start": load, "machine/busy_pct_start": use}
    assert (tell_load_at_start(m) is not None) == warned
    assert ("Warning: the machine was busy" in " ".join(list_insights(m))) == warned


OUTCOMES: list[tuple[str, dict[str, float], str | None]] = [
    ("tell_text_speed", {}, None),
    ("tell_text_speed", {"text_speedup": 1.0}, None),
    ("tell_tasks", {}, None),
    (
        "tell_tasks",
        ASKED | made_up.interval(CHANGE, -8.0, 2.0),
        ": -8.0 points (95 % interval -10.0",
    ),
    ("tell_tasks", ASKED | made_up.interval(CHANGE, -1.0, 2.0), "no difference was shown"),
    ("tell_behaviour", {}, None),
    ("tell_behaviour", ANSWERS | {"pruned/repeated_runs_pct": 0.0}, None),
    ("tell_behaviour", ANSWERS, "had come before in the same answer (dense: 0 %)"),
    (
        "tell_text_speed",
        {"text_speedup": 1.1, "pruned/bytes_per_token": 3.0},
        "25.0 % fewer bytes of text",
    ),
    ("tell_memory", {}, "Memory was not measured."),
    (
        "tell_memory",
        made_up.interval("memory_reduction_pct", 20, 1),
        "20.0 % lower (95 % interval 19.0",
    ),
    ("tell_memory", made_up.interval("memory_reduction_pct", -7, 1), "7.0 % higher than the dense"),
    ("tell_memory", made_up.interval("memory_reduction_pct", 1, 2), "No difference in peak memory"),
    ("tell_quality", {}, "Quality was not measured"),
    (
        "tell_quality",
        made_up.interval("perplexity_ratio", 1.05, 0.01) | {"quality_maintained": 1.0},
        "Quality is maintained: held-out perplexity is 1.05x",
    ),
    (
        "tell_quality",
        made_up.interval("perplexity_ratio", 2.5, 0.1) | {"quality_maintained": 0.0},
        "Quality is not maintained: held-out perplexity is 2.50x",
    ),
    (
        "tell_quality",
        made_up.interval("perplexity_ratio", 1.05, 0.01)
        | {"quality_maintained": 1.0}
        | made_up.on_text("wiki", 1.04, kept=True)
        | made_up.on_text("c4", 1.06, kept=True)
        | made_up.on_text("code", 1.3, kept=False)
        | made_up.on_text("poems", 1.07, kept=False, spread=0.04),
        "Quality on c4 and wiki is maintained: held-out perplexity is 1.05x the dense model's"
        " (95 % interval 1.04 to 1.06). It is lost on code (1.30x), beyond 1.1 times the dense"
        " model's perplexity. It is not shown to be kept on poems (1.07x, 1.03 to 1.11): the limit"
        " of 1.1 lies within the interval.",
    ),
    (
        "tell_quality",
        made_up.interval("perplexity_ratio", 1.04, 0.02)
        | {"quality_maintained": 0.0}
        | made_up.on_text("technical", 1.09, kept=True, spread=0.08),
        "Quality on technical is not shown to be maintained: held-out perplexity is 1.04x the dense"
        " model's (95 % interval 1.02 to 1.06), and the limit is 1.1x. It is not shown to be kept"
        " on technical (1.09x, 1.01 to 1.17)",
    ),
    (
        "tell_quality",
        dict.fromkeys(made_up.interval("perplexity_ratio", 1, 0), float("nan"))
        | {"quality_maintained": 0.0},
        "Quality is not maintained: the pruned model's held-out perplexity is no number.",
    ),
    (
        "tell_text_speed",
        {"speedup": 1.2, "removed_pct/vocab": 10.0},
        "the ratio of speeds for equal text was not measured",
    ),
    (
        "tell_share_of_limit",
        {"share_of_limit": 1.45, "bandwidth_limit_speedup": 2.0}
        | CACHED
        | {"machine/last_level_cache_mib": 100.0},
        "145 % of that was reached.",
    ),
    (
        "tell_bandwidth",
        {"dense/share_of_bandwidth": 0.9, "pruned/share_of_bandwidth": 1.7} | CACHED,
        "More than 100 % is possible where a part of the weights stays in the cache.",
    ),
    ("tell_agreement", {}, None),
    ("tell_agreement", {"top1_agreement": 0.625}, "first at 62.5 % of held-out positions"),
    ("tell_share_of_limit", {}, None),
    (
        "tell_share_of_limit",
        {"share_of_limit": 0.8, "bandwidth_limit_speedup": 2.0},
        "allows at most 2.00x where memory bandwidth is the limit; 80 % of that was reached",
    ),
    (
        "tell_share_of_limit",
        {"share_of_limit": 1.45, "bandwidth_limit_speedup": 2.0},
        "alone would allow 2.00x where memory bandwidth is the limit; 145 % of that was reached, so"
        " other work became less too.",
    ),
    (
        "tell_share_of_limit",
        {"share_of_limit": 1.45, "bandwidth_limit_speedup": 2.0} | CACHED,
        "145 % of that was reached.",
    ),
    ("tell_cache", {}, None),
    ("tell_cache", CACHED | {"machine/last_level_cache_mib": 149.0}, None),
    ("tell_cache", CACHED | {"machine/last_level_cache_mib": 500.0}, None),
    (
        "tell_cache",
        CACHED,
        "for a token, 150 MiB, fits in this processor's cache of 260 MiB, and the dense model's"
        " 500 MiB do not",
    ),
    ("tell_where_memory_goes", {}, None),
    (
        "tell_where_memory_goes",
        {
            "saved/peak_memory_mib": 5.0,
            "saved/weights_mib": 8.0,
            "saved/kv_cache_mib": 0.0,
            "saved/buffers_mib": -3.0,
        },
        "+5.0 MiB were saved: weights +8.0, keys and values +0.0, buffers -3.0",
    ),
    ("tell_bandwidth", {}, None),
    (
        "tell_bandwidth",
        {"dense/share_of_bandwidth": 0.5, "pruned/share_of_bandwidth": 0.4},
        "50 % (dense) and 40 % (pruned) of the 10.0 GB/s",
    ),
    (
        "tell_bandwidth",
        {"dense/share_of_bandwidth": 1.2, "pruned/share_of_bandwidth": 0.9},
        "measured too low",
    ),
    (
        "tell_bandwidth",
        {"dense/share_of_bandwidth": 0.004, "pruned/share_of_bandwidth": 0.00021},
        "0.4 % (dense) and 0.021 % (pruned)",
    ),
    (
        "tell_sparsity",
        {"params_pruned_pct": 50.2},
        "50.2 % of all parameters are gone, as requested",
    ),
    ("tell_sparsity", {"params_pruned_pct": 31.0}, "are gone; 50.0 % were requested"),
    (
        "tell_sparsity",
        {"weights_zeroed_pct": 50.0},
        "none is gone: zeros are stored and multiplied",
    ),
    ("tell_where_parameters_went", {}, None),
    (
        "tell_where_parameters_went",
        {"removed_pct/layers": 20.0, "removed_pct/heads": 0.0, "removed_pct/mlp": 30.0},
        "by kind: whole layers 20.0, MLP channels 30.0.",
    ),
    ("tell_recovery", {}, None),
    ("tell_speed", {}, "Speed was not measured"),
    ("tell_load_at_start", {}, None),
]
"""Every rule with every outcome, but for those tested above."""


@pytest.mark.parametrize(("name", "given", "said"), OUTCOMES)
def test_every_outcome_of_every_rule(name: str, given: dict[str, float], said: str | None) -> None:
    m = {
        "sparsity_requested": 0.5,
        "params_pruned_pct": 50.0,
        "dense/bytes_per_token": 4.0,
        "pruned/bytes_per_token": 4.0,
        "text_speedup_ci95_low": 1.0,
        "text_speedup_ci95_high": 1.2,
        "machine/read_bandwidth_gb_per_s": 10.0,
    }
    sentence = getattr(rules, name)(m | given)
    if said is None:
        assert sentence is None
    else:
        assert said in sentence


def test_no_rule_is_left_untested() -> None:
    assert {rule.__name__ for rule in RULES} == {name for name, _, _ in OUTCOMES}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            figures(1.1, 1.2, 1.3),
            "is faster (1.20x) and smaller. Its quality on held-out text is m",
        ),
        (figures(0.9, 1.0, 1.1), "smaller, but no speedup was shown"),
        (
            figures(1.1, 1.2, 1.3) | OTHER_TOKENS | made_up.interval("text_speedup", 0.97, 0.04),
            "smaller, but no speedup for equal text was shown",
        ),
        (
            figures(1.1, 1.2, 1.3) | OTHER_TOKENS | made_up.interval("text_speedup", 1.15, 0.04),
            "is faster for equal text (1.15x) and smaller",
        ),
        (
            figures(1.1, 1.2, 1.3) | OTHER_TOKENS | made_up.interval("text_speedup", 0.9, 0.04),
            "smaller, and slower for equal text (0.90x)",
        ),
        (figures(0.7, 0.8, 0.9), "smaller, and slower (0.80x)"),
        (figures(1.1, 1.2, 1.3) | {"weights_zeroed_pct": 50.0}, "faster (1.20x) and not smaller"),
        (
            figures(1.1, 1.2, 1.3) | {"removed_pct/vocab": 10.0},
            "is faster (1.20x a request, for equal text it was not measured) and smaller",
        ),
        (
            figures(1.1, 1.2, 1.3) | made_up.on_text("code", 5.7, kept=False),
            "held-out text is maintained. It is lost on code (5.70x)",
        ),
        (
            figures(1.1, 1.2, 1.3, maintained=0.0)
            | made_up.interval("perplexity_ratio", 1.04, 0.02)
            | made_up.on_text("technical", 1.09, kept=True, spread=0.08),
            "Its quality on held-out text of technical is not shown to be maintained: held-out"
            " perplexity is 1.04x the dense model's (95 % interval 1.02 to 1.06), and the limit is"
            " 1.1x. It is not shown to be kept on technical",
        ),
        (figures(0.9, 1.0, 1.1) | {"weights_zeroed_pct": 50.0}, "is not smaller, its zeros are"),
    ],
)
def test_the_conclusion_claims_what_was_shown(change: dict[str, float], said: str) -> None:
    assert said in conclude(change)


def test_only_a_model_that_lost_its_quality_is_advised_against() -> None:
    lost = figures(1.1, 1.2, 1.3, maintained=0.0) | {"max_perplexity_ratio": 1.1}
    lost |= made_up.interval("perplexity_ratio", 2.0, 0.1)
    assert "Do not use it" in conclude(lost)
    assert "the limit is 1.1x" in conclude(lost)
    doubted = lost | made_up.interval("perplexity_ratio", 1.08, 0.05)
    assert "Do not use it" not in conclude(doubted)


def test_a_loss_that_is_sure_is_not_said_to_be_no_verdict() -> None:
    """One text is surely lost, and another one has too few documents to tell anything of it."""
    m = figures(1.1, 1.2, 1.3, maintained=0.0) | made_up.interval("perplexity_ratio", 9.0, 8.2)
    m |= made_up.on_text("wiki", 12.0, kept=True, spread=2.0) | {"domain/wiki/documents": 60.0}
    m |= made_up.on_text("mine", 40.0, kept=True, spread=39.5) | {"domain/mine/documents": 5.0}
    for text in (rules.tell_quality(m), conclude(m)):
        assert "is not maintained" in str(text)
        assert "no verdict" not in str(text)
        assert "It is lost on wiki" in str(text)
