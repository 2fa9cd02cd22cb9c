"""Tracked trials without a model: figures as a small sweep has them, for reports and plots."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prune_exp.pruning.plan import PruningPlan, Votes
from prune_exp.reporting.document.findings import Findings
from prune_exp.settings.groups import DataSettings, ModelSettings
from prune_exp.settings.params import flatten_settings
from prune_exp.settings.schema import Settings
from prune_exp.tracking import tags as keys
from prune_exp.tracking.metrics import metric_keys
from prune_exp.tracking.read import Choice, TrackedTrial
from support.plans import empty_plan

NASTY = (
    "<script>alert(1)</script>",
    "a | b `c` ``` **d** _e_ [f](javascript:g) ![h](i)",
    "# line\n\n> two\r\n- three\n\n| x |\n|---|",
    "</td></table><img src=x onerror=alert(1)>",
    "&lt;b&gt; {{ 7*7 }} {% raw %} $x$ \\",
    "\x1b[31mred\x00\u202egnihton \ud800",
    "word" * 400,
)
"""Texts that a page must show and never act on."""


def interval(key: str, value: float, spread: float) -> dict[str, float]:
    """A metric with its interval."""
    return {key: value, f"{key}_ci95_low": value - spread, f"{key}_ci95_high": value + spread}


def on_text(name: str, ratio: float, *, kept: bool, spread: float = 0.02) -> dict[str, float]:
    """The metrics of one kind of text."""
    start = f"domain/{name}"
    return {
        f"{start}/kept": float(kept),
        f"{start}/tokens": 8176.0,
        f"{start}/dense_bits_per_byte": 1.0,
        f"{start}/pruned_bits_per_byte": 1.0 + 0.2 * (ratio - 1),
        "max_perplexity_ratio": 1.1,
    } | interval(f"{start}/perplexity_ratio", ratio, spread)


def figures(
    sparsity: float = 0.5,
    *,
    speed: bool = True,
    quality: bool = True,
    masks: bool = False,
    recovery: bool = False,
) -> dict[str, float]:
    """All metrics of a trial, the notable ones plausible."""
    m = dict.fromkeys(
        metric_keys(speed=speed, quality=quality, recovery=recovery, batches=["b8"]), 1.0
    )
    gone = 0.0 if masks else sparsity
    m |= {
        "sparsity_requested": sparsity,
        "sparsity_achieved": gone,
        "params_total": 1e6,
        "params_active": 1e6 * (1 - gone),
        "params_pruned": 1e6 * gone,
        "params_pruned_pct": 100 * gone,
        "params_active_pct": 100 * (1 - gone),
        "weights_zeroed_pct": 100 * sparsity if masks else 0.0,
        "pruned/layers": 3.0 if gone else 4.0,
        "removed_pct/layers": 40 * gone,
        "removed_pct/heads": 0.0,
        "removed_pct/mlp": 60 * gone,
        "removed_pct/vocab": 0.0,
    }
    if speed:
        m |= interval("speedup", 1 + gone, 0.05) | interval("latency_reduction_pct", 90 * gone, 3)
        m |= interval("memory_reduction_pct", 80 * gone, 0.5)
        m |= interval("throughput_gain_pct", 150 * gone, 5)
        m |= interval("throughput_b8_gain_pct", 140 * gone, 20)
        m |= {"machine/load_per_core_start": 0.1, "test_pairs": 20.0, "test_prompts": 20.0}
        m |= {"machine/read_bandwidth_gb_per_s": 10.0, "machine/peak_gflop_per_s": 50.0}
    if speed and quality:
        m |= interval("text_speedup", 1 + gone, 0.05)
    if quality:
        ratio = 1 + 8 * sparsity**2
        m |= interval("perplexity_ratio", ratio, 0.05)
        m |= {"quality_maintained": float(ratio + 0.05 <= 1.1), "heldout_tokens": 4096.0}
        m |= {"heldout_documents": 26.0}
    return m


def settings(**changes: Any) -> Settings:
    """Valid settings without files behind them."""
    made = Settings(model=ModelSettings(name="tiny", path="model"), data=DataSettings(path="text"))
    made.pruning.voters = ["wanda", "gradient"]
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def trial(number: int = 0, sparsity: float = 0.5, **changes: Any) -> TrackedTrial:
    """A finished trial."""
    plain: dict[str, Any] = {
        "run_id": f"{number:032x}",
        "name": f"s={sparsity:.2f} t=0.50",
        "status": "FINISHED",
        "number": number,
        "metrics": figures(sparsity),
        "params": flatten_settings(settings(sparsity=sparsity)),
        "tags": {
            keys.ROLE: "trial",
            keys.OVERRIDES: json.dumps([f"sparsity={sparsity}"]),
            "git_commit": "none",
        },
    }
    return TrackedTrial(**plain | changes)


def plan(**changes: Any) -> PruningPlan:
    """A plan that took a layer and channels, by two voters."""
    given: dict[str, Any] = {
        "layers": (1,),
        "heads": dict.fromkeys((0, 2, 3), ()),
        "channels": dict.fromkeys((0, 2, 3), (0, 1)),
        "agreement": {
            kind: {"a": {"a": 1.0, "b": 0.3}, "b": {"a": 0.3, "b": 1.0}}
            for kind in ("layers", "mlp")
        },
        "votes": {
            "layers": Votes(depth=(0.25,), nominated={"a": (0, 1, 0, 0), "b": (0, 0, 1, 0)}),
            "mlp": Votes(depth=(0.5, 0.4, 0.6), nominated={"a": (1, 0.5, 0), "b": (0, 0.5, 1)}),
        },
    }
    return empty_plan(**given | changes)


def samples(texts: Sequence[str] = ("Once", "Twice", "Thrice")) -> list[dict[str, Any]]:
    """Both models' answers to prompts."""
    return [
        {
            "model": model,
            "prompt": i,
            "round": 0,
            "prompt_text": text,
            "text": f"{text} {model}" if text.strip() else text,
            "total_ms": 10.0 + i + (model == "dense"),
        }
        for i, text in enumerate(texts)
        for model in ("dense", "pruned")
    ]


