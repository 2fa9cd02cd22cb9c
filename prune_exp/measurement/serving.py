"""From settings to what each measured process is told; refuses what this machine cannot serve."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prune_exp.machine.cache import cached_folder, digest_of, file_sha256
from prune_exp.machine.device import computes_bfloat16
from prune_exp.machine.packages import installed_version
from prune_exp.measurement.backends import BACKENDS, Backend
from prune_exp.measurement.backends.protocol import ServeSpec
from prune_exp.measurement.footprint import windows_of
from prune_exp.model.loading import load_skeleton
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import BenchmarkSettings

COMPILERS = ("g++", "clang++", "c++")
EXPORTERS = ("torch", "transformers")
"""Packages besides a backend's own that an export depends on."""


def choose_dtype(settings: BenchmarkSettings, device: str) -> str:
    """The type that `auto` stands for here."""
    wanted = settings.runtime.dtype
    if wanted != "auto":
        return wanted
    able = "bfloat16" in BACKENDS[settings.backend].dtypes and computes_bfloat16(device)
    return "bfloat16" if able else "float32"


def check_serving(settings: BenchmarkSettings, config: Any, tokens: int, device: str) -> None:
    """Raises SettingError for what this machine or the backend cannot serve of a model.

    `config` is the dense model's, `tokens` the length of the longest sequence it is asked for.
    """
    if not settings.enabled:
        return
    runtime = settings.runtime
    backend = BACKENDS[settings.backend]
    if runtime.compile and not any(map(shutil.which, COMPILERS)):
        raise SettingError(
            f"benchmark.runtime.compile=true needs a C++ compiler ({', '.join(COMPILERS)}) and none"
            " is on the PATH; install one or type benchmark.runtime.compile=false"
        )
    if runtime.compile and any(windows_of(config)):
        raise SettingError(
            "benchmark.runtime.compile=true does not serve models whose layers see only the last"
            " tokens (sliding windows): their step would be compiled anew for every token; type"
            " benchmark.runtime.compile=false"
        )
    if device != "cpu" and backend.export is not None:
        raise SettingError(
            f"benchmark.backend={settings.backend} serves on the processor; use device=cpu or"
            " benchmark.backend=transformers"
        )
    missing = [name for name in backend.modules if find_spec(name) is None]
    if missing:
        raise SettingError(
            f"benchmark.backend={settings.backend} needs {', '.join(missing)}; type pip install"
            f" 'prune-exp[{backend.extra}]', or benchmark.backend=transformers"
        )
    if runtime.dtype == "bfloat16":
        _check_bfloat16(settings.backend, backend, device)
    if backend.export is not None:
        _check_export(settings.backend, backend, config, tokens)


def _check_bfloat16(name: str, backend: Backend, device: str) -> None:
    if "bfloat16" not in backend.dtypes:
        raise SettingError(
            f"benchmark.backend={name} does not serve benchmark.runtime.dtype=bfloat16; use"
            f" {' or '.join(backend.dtypes)}"
        )
    if not computes_bfloat16(device):
        raise SettingError(
            "benchmark.runtime.dtype=bfloat16 needs a device that computes in it (processors:"
            f" avx512_bf16 or amx_bf16) and {device} does not; use float32 or auto"
        )


def _check_export(name: str, backend: Backend, config: Any, tokens: int) -> None:
    if config.model_type not in backend.families:
        raise SettingError(
            f"benchmark.backend={name} cannot serve {config.model_type}; it serves"
            f" {', '.join(backend.families)}; use benchmark.backend=transformers"
        )
    windows = [window for window in windows_of(config) if window]
    if windows and min(windows) < tokens:
        raise SettingError(
            f"benchmark.backend={name} lets every layer attend to the whole text, this model only"
            f" to {min(windows)} of up to {tokens} tokens; ask for fewer or use"
            " benchmark.backend=transformers"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    if name == "llama_cpp" and rope.get("rope_type", "default") != "default":
        raise SettingError(
            f"benchmark.backend=llama_cpp cannot serve positions of type {rope['rope_type']}; use"
            " benchmark.backend=transformers"
        )


def longest_request(prompts: list[list[int]], settings: BenchmarkSettings) -> int:
    """Tokens of the longest sequence that will be asked for, the new ones included."""
    lengths = [*map(len, prompts), *(size or 0 for _, size in settings.batches.values())]
    return max(lengths) + settings.new_tokens


@contextmanager
def serve_both(
    checkpoints: Mapping[str, Path],
    prompts: Mapping[str, list[list[int]]],
    settings: BenchmarkSettings,
    threads: int,
    kept: Mapping[str, Path],
    device: str,
) -> Iterator[dict[str, ServeSpec]]:
    """How each side's checkpoint is served, exported first where its backend wants that.

    An export is made under the folder that `kept` names for its side and stays there, so that it
    is made once; of other sides it is gone in the end.

    Raises:
        SettingError: a prompt is longer than the export could tell right.
    """
    dtype = choose_dtype(settings, device)
    with tempfile.TemporaryDirectory(prefix="prune_exp-served-") as scratch:
        specs = {}
        for side, checkpoint in checkpoints.items():
            longest = longest_request(prompts[side], settings)
            parent = kept.get(side, Path(scratch))
            specs[side] = ServeSpec(
                folder=str(_export_once(checkpoint, parent, settings, dtype, longest)),
                backend=settings.backend,
                dtype=dtype,
                cache=settings.runtime.cache,
                compile=settings.runtime.compile,
                device=device,
                threads=threads,
                sequences=max(1, *(size for size, _ in settings.batches.values())),
                cache_tokens=longest,
            )
        yield specs


def _export_once(
    checkpoint: Path, parent: Path, settings: BenchmarkSettings, dtype: str, longest: int
) -> Path:
    """What is served of a checkpoint: itself, or an export in a folder below `parent`."""
    backend = BACKENDS[settings.backend]
    export = backend.export
    if export is None:
        return checkpoint
    _check_export(settings.backend, backend, load_skeleton(checkpoint).config, longest)
    target = parent / export_name(checkpoint, settings, dtype)
    return cached_folder(target, lambda folder: export(checkpoint, folder, dtype))


def export_name(checkpoint: Path, settings: BenchmarkSettings, dtype: str) -> str:
    """Name of an export, by everything that it depends on."""
    backend = BACKENDS[settings.backend]
    versions = [installed_version(one) for one in (*EXPORTERS, *backend.packages, "prune-exp")]
    files = [checkpoint / "config.json", *sorted(checkpoint.glob("*.safetensors"))]
    digest = digest_of(dtype, versions, [file_sha256(one) for one in files])
    return f"{settings.backend}-{digest}"
