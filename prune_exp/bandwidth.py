"""What the machine's memory and arithmetic allow, measured in a process of its own.

Started as `python -m prune_exp.bandwidth THREADS`; prints one JSON object. After STREAM (McCalpin,
"Memory Bandwidth and Machine Balance in Current High Performance Computers", 1995): buffers far
beyond the last-level cache, the best of several repetitions, and a copy counts its bytes twice.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from prune_exp.traffic import MIB

LEAST_BUFFER_MIB = 256
CACHES_PER_BUFFER = 8
ROW = 4096
REPETITIONS = 8


def measure_bandwidth(threads: int, timeout_s: float) -> dict[str, float]:
    """Runs this module in a fresh process with so many threads.

    Raises:
        MeasurementError: the process failed or took longer than the timeout.
    """
    from prune_exp.processes import MeasurementError, environment_of

    try:
        done = subprocess.run(
            [sys.executable, "-m", "prune_exp.bandwidth", str(threads)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment_of(threads),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MeasurementError("memory bandwidth was not measured in time") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise MeasurementError(f"memory bandwidth could not be measured: {last}")
    return json.loads(done.stdout)


def last_level_cache_mib(caches: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> float:
    """Size of the largest cache; 0 where the system does not tell."""
    sizes = [0.0]
    for path in caches.glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        factor = {"K": 1 / 1024, "M": 1, "G": 1024}.get(text[-1:], 0)
        sizes.append(int(text[:-1]) * factor if factor else 0.0)
    return max(sizes)


def buffer_mib(cache_mib: float, available_mib: float) -> int:
    """Size of a buffer: eight times the cache, unless two of them took half of the memory."""
    wanted = max(LEAST_BUFFER_MIB, CACHES_PER_BUFFER * cache_mib)
    return int(max(min(wanted, available_mib / 4), 16))


def best_rate(work: Callable[[], object], amount: float, repetitions: int = REPETITIONS) -> float:
    """The most of `amount` a second over several calls, the first of which does not count."""
    work()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return amount / min(times)


def measure(threads: int) -> dict[str, float]:
    """Read and copy bandwidth in GB/s, a matrix product's GFLOP/s, and the buffers' size.

    Reading is the faster of a sum and a matrix-vector product, which is what decoding does.
    """
    import psutil
    import torch

    torch.set_num_threads(threads)
    cache = last_level_cache_mib()
    size = buffer_mib(cache, psutil.virtual_memory().available / MIB)
    matrix = torch.ones(size * MIB // 4 // ROW, ROW)
    other, vector = torch.empty_like(matrix), torch.ones(ROW)
    square = torch.ones(1024, 1024)
    amount = matrix.numel() * 4 / 1e9
    with torch.inference_mode():
        return {
            "read_bandwidth_gb_per_s": max(
                best_rate(lambda: torch.mv(matrix, vector), amount),
                best_rate(matrix.sum, amount),
            ),
            "copy_bandwidth_gb_per_s": best_rate(lambda: other.copy_(matrix), 2 * amount),
            "peak_gflop_per_s": best_rate(lambda: torch.mm(square, square), 2 * 1024**3 / 1e9),
            "buffer_mib": size,
            "last_level_cache_mib": cache,
        }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
