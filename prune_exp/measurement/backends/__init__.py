"""What can serve a measured model: plain functions by name.

A backend imports what it needs (`start`), which gives the function that loads what it serves: the
checkpoint itself, or what `export` made of it once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prune_exp.measurement.backends import graph, llamacpp, onnxruntime, openvino, transformers
from prune_exp.measurement.backends.protocol import Start

Export = Callable[[Path, Path, str], None]
"""Fills an empty folder with what is served of a checkpoint, in float32 or bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One way to serve a model."""

    start: Start
    export: Export | None = None
    """None where the checkpoint itself is served."""
    modules: tuple[str, ...] = ()
    """What must be importable."""
    packages: tuple[str, ...] = ()
    """Distributions whose versions are recorded."""
    extra: str = ""
    """The extra of this package that installs them."""
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    families: tuple[str, ...] = ()
    """Model types it can serve; all that can be pruned when empty."""


BACKENDS: dict[str, Backend] = {
    "transformers": Backend(start=transformers.start),
    "onnxruntime": Backend(
        start=onnxruntime.start,
        export=onnxruntime.export,
        modules=("onnxruntime", "onnx", "onnxscript"),
        packages=("onnxruntime", "onnx"),
        extra="onnx",
        dtypes=("float32",),
        families=graph.FAMILIES,
    ),
    "openvino": Backend(
        start=openvino.start,
        export=openvino.export,
        modules=("openvino",),
        packages=("openvino",),
        extra="openvino",
        families=graph.FAMILIES,
    ),
    "llama_cpp": Backend(
        start=llamacpp.start,
        export=llamacpp.export,
        modules=("llama_cpp",),
        packages=("llama-cpp-python", "gguf"),
        extra="gguf",
        families=llamacpp.FAMILIES,
    ),
}
