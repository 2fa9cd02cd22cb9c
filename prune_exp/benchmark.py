"""Paired measurement: the dense and the pruned model, each in a fresh process, in turns."""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prune_exp.paired import median_ratio
from prune_exp.processes import ModelProcess, available_threads, describe_machine
from prune_exp.records import Interval, Speed, SpeedComparison
from prune_exp.settings import BenchmarkSettings, SettingError

Samples = list[dict[str, Any]]
SIDES = ("dense", "pruned")
Prompts = dict[str, list[list[int]]]
"""Each side's prompts as its own tokens; the i-th of both are the same text."""


def read_prompts(settings: BenchmarkSettings) -> list[str]:
    """The test prompts.

    Raises:
        SettingError: no such file, or fewer prompts in it than asked for.
    """
    path = Path(settings.prompts_path or Path(__file__).with_name("prompts.txt")).expanduser()
    if not path.is_file():
        raise SettingError(f"benchmark.prompts_path={path} is not a file; give one prompt a line")
    prompts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    prompts = [prompt for prompt in prompts if prompt]
    if len(prompts) < settings.prompts:
        raise SettingError(
            f"benchmark.prompts={settings.prompts} but {path.name} has {len(prompts)}; ask for"
            " fewer or give a longer benchmark.prompts_path"
        )
    return prompts[: settings.prompts]


def measure(
    dense: Path, pruned: Path, prompts: Prompts, settings: BenchmarkSettings
) -> SpeedComparison:
    """Measures two checkpoints on tokenized prompts, taking turns so that noise hits both.

    Prompt by prompt the order alternates (dense first, pruned first, ...). Memory is measured in
    pairs of fresh processes after the warm-up, because a process's peak never falls.
    """
    from filelock import FileLock

    threads = settings.threads or available_threads()
    folders: dict[str, Path] = dict(zip(SIDES, (dense, pruned), strict=True))
    lock = Path(tempfile.gettempdir()) / "prune_exp-measure.lock"
    with FileLock(str(lock), mode=0o666), ExitStack() as stack:
        machine = describe_machine(threads)
        workers = {
            side: stack.enter_context(ModelProcess(folder, threads, settings.timeout_s))
            for side, folder in folders.items()
        }
        starts = {side: worker.receive() for side, worker in workers.items()}
        memory = [
            {
                side: _last_answer(worker, _start_warm_up(worker, prompts[side], settings))
                for side, worker in workers.items()
            }
        ]
        requests = _requests(workers, prompts, settings)
        batches = _batches(workers, prompts, settings)
        machine["load_average_end"] = os.getloadavg()[0]
    memory += _memory(folders, prompts, settings, threads)
    machine["start_s"] = {side: start["ready_s"] for side, start in starts.items()}
    return _compare(requests, batches, memory, settings, machine)


def _start_warm_up(
    worker: ModelProcess, prompts: list[list[int]], settings: BenchmarkSettings
) -> int:
    """Asks for requests and a batch that no clock counts, then for the memory they took.

    Returns the number of answers to come, the last of which is the memory.
    """
    for _ in range(settings.warmup_requests):
        worker.send(do="generate", ids=[prompts[0]], new_tokens=settings.new_tokens)
    batch = _batch(prompts, settings)
    worker.send(do="generate", ids=batch, new_tokens=settings.new_tokens)
    worker.send(do="memory")
    return settings.warmup_requests + 2


def _last_answer(worker: ModelProcess, count: int) -> dict[str, Any]:
    return [worker.receive() for _ in range(count)][-1]


def _turns(round_number: int) -> tuple[str, ...]:
    """Who goes first alternates: A B, B A, A B, ..."""
    return SIDES if round_number % 2 == 0 else SIDES[::-1]


def _requests(
    workers: dict[str, ModelProcess], prompts: Prompts, settings: BenchmarkSettings
) -> Samples:
    from tqdm import tqdm

    samples: Samples = []
    for number in tqdm(range(len(prompts["dense"])), "latency", unit="prompt"):
        for side in _turns(number):
            prompt = prompts[side][number]
            answer = workers[side].ask(do="generate", ids=[prompt], new_tokens=settings.new_tokens)
            samples.append({"prompt": number, "model": side, "prompt_tokens": len(prompt)} | answer)
    return samples


def _batches(
    workers: dict[str, ModelProcess], prompts: Prompts, settings: BenchmarkSettings
) -> Samples:
    from tqdm import tqdm

    batch = {side: _batch(prompts[side], settings) for side in SIDES}
    samples: Samples = []
    for number in tqdm(range(settings.batch_rounds), "throughput", unit="batch"):
        for side in _turns(number):
            answer = workers[side].ask(
                do="generate", ids=batch[side], new_tokens=settings.new_tokens
            )
            samples.append({"model": side, "total_ms": answer["total_ms"]})
    return samples


