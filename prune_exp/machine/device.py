"""Where models run, and the precision of what they compute there."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from prune_exp.settings.errors import SettingError


def choose_device(wanted: str) -> str:
    """`cpu` or `cuda`, which is what `auto` means where there is one.

    Raises:
        SettingError: `cuda` is wanted and there is none.
    """
    if wanted == "cpu":
        return wanted
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise SettingError(
            "device=cuda needs a GPU and a torch built for it, and torch finds none; use device=cpu"
        )
    return "cpu"


def describe_device(device: str) -> str:
    """A device with its name: `cpu`, `cuda (NVIDIA H100)`."""
    if device == "cpu":
        return device
    import torch

    return f"{device} ({torch.cuda.get_device_name()})"


def identify_gpu(device: str) -> tuple[str, ...]:
    """What tells the GPU from others, whichever a process is shown; the processor has nothing."""
    if device == "cpu":
        return ()
    import torch

    return (str(torch.cuda.get_device_properties(0).uuid),)


def cache_key(device: Any) -> tuple[str, ...]:
    """What sets a device's results apart from the processor's in a cache, which have nothing."""
    kind = str(device).partition(":")[0]
    return () if kind == "cpu" else (kind,)


def wait_for_device(device: str) -> None:
    """Waits until a device has done all that it was asked, so that a clock can be read."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def computes_bfloat16(device: Any) -> bool:
    """Whether a device has instructions for products in bfloat16."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = _abilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def choose_dtype(device: Any, wanted: str = "auto") -> str:
    """In which precision forward passes on a device are taken: float32 or bfloat16.

    `wanted` is either, or auto, which is bfloat16 where long texts take less time so. Having the
    instructions is not enough: Intel's AVX512-BF16 takes twice as long as float32, unlike AMX and
    AMD's. That is told by names and not by a clock, so that the same machine always does the same.
    """
    if wanted != "auto":
        return wanted
    return "bfloat16" if _gains_by_bfloat16(device) else "float32"


def _gains_by_bfloat16(device: Any) -> bool:
    import torch

    if torch.device(device).type == "cuda":
        return computes_bfloat16(device)
    able = _abilities()
    by_intel = "intel" in str(able.get("cpu_name", "")).lower()
    return bool(able.get("amx_bf16") or (able.get("avx512_bf16") and not by_intel))


def _abilities() -> dict[str, Any]:
    """What the processor can do, by torch's names."""
    import torch

    return getattr(torch.cpu, "get_capabilities", dict)()


def autocast(device: Any, dtype: str) -> AbstractContextManager[Any]:
    """Runs matrix products in `dtype`, float32 or bfloat16; weights stay in fp32."""
    import torch

    if dtype == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
