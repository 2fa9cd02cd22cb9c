"""A checkpoint as a folder with a graph: ONNX or OpenVINO, its tokenizer and configs beside it.

Inputs and outputs are called as Hugging Face's own exports call them: `input_ids`,
`attention_mask`, `position_ids` and `past_key_values.0.key`; `logits` and `present.0.key`.
Sliding windows are part of the graph.
"""

import shutil
from pathlib import Path
from typing import Any

from prune_exp.measurement.backends.graph import cache_of, hush_exporters
from prune_exp.model.shape import heads_of

FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3"),
    *("gpt2", "opt", "gpt_neox"),
)
"""Model types whose graphs are tested against the model itself."""
ONNX_FILE = "model.onnx"
OPENVINO_FILE = "openvino_model.xml"
CACHES_FROM = 3
"""How many inputs there are before the keys and values."""
WEIGHTS = "*.safetensors*"
"""What of a checkpoint the graph holds itself."""


def write_onnx(checkpoint: Path, folder: Path) -> None:
    """Writes model.onnx, its weights, and all of the checkpoint but its weights."""
    import torch

    model, program = export_program(checkpoint)
    inputs, outputs = name_ports(model.config.num_hidden_layers)
    with hush_exporters():
        made = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=inputs, output_names=outputs
        )
    assert made is not None
    copy_beside(checkpoint, folder)
    made.save(str(folder / ONNX_FILE), external_data=True)


def write_openvino(checkpoint: Path, folder: Path) -> None:
    """Writes openvino_model.xml and .bin, and all of the checkpoint but its weights."""
    import openvino

    model, program = export_program(checkpoint)
    with hush_exporters():
        converted = openvino.convert_model(program)
    for ports, names in zip(
        (converted.inputs, converted.outputs),
        name_ports(model.config.num_hidden_layers),
        strict=True,
    ):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    heads = heads_of(model.config)
    for port in converted.inputs[CACHES_FROM:]:
        shape = openvino.PartialShape([-1, heads.groups, -1, heads.dim])
        port.get_node().set_partial_shape(shape)
    converted.validate_nodes_and_infer_types()
    copy_beside(checkpoint, folder)
    openvino.save_model(converted, folder / OPENVINO_FILE, compress_to_fp16=False)


def copy_beside(checkpoint: Path, folder: Path) -> None:
    """Fills a folder with all files of a checkpoint but its weights."""
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns(WEIGHTS), dirs_exist_ok=True)


def name_ports(layers: int) -> tuple[list[str], list[str]]:
    """Names of a graph's inputs and of its outputs, in order."""
    parts = [f"{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]
    inputs = ["input_ids", "attention_mask", "position_ids"]
    inputs += [f"past_key_values.{part}" for part in parts]
    return inputs, ["logits", *(f"present.{part}" for part in parts)]


def export_program(checkpoint: Path) -> tuple[Any, Any]:
    """The model in float32, and its `torch.export` program."""
    import torch

    from prune_exp.model.loading import load_model

    model = load_model(checkpoint)
    heads = heads_of(model.config)
    past = [
        torch.zeros(2, heads.groups, 4, heads.dim)
        for _ in range(2 * model.config.num_hidden_layers)
    ]
    ids = torch.ones(2, 3, dtype=torch.long)
    seen = torch.ones(2, 7, dtype=torch.long)
    places = torch.arange(4, 7).expand(2, -1)
    free = torch.export.Dim.DYNAMIC
    token_dims = {0: free, 1: free}
    shapes = (token_dims, token_dims, token_dims, [{0: free, 2: free}] * len(past))
    with torch.no_grad(), hush_exporters():
        return model, torch.export.export(
            _make_module(model), (ids, seen, places, past), dynamic_shapes=shapes
        )


def _make_module(model: Any) -> Any:
    import torch

    class WithPast(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self, ids: Any, attended: Any, places: Any, past: list[Any]
        ) -> tuple[Any, list[Any]]:
            out = self.model(
                input_ids=ids,
                attention_mask=masks_of(model.config, attended, ids.shape[1], past[0].shape[2]),
                position_ids=places,
                past_key_values=cache_of(past),
                use_cache=True,
            )
            layers = out.past_key_values.layers
            joined = [one for layer in layers for one in (layer.keys, layer.values)]
            return out.logits.float(), joined

    return WithPast()


def masks_of(config: Any, attended: Any, new: int, before: int) -> Any:
    """What the new tokens see [batch, 1, new, before + new], by kind of layer where there are any.

    Every token sees itself, the padding too, so that no row of the attention is empty.
    """
    import torch

    key = torch.arange(before + new)[None]
    query = (torch.arange(new) + before)[:, None]
    whole = (key <= query) & (attended[:, None, :].bool() | (key == query))
    window = getattr(config, "sliding_window", None)
    near = whole if window is None else whole & (key > query - window)
    if getattr(config, "layer_types", None):
        return {"full_attention": whole[:, None], "sliding_attention": near[:, None]}
    return near[:, None]
