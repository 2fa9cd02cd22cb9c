"""A trial on a GPU; skipped where there is none."""

from pathlib import Path

import pytest
import torch

from prune_exp.measurement.worker_client import ModelProcess
from support.cli import command, runs_in
from support.serving import eager_serving

GPU = torch.cuda.is_available()


@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_a_trial_on_a_gpu(tiny_args: list[str], tmp_path: Path) -> None:
    done = command(
        *tiny_args,
        "sparsity=0.3",
        "device=cuda",
        "recovery=distill",
        "recovery.minutes=null",
        "recovery.tokens=256",
        "recovery.context_tokens=32",
        "recovery.validation_blocks=1",
        "data.calibration=generated",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (run,) = runs_in(tmp_path)
    assert run.data.tags["device"].startswith("cuda (")
    assert run.data.metrics["dense/peak_memory_mib"] >= run.data.metrics["dense/weights_mib"]
    assert run.data.metrics["dense/share_of_bandwidth"] < 1


@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_both_devices_say_the_same(tiny_folder: Path) -> None:
    said = []
    for device in ("cpu", "cuda"):
        with ModelProcess(eager_serving(tiny_folder, device), 120) as process:
            process.receive()
            said.append(process.ask(do="generate", ids=[[5, 6, 7]], new_tokens=4)["ids"])
    assert said[0] == said[1]