def _memory(
    folders: dict[str, Path],
    prompts: Prompts,
    settings: BenchmarkSettings,
    threads: int,
) -> list[dict[str, dict[str, Any]]]:
    """Both models' memory after the warm-up, in further pairs of fresh processes.

    The two work at the same time, on half of the cores each: a clock would mind, the kernel's
    accounting does not.
    """
    from tqdm import tqdm

    rounds = []
    for _ in tqdm(range(settings.memory_rounds - 1), "memory", unit="pair"):
        with ExitStack() as stack:
            workers = {
                side: stack.enter_context(
                    ModelProcess(folder, max(threads // 2, 1), settings.timeout_s)
                )
                for side, folder in folders.items()
            }
            counts = {
                side: _start_warm_up(worker, prompts[side], settings) + 1
                for side, worker in workers.items()
            }
            rounds.append({side: _last_answer(workers[side], n) for side, n in counts.items()})
    return rounds


def _batch(prompts: list[list[int]], settings: BenchmarkSettings) -> list[list[int]]:
    """Prompts cut to one length, so that no padding is measured."""
    length = min(len(prompt) for prompt in prompts)
    return [prompts[i % len(prompts)][:length] for i in range(settings.batch_size)]


def _compare(
    requests: Samples,
    batches: Samples,
    memory: list[dict[str, dict[str, Any]]],
    settings: BenchmarkSettings,
    machine: dict[str, Any],
) -> SpeedComparison:
    resamples = settings.bootstrap_resamples
    totals = {side: _column(requests, side, "total_ms") for side in SIDES}
    rounds = {side: _column(batches, side, "total_ms") for side in SIDES}
    peaks = {side: [one[side]["peak_memory_mib"] for one in memory] for side in SIDES}
    speeds = {
        side: _speed(requests, rounds[side], peaks[side], memory[0][side], side, settings)
        for side in SIDES
    }
    speedup = median_ratio(totals["dense"], totals["pruned"], resamples=resamples)
    dense, pruned = speeds["dense"], speeds["pruned"]
    return SpeedComparison(
        dense=dense,
        pruned=pruned,
        speedup=speedup,
        throughput_ratio=_throughput_ratio(requests, resamples),
        batch_throughput_ratio=median_ratio(rounds["dense"], rounds["pruned"], resamples=resamples),
        memory_ratio=median_ratio(peaks["pruned"], peaks["dense"], resamples=resamples),
        bandwidth_limit_speedup=dense.mib_read_per_token / pruned.mib_read_per_token,
        prompts=len(totals["dense"]),
        new_tokens=settings.new_tokens,
        batch_size=settings.batch_size,
        samples=tuple(requests),
        machine=machine,
    )


def _column(samples: Samples, side: str, field: str) -> list[float]:
    """One model's values of a field, in prompt order."""
    return [sample[field] for sample in samples if sample["model"] == side]


def _throughput_ratio(requests: Samples, resamples: int) -> Interval:
    """Decode rate, pruned over dense: tokens after the first, so prompts do not count."""
    rate = {side: [1 / t for t in _column(requests, side, "tpot_ms")] for side in SIDES}
    return median_ratio(rate["pruned"], rate["dense"], resamples=resamples)


def _speed(
    requests: Samples,
    batch_ms: list[float],
    peaks_mib: list[float],
    memory: dict[str, Any],
    side: str,
    settings: BenchmarkSettings,
) -> Speed:
    import numpy as np

    totals = _column(requests, side, "total_ms")
    p50, p90, p99 = (float(np.percentile(totals, q)) for q in (50, 90, 99))
    per_batch = settings.batch_size * settings.new_tokens
    tpot_ms = float(np.median(_column(requests, side, "tpot_ms")))
    return Speed(
        latency_ms_mean=float(np.mean(totals)),
        latency_ms_p50=p50,
        latency_ms_p90=p90,
        latency_ms_p99=p99,
        ttft_ms=float(np.median(_column(requests, side, "ttft_ms"))),
        tpot_ms=tpot_ms,
        throughput_tokens_per_s=1000 / tpot_ms,
        batch_throughput_tokens_per_s=1000 * per_batch / float(np.median(batch_ms)),
        peak_memory_mib=float(np.median(peaks_mib)),
        weights_mib=memory["weights_mib"],
        mib_read_per_token=memory["mib_read_per_token"],
    )
