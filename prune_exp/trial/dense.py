"""The dense model as a trial has it: in memory, or with its layers on disk."""

from pathlib import Path
from typing import Any

from prune_exp.machine.device import choose_device
from prune_exp.machine.limits import total_memory_mib
from prune_exp.machine.memory import device_memory_mib
from prune_exp.machine.staging import make_partial
from prune_exp.model import loading
from prune_exp.model.export import choose_export_dtype, convert_weight
from prune_exp.model.offload import open_model
from prune_exp.model.shape import ModelShape
from prune_exp.model.sources import ModelSource
from prune_exp.settings.errors import SettingError
from prune_exp.settings.schema import Settings

BYTES_PER_PARAM = {"float32": 4, "bfloat16": 2, "auto": 2}


def load_dense(settings: Settings, source: ModelSource, target: Path) -> Any:
    """The dense model on the trial's device.

    With `model.offload` its layers stay on disk, and those that are changed lie beside `target`,
    until `discard_partial(target)`.
    """
    device = choose_device(settings.device)
    if not settings.model.offload:
        return loading.load_model(source.folder, device=device)
    dtype = choose_export_dtype(settings.model.export_dtype, source.folder)
    return open_model(
        source.folder,
        device=device,
        scratch=make_partial(target),
        convert=lambda name, weight: convert_weight(name, weight, dtype),
    )


def check_memory(settings: Settings, shape: ModelShape, device: str) -> None:
    """Raises SettingError for a model that does not fit where something needs it whole.

    Only the weights are counted: what is refused here could not have worked.
    """
    room = device_memory_mib(device)
    if not settings.model.offload:
        needed = _weights_mib(shape.params_total, "float32")
        if needed > room:
            raise SettingError(
                f"the model's weights in float32 come to {needed:,.0f} MiB, and device={device} has"
                f" {room:,.0f} MiB; type model.offload=true"
            )
        return
    left = (1 - settings.sparsity) * shape.params_total
    dtype = settings.benchmark.runtime.dtype
    both = _weights_mib(shape.params_total + left, dtype)
    if settings.benchmark.enabled and both > room:
        raise SettingError(
            f"the benchmark serves both models whole, {both:,.0f} MiB of weights in {dtype}, and"
            f" device={device} has {room:,.0f} MiB; type benchmark=off"
            + (", or benchmark.runtime.dtype=bfloat16" if dtype == "float32" else "")
        )
    stored = _weights_mib(left, "float32")
    if settings.tracking.log_models != "none" and stored > total_memory_mib():
        raise SettingError(
            f"a stored model is loaded whole, {stored:,.0f} MiB of weights, and this machine has"
            f" {total_memory_mib():,.0f} MiB; type tracking.log_models=none, and the checkpoint"
            " stays where the trial wrote it"
        )


def _weights_mib(params: float, dtype: str) -> float:
    return BYTES_PER_PARAM[dtype] * params / 2**20
