"""A whole trial on a GPU, where Hydra and MLflow are installed."""

from pathlib import Path

import pytest
import torch

from support.cli import command, runs_in

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
