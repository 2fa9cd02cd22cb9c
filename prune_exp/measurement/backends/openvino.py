"""OpenVINO on the processor."""

from pathlib import Path
from typing import Any

from prune_exp.measurement.backends.graph import export_graph, hush_exporters
from prune_exp.measurement.backends.greedy import make_greedy
from prune_exp.measurement.backends.protocol import (
    Load,
    LoadedModel,
    ServeSpec,
    read_footprint,
    write_footprint,
)
from prune_exp.measurement.footprint import Footprint, footprint_of

FILE = "model.xml"
PRECISION = {"float32": "f32", "bfloat16": "bf16"}


def export(checkpoint: Path, folder: Path, dtype: str) -> None:
    """Writes model.xml and model.bin, converted from torch without a detour."""
    import openvino

    model, program = export_graph(checkpoint, dtype)
    with hush_exporters():
        made = openvino.convert_model(program)
    openvino.save_model(made, folder / FILE, compress_to_fp16=False)
    write_footprint(footprint_of(model), folder)


def start(_serving: ServeSpec) -> Load:
    """Imports the runtime."""
    import openvino

    openvino.Core()
    return load


def load(serving: ServeSpec) -> LoadedModel:
    """A compiled model that computes in the asked type, quantizing nothing by itself."""
    import openvino

    precision = PRECISION[serving.dtype]
    compiled = openvino.Core().compile_model(
        str(Path(serving.folder) / FILE),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": precision,
            "KV_CACHE_PRECISION": precision,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
            "INFERENCE_NUM_THREADS": serving.threads,
            "ENABLE_HYPER_THREADING": True,
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    footprint = read_footprint(serving.folder)
    generate = make_greedy(_step(compiled), _empty(footprint, serving.dtype), _size)
    return LoadedModel(generate=generate, footprint=footprint)


def _step(compiled: Any) -> Any:
    """Two requests in turns: one reads the keys and values that the other has written."""
    import openvino

    turns = [compiled.create_infer_request(), compiled.create_infer_request()]
    outputs = range(len(compiled.outputs))

    def step(ids: Any, past: list[Any]) -> tuple[Any, list[Any]]:
        request = turns[0]
        turns.reverse()
        for index, value in enumerate([openvino.Tensor(ids), *past]):
            request.set_input_tensor(index, value)
        request.infer()
        logits, *longer = [request.get_output_tensor(index) for index in outputs]
        return logits.data, longer

    return step


def _empty(footprint: Footprint, dtype: str) -> Any:
    def empty(batch: int) -> list[Any]:
        import openvino

        kind = {"float32": openvino.Type.f32, "bfloat16": openvino.Type.bf16}[dtype]
        shape = openvino.Shape([batch, footprint.kv_heads, 0, footprint.head_dim])
        return [openvino.Tensor(kind, shape) for _ in range(2 * len(footprint.windows))]

    return empty


def _size(past: list[Any]) -> int:
    return sum(one.get_byte_size() for one in past)
