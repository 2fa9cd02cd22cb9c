"""The best trial is chosen by the rule."""

from prune_exp.tracking.read import TrackedTrial, choose_best


def trial(name: str, speedup: float, ratio: float, *, kept: bool) -> TrackedTrial:
    metrics = {"speedup": speedup, "perplexity_ratio": ratio, "quality_maintained": float(kept)}
    return TrackedTrial(
        run_id=name, name=name, status="FINISHED", number=0, metrics=metrics, params={}, tags={}
    )


def test_best_is_fastest_of_the_maintained_else_best_quality() -> None:
    slow = trial("slow", 1.1, 1.02, kept=True)
    fast = trial("fast", 1.3, 1.08, kept=True)
    wild = trial("wild", 2.0, 9.0, kept=False)
    rule = "speedup_if_maintained"
    first = choose_best([slow, fast, wild], rule)
    assert first is not None
    assert first.trial is fast
    worse = trial("worse", 1.5, 3.0, kept=False)
    second = choose_best([wild, worse], rule)
    assert second is not None
    assert second.trial is worse
    assert "best quality" in second.rule
    assert choose_best([], rule) is None


def test_speed_is_that_for_equal_text() -> None:
    from support.made_up_runs import interval

    plain = trial("plain", 1.02, 1.0, kept=True)
    cut = trial("cut", 1.05, 1.0, kept=True)
    cut.metrics.update(interval("text_speedup", 0.97, 0.01))
    plain.metrics.update(interval("text_speedup", 1.02, 0.01))
    for rule in ("speedup", "speedup_if_maintained"):
        found = choose_best([plain, cut], rule)
        assert found is not None
        assert found.trial is plain
        assert "for equal text" in found.rule
