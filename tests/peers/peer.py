"""A peer's row: prune, judge and measure as a trial does."""

import tempfile
import time
from pathlib import Path
from typing import Any

from prune_exp.machine.cache import digest_of
from prune_exp.machine.packages import installed_version
from prune_exp.measurement import benchmark, quality
from prune_exp.measurement.prompts import read_prompts, tokenize_prompts
from prune_exp.measurement.records import Interval
from prune_exp.model.export import export_model

from .rows import Missing, Row, row_of
from .task import Method, Task


def digest(method: Method) -> str:
    """Identifies everything about a row that is not the same for all of them."""
    return digest_of(method.note, installed_version(method.package) if method.package else None)


def measure(
    name: str, method: Method, task: Task, *, calibration_s: float, speed: bool
) -> Row | Missing:
    """Prunes with a method and measures what is left; a failure of the peer's is its row."""
    missing = {"name": name, "kind": "peer", "requested": task.settings.sparsity}
    if method.package and installed_version(method.package) is None:
        return Missing(reason=f"not installed: pip install {method.package}", **missing)
    start, loads = time.perf_counter(), len(task.load_s)
    try:
        model = method.prune(task)
    except Exception as error:
        return Missing(reason=f"{type(error).__name__}: {error}", **missing)
    seconds = time.perf_counter() - start - sum(task.load_s[loads:])
    left = sum(p.numel() for p in model.parameters())
    return row_of(
        judge(task, model),
        speedup=_speedup(task, model) if speed and method.stock else None,
        timed=speed,
        name=name,
        kind="peer",
        requested=task.settings.sparsity,
        achieved=1 - left / task.shape.params_total,
        prune_s=seconds + (calibration_s if method.statistics else 0),
        note=method.note,
    )


def judge(task: Task, model: Any) -> Any:
    """Held-out quality of a pruned model with the dense model's tokenizer."""
    inputs, settings = task.inputs, task.settings
    baseline = quality.dense_baseline(
        task.model(), inputs.source.digest, inputs.corpus.heldout, cache_dir=inputs.cache_dir
    )
    return quality.compare_quality(
        model,
        baseline,
        inputs.corpus.heldout,
        max_perplexity_ratio=settings.quality.max_perplexity_ratio,
    )


def _speedup(task: Task, model: Any) -> Interval:
    inputs = task.inputs
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = export_model(model, inputs.tokenizer, Path(folder) / "model")
        texts = read_prompts(task.settings.benchmark)
        prompts = tokenize_prompts(texts, dict.fromkeys(benchmark.SIDES, inputs.tokenizer))
        found = benchmark.measure_pair(
            inputs.source.folder, checkpoint, prompts, task.settings.benchmark
        )
    return found.speedup
