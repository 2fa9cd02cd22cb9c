"""ONNX Runtime on the processor, in float32."""

from pathlib import Path
from typing import Any

from prune_exp.measurement.backends.graph import export_graph, hush_exporters, names_of
from prune_exp.measurement.backends.greedy import make_greedy
from prune_exp.measurement.backends.protocol import (
    Load,
    LoadedModel,
    ServeSpec,
    read_footprint,
    write_footprint,
)
from prune_exp.measurement.footprint import Footprint, footprint_of

FILE = "model.onnx"


def export(checkpoint: Path, folder: Path, dtype: str) -> None:
    """Writes model.onnx with its weights beside it."""
    import torch

    model, program = export_graph(checkpoint, dtype)
    names = names_of(model.config.num_hidden_layers)
    with hush_exporters():
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["ids", *(f"past_{name}" for name in names)],
            output_names=["logits", *(f"next_{name}" for name in names)],
        )
    assert made is not None
    made.save(str(folder / FILE), external_data=True)
    write_footprint(footprint_of(model), folder)


def start(_serving: ServeSpec) -> Load:
    """Imports the runtime."""
    import onnxruntime  # noqa: F401

    return load


def load(serving: ServeSpec) -> LoadedModel:
    """A session on the asked number of threads, which sleep while the other model has its turn."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = serving.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        str(Path(serving.folder) / FILE), options, providers=["CPUExecutionProvider"]
    )
    footprint = read_footprint(serving.folder)
    return LoadedModel(
        generate=make_greedy(_step(session), _empty(footprint), _size), footprint=footprint
    )


def _step(session: Any) -> Any:
    """Keys and values stay the runtime's own; only ids and logits are copied."""
    from onnxruntime import OrtValue

    inputs = [one.name for one in session.get_inputs()]
    outputs = [one.name for one in session.get_outputs()]

    def step(ids: Any, past: list[Any]) -> tuple[Any, list[Any]]:
        values = [OrtValue.ortvalue_from_numpy(ids), *past]
        logits, *longer = session.run_with_ort_values(
            outputs, dict(zip(inputs, values, strict=True))
        )
        return logits.numpy(), longer

    return step


def _empty(footprint: Footprint) -> Any:
    def empty(batch: int) -> list[Any]:
        import numpy as np
        from onnxruntime import OrtValue

        none = np.zeros((batch, footprint.kv_heads, 0, footprint.head_dim), dtype=np.float32)
        return [OrtValue.ortvalue_from_numpy(none) for _ in range(2 * len(footprint.windows))]

    return empty


def _size(past: list[Any]) -> int:
    return sum(one.numpy().nbytes for one in past)
