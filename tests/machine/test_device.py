"""Devices are called by their names, and refused by them."""

from pathlib import Path

import pytest
import torch

from prune_exp.machine import device
from prune_exp.machine.device import (
    bfloat16_on,
    cache_key,
    choose_device,
    describe_device,
    wait_for_device,
)
from prune_exp.settings.checks import check_settings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.schema import Settings
from support.cli import command

GPU = torch.cuda.is_available()


def test_a_device_is_what_it_is_called() -> None:
    assert choose_device("cpu") == describe_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda" if GPU else "cpu")
    assert cache_key("cpu") == cache_key(torch.device("cpu")) == ()
    assert cache_key("cuda:0") == cache_key("cuda") == ("cuda",)
    assert bfloat16_on("cpu", "bfloat16")
    assert not bfloat16_on("cpu", "float32")
    wait_for_device("cpu")


@pytest.mark.parametrize(
    ("able", "speed", "reduced"), [(True, 1.6, True), (True, 0.55, False), (False, 1.6, False)]
)
def test_auto_is_what_is_clearly_faster(
    able: bool, speed: float, reduced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "computes_bfloat16", lambda _: able)
    monkeypatch.setattr(device, "speed_in_bfloat16", lambda: speed)
    assert bfloat16_on("cpu") is reduced
    assert bfloat16_on("cpu", "bfloat16")


def test_the_faster_type_is_measured() -> None:
    ratio = device.speed_in_bfloat16()
    assert 0 < ratio < 100
    assert device.speed_in_bfloat16() == ratio, "once in a process"


def test_other_devices_are_refused() -> None:
    settings = Settings(device="gpu")
    with pytest.raises(SettingError, match="device=gpu is unknown; use one of cpu, cuda, auto"):
        check_settings(settings)


@pytest.mark.skipif(GPU, reason="there is a GPU")
def test_cuda_where_there_is_none_is_one_line(tiny_args: list[str], tmp_path: Path) -> None:
    done = command("-m", *tiny_args, "sparsity=0.2,0.3", "device=cuda", cwd=tmp_path)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert "torch finds none; use device=cpu" in lines[0]
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()
