"""Devices are called by their names, and refused by them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from prune_exp.machine.device import (
    cache_key,
    choose_device,
    choose_dtype,
    computes_bfloat16,
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
    assert choose_dtype("cpu", "bfloat16") == "bfloat16"
    assert choose_dtype("cpu", "float32") == "float32"
    wait_for_device("cpu")


@pytest.mark.parametrize(
    ("able", "computes", "faster"),
    [
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True}, True, False),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, True, True),
        ({"cpu_name": "AMD EPYC 9B14", "avx512_bf16": True}, True, True),
        ({"cpu_name": "AMD EPYC 7B13"}, False, False),
        ({}, False, False),
    ],
)
def test_auto_is_bfloat16_where_it_is_faster(
    able: dict[str, Any], computes: bool, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert computes_bfloat16("cpu") is computes
    assert choose_dtype("cpu") == ("bfloat16" if faster else "float32")
    assert choose_dtype("cpu", "bfloat16") == "bfloat16"


def test_a_gpu_is_not_judged_by_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    for able in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda able=able, **_: able)
        assert computes_bfloat16("cuda") is able
        assert choose_dtype("cuda") == ("bfloat16" if able else "float32")


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
