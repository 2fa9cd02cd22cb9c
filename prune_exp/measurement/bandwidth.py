"""What the machine's memory and arithmetic allow, measured in a process of its own.

Started as `python -m prune_exp.measurement.bandwidth THREADS DEVICE DTYPE`; prints one JSON object.
After STREAM (McCalpin, "Memory Bandwidth and Machine Balance in Current High Performance
Computers", 1995): buffers far beyond all last-level caches, the best of several repetitions, and a
copy counts its bytes twice.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from prune_exp.machine.device import wait_for_device
from prune_exp.machine.limits import available_memory_mib
from prune_exp.measurement.footprint import MIB

LEAST_BUFFER_MIB = 256
CACHES_PER_BUFFER = 8
ROW = 4096
REPETITIONS = 8
SQUARES = {"cpu": 1024, "cuda": 8192}
"""Side of the matrices whose product tells the arithmetic's peak."""


def measure_bandwidth(
    threads: int, timeout_s: float, device: str = "cpu", dtype: str = "float32"
) -> dict[str, float]:
    """Runs this module in a fresh process with so many threads, for the memory of a device.

    The arithmetic's peak is that of products in `dtype`.

    Raises:
        MeasurementError: the process failed or took longer than the timeout.
    """
    from prune_exp.measurement.worker_client import MeasurementError, environment_of

    try:
        done = subprocess.run(
            [sys.executable, "-m", "prune_exp.measurement.bandwidth", str(threads), device, dtype],
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


def last_level_cache_mib(
    cpus: Path = Path("/sys/devices/system/cpu"), cores: Iterable[int] | None = None
) -> float:
    """Size of all last-level caches that the cores share; 0 where the system does not tell.

    A processor of several dies has one for each of them, and a buffer is read from all cores.
    `cores` are those that this process may run on, unless others are given.
    """
    found: dict[tuple[int, str], float] = {}
    for core in os.sched_getaffinity(0) if cores is None else cores:
        for index in (cpus / f"cpu{core}" / "cache").glob("index*"):
            shared = _read(index / "shared_cpu_list") or str(core)
            level = _read(index / "level")
            if _read(index / "type") != "Instruction" and level.isdigit():
                found[int(level), shared] = _size_mib(_read(index / "size"))
    last = max((level for (level, _), size in found.items() if size), default=0)
    return sum(size for (level, _), size in found.items() if level == last)


def _size_mib(text: str) -> float:
    factor = {"K": 1 / 1024, "M": 1, "G": 1024}.get(text[-1:], 0)
    return int(text[:-1]) * factor if factor else 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def buffer_mib(cache_mib: float, available_mib: float) -> int:
    """Size of a buffer: eight times the caches, unless two of them took half of the memory."""
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


def measure_rates(threads: int, device: str = "cpu", dtype: str = "float32") -> dict[str, float]:
    """Read and copy bandwidth in GB/s, GFLOP/s of a product in `dtype`, and the buffers' size.

    Reading is the faster of a sum and a matrix-vector product, which is what decoding does.
    """
    import torch

    torch.set_num_threads(threads)
    cache = last_level_cache_mib()
    available = available_memory_mib()
    if device == "cuda":
        cache = torch.cuda.get_device_properties(0).L2_cache_size / MIB
        available = torch.cuda.mem_get_info()[0] / MIB
    size = buffer_mib(cache, available)
    side = SQUARES[device]
    matrix = torch.ones(size * MIB // 4 // ROW, ROW, device=device)
    other = torch.empty_like(matrix)
    vector = torch.ones(ROW, device=device)
    square = torch.rand(side, side, device=device).to(getattr(torch, dtype))
    amount = matrix.numel() * 4 / 1e9

    def rate(work: Callable[[], object], amount: float) -> float:
        return best_rate(lambda: (work(), wait_for_device(device)), amount)

    with torch.inference_mode():
        return {
            "read_bandwidth_gb_per_s": max(
                rate(lambda: torch.mv(matrix, vector), amount), rate(matrix.sum, amount)
            ),
            "copy_bandwidth_gb_per_s": rate(lambda: other.copy_(matrix), 2 * amount),
            "peak_gflop_per_s": rate(lambda: torch.mm(square, square), 2 * side**3 / 1e9),
            "buffer_mib": size,
            "last_level_cache_mib": cache,
        }


if __name__ == "__main__":
    print(json.dumps(measure_rates(int(sys.argv[1]), *sys.argv[2:])))
