"""Our clocks and memory beside optimum-benchmark's, on one checkpoint and one shape of request.

`pip install --no-deps optimum-benchmark colorlog flatten-dict` and `pip install datasets`, then on
an idle machine `PEER_CHECKPOINT=DIR pytest -m peer -n 0 -s tests/measurement`; a tiny model without
PEER_CHECKPOINT. Ratios are printed, ours over theirs.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from prune_exp.machine.memory import memory_mib
from prune_exp.measurement.worker_client import ModelProcess, environment_of
from support.serving import eager_serving

PROMPT, NEW, REPEATS, THREADS = 32, 32, 10, 2


THEIRS = """
import json, sys
import optimum_benchmark, transformers.models
# 0.6.0 wants a name that transformers 5 has merged into another class
transformers = sys.modules["transformers"]
transformers.SpecialTokensMixin = transformers.PreTrainedTokenizerBase
from optimum_benchmark import Benchmark, BenchmarkConfig, InferenceConfig, InlineConfig
from optimum_benchmark import PyTorchConfig
folder, prompt, new, repeats, threads, answer = sys.argv[1:]
report = Benchmark.launch(BenchmarkConfig(
    name="peer",
    launcher=InlineConfig(),
    backend=PyTorchConfig(
        model=folder, device="cpu", task="text-generation", library="transformers",
        torch_dtype="float32", inter_op_num_threads=int(threads),
    ),
    scenario=InferenceConfig(
        latency=True, memory=True, iterations=int(repeats), duration=0, warmup_runs=2,
        input_shapes={"batch_size": 1, "sequence_length": int(prompt)},
        generate_kwargs={"max_new_tokens": int(new), "min_new_tokens": int(new)},
    ),
))
with open(answer, "w") as out:
    json.dump(report.to_dict(), out)
"""


def theirs(folder: Path, scratch: Path) -> dict[str, float]:
    """Its launcher is `inline` in a process of ours: its own waits in a loop that takes a core."""
    answer = scratch / "theirs.json"
    shape = map(str, (PROMPT, NEW, REPEATS, THREADS))
    subprocess.run(
        [sys.executable, "-P", "-c", THEIRS, str(folder), *shape, str(answer)],
        env=environment_of(THREADS),
        check=True,
        timeout=500,
        capture_output=True,
    )
    found = json.loads(answer.read_text())
    decode, prefill = (
        statistics.median(found[part]["latency"]["values"]) for part in ("decode", "prefill")
    )
    whole = statistics.median(found["generate"]["latency"]["values"])
    return {
        "latency_ms": 1000 * whole,
        "ttft_ms": 1000 * prefill,
        "throughput_tokens_per_s": (NEW - 1) / decode,
        "memory_mib": found["decode"]["memory"]["max_ram"] * 1e6 / 2**20,
    }


def ours(folder: Path) -> dict[str, float]:
    from dataclasses import replace

    ids = [list(range(10, 10 + PROMPT))]
    with ModelProcess(replace(eager_serving(folder), threads=THREADS), 300) as process:
        process.receive()
        answers = [process.ask(do="generate", ids=ids, new_tokens=NEW) for _ in range(REPEATS + 2)][
            2:
        ]
        (worker,) = psutil.Process().children()
        peak_mib = memory_mib("VmHWM", str(worker.pid))
    middle = {
        key: statistics.median(answer[key] for answer in answers)
        for key in ("total_ms", "ttft_ms", "tpot_ms")
    }
    return {
        "latency_ms": middle["total_ms"],
        "ttft_ms": middle["ttft_ms"],
        "throughput_tokens_per_s": 1000 / middle["tpot_ms"],
        "memory_mib": peak_mib,
    }


@pytest.mark.peer
def test_absolute_numbers_beside_optimum_benchmarks(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("optimum_benchmark")
    folder = Path(os.environ.get("PEER_CHECKPOINT", tiny_folder))
    one, other = ours(folder), theirs(folder, tmp_path)
    print()
    for key in one:
        print(f"{key}: ours {one[key]:.2f}, theirs {other[key]:.2f}, {one[key] / other[key]:.3f}")
    assert all(value > 0 for value in other.values())