def findings(trials: list[TrackedTrial] | None = None, best: int = 0, **changes: Any) -> Findings:
    """What there is to report on."""
    trials = trials or [trial()]
    root = trial(99, tags={keys.ROLE: "sweep", keys.OVERRIDES: '["sparsity=0.3,0.5"]'})
    given: dict[str, Any] = {
        "root": root,
        "trials": trials,
        "best": Choice(trial=trials[best], rule="the best quality"),
        "samples": samples(),
        "machine": {"processor": "a processor", "threads": 2, "cores": 2, "stopped_by": "rounds"},
        "plan": plan(),
    }
    return Findings(**given | changes)


def store_sweep(root: Path, trials: list[TrackedTrial]) -> tuple[str, list[str]]:
    """Puts trials into an MLflow store under `root`, plan and samples included; returns run ids."""
    import mlflow

    from prune_exp.settings.groups import TrackingSettings
    from prune_exp.tracking.store import open_store

    experiment = open_store(TrackingSettings(root=str(root)))
    ids = []
    tags = {keys.ROLE: "sweep", keys.OVERRIDES: '["sparsity=0.3,0.5"]'}
    with mlflow.start_run(experiment_id=experiment, run_name="sparsity=0.3,0.5", tags=tags) as top:
        for one in trials:
            kept = one.tags | {"hydra.job.num": str(one.number)}
            run = mlflow.start_run(
                experiment_id=experiment, run_name=one.name, nested=True, tags=kept
            )
            ids.append(run.info.run_id)
            if one.status == "FINISHED":
                mlflow.log_metrics(one.metrics)
                mlflow.log_dict(plan().to_json(), "plan.json")
                mlflow.log_text(json.dumps(samples()), "samples.json")
                mlflow.log_dict({"processor": "a processor", "cores": 2}, "machine.json")
            mlflow.log_params(one.params)
            mlflow.end_run(one.status)
    return top.info.run_id, ids
