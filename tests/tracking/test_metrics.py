"""The keys of metrics are known before a trial, and carry their units."""

from dataclasses import replace

from prune_exp.reporting.batches import batch_labels, batch_name
from prune_exp.settings.groups import BenchmarkSettings
from prune_exp.tracking.domains import read_domains
from prune_exp.tracking.metrics import flatten_result, make_up_result, metric_keys
from prune_exp.tracking.result import TrialResult


def test_metric_keys_are_known_before_any_trial() -> None:
    everything = metric_keys(speed=True, quality=True)
    assert {"latency_ratio", "bits_per_byte_increase", "speedup_ci95_low"} <= set(everything)
    assert "seconds/prune" in everything
    assert "latency_ratio" not in metric_keys(speed=False, quality=True)
    assert "perplexity_ratio" not in metric_keys(speed=True, quality=False)


def test_metrics_of_each_text_are_known_and_can_be_read_back() -> None:
    keys = metric_keys(speed=False, quality=True, domains=["wiki", "my/text"])
    assert {"domain/wiki/perplexity_ratio_ci95_high", "domain/my/text/kept"} <= set(keys)
    found = read_domains(dict.fromkeys(keys, 1.0) | {"domain/my/text/kept": 0.0})
    assert [(one.name, one.kept, one.tokens) for one in found] == [
        ("wiki", True, 1),
        ("my/text", False, 1),
    ]
    assert not read_domains(dict.fromkeys(metric_keys(speed=True, quality=True), 1.0))


def test_metric_keys_are_those_of_a_trained_trial() -> None:
    result = make_up_result(TrialResult)
    assert {f"recovery/{key}" for key in ("steps", "tokens", "best_step")} <= set(
        metric_keys(speed=False, quality=True, recovery=True)
    )
    assert "seconds/recover" in metric_keys(speed=False, quality=True, recovery=True)
    assert not [key for key in metric_keys(speed=True, quality=True) if "recover" in key]
    assert "recovery/curve" not in flatten_result(
        replace(result, dense_shape=replace(result.dense_shape, params_total=2))
    )


def test_names_of_metrics_carry_batch_size_and_prompt_length() -> None:
    settings = BenchmarkSettings(batch_sizes=[1, 8], prompt_tokens=[16, 64])
    keys = metric_keys(speed=True, quality=False, batches=list(settings.batches))
    assert {"throughput_b8_p64_ratio", "dense/throughput_b1_p16_tokens_per_s"} <= set(keys)
    assert batch_labels(dict.fromkeys(keys, 1.0)) == [
        "b1_p16",
        "b1_p64",
        "b8_p16",
        "b8_p64",
    ]
    assert "throughput_b8_gain_pct" in metric_keys(speed=True, quality=False)
    assert batch_name("b8_p64") == "batch 8, 64-token prompts"
