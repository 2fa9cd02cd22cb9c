"""What a model can be shipped as: plain functions by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from prune_exp.settings.choices import describe_unknown
from prune_exp.settings.command_schemas import ShipSettings
from prune_exp.settings.errors import SettingError
from prune_exp.shipping import graph
from prune_exp.shipping.hub import CHECKPOINT, HUB, repository_of

Write = Callable[[Path, Path, str], None]
"""Makes a file or folder of a checkpoint; the last is the model's name."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One kind of file or folder."""

    write: Write
    check: Callable[[Path], None]
    """Raises SettingError where the checkpoint cannot be written so."""
    runtime: str
    """Which of `RUNTIMES` opens it."""
    limit: Callable[[ShipSettings], float]
    """Most divergence from the checkpoint."""
    ending: str = ""
    """Of a file; a folder is made where there is none."""
    modules: tuple[str, ...] = ()
    """What must be importable."""
    extra: str = ""
    """The extra of this package that installs them."""
    describe: Callable[[Path], str | None] = lambda _path: None
    """What else there is to say of a written file."""


def _write_hf(checkpoint: Path, target: Path, _name: str) -> None:
    import shutil

    shutil.copytree(checkpoint, target)


def _write_onnx(checkpoint: Path, target: Path, _name: str) -> None:
    target.mkdir()
    graph.write_onnx(checkpoint, target)


def _write_openvino(checkpoint: Path, target: Path, _name: str) -> None:
    target.mkdir()
    graph.write_openvino(checkpoint, target)


def _write_gguf(kind: str) -> Write:
    def write(checkpoint: Path, target: Path, name: str) -> None:
        from prune_exp.shipping.gguf_file import write_gguf

        write_gguf(checkpoint, target, kind, name)

    return write


def _check_gguf(checkpoint: Path) -> None:
    from prune_exp.shipping.gguf_file import check_gguf

    try:
        check_gguf(checkpoint)
    except SettingError as error:
        raise SettingError(f"{error}; use to=[hf,onnx,openvino]") from None


def _describe_gguf(path: Path) -> str:
    from prune_exp.shipping.gguf_file import describe_types

    return describe_types(path)


def _gguf_target(
    kind: str, limit: Callable[[ShipSettings], float], *modules: str
) -> dict[str, Target]:
    return {
        f"gguf:{kind}": Target(
            write=_write_gguf(kind),
            check=_check_gguf,
            runtime="llama.cpp",
            limit=limit,
            ending=".gguf",
            modules=("xllamacpp", *modules),
            extra="ship",
            describe=_describe_gguf,
        )
    }


def _check_graph(checkpoint: Path) -> None:
    from prune_exp.model import loading

    kind = loading.read_model_config(checkpoint)["model_type"]
    if kind not in graph.FAMILIES:
        raise SettingError(
            f"to=onnx and to=openvino cannot write {kind}; they write {', '.join(graph.FAMILIES)};"
            " use to=[hf]"
        )


def _accept(_checkpoint: Path) -> None:
    """Any checkpoint will do."""


TARGETS: dict[str, Target] = {
    "hf": Target(
        write=_write_hf,
        check=_accept,
        runtime="transformers",
        limit=lambda settings: settings.max_kl,
    ),
    "onnx": Target(
        write=_write_onnx,
        check=_check_graph,
        runtime="onnxruntime",
        limit=lambda settings: settings.max_kl,
        modules=("onnxruntime", "onnx", "onnxscript"),
        extra="onnx",
    ),
    "openvino": Target(
        write=_write_openvino,
        check=_check_graph,
        runtime="openvino",
        limit=lambda settings: settings.max_kl,
        modules=("openvino",),
        extra="openvino",
    ),
    **_gguf_target("f32", lambda settings: settings.max_kl),
    **_gguf_target("bf16", lambda settings: settings.max_kl_16_bit),
    **_gguf_target("q8_0", lambda settings: settings.max_kl_8_bit),
    **_gguf_target("q4_k_m", lambda settings: settings.max_kl_4_bit, "libgguf"),
}


def choose_repositories(settings: ShipSettings) -> list[str]:
    """The repositories of the hub that are asked for.

    Raises:
        SettingError: a name is none.
    """
    return list(dict.fromkeys(repository_of(one) for one in settings.to if one.startswith(HUB)))


def choose_targets(names: Sequence[str]) -> dict[str, Target]:
    """The targets that are asked for, by name, each once; the hub is given the checkpoint too.

    Raises:
        SettingError: none or an unknown one is asked for, or a runtime is not installed.
    """
    known = (*TARGETS, f"{HUB}USER/NAME")
    if not names:
        raise SettingError(f"to is empty; give one or more of {', '.join(known)}")
    found: dict[str, Target] = {}
    for name in names:
        own = CHECKPOINT if name.startswith(HUB) else name
        if own not in TARGETS:
            raise SettingError(describe_unknown("to", name, known))
        found[own] = TARGETS[own]
    for name, target in found.items():
        missing = [module for module in target.modules if find_spec(module) is None]
        if missing:
            raise SettingError(
                f"{name} needs {', '.join(missing)}; type pip install 'prune-exp[{target.extra}]'"
            )
    return found


def file_name(name: str, target: Target, model: str) -> str:
    """What a target's file or folder is called in the output."""
    return f"{model}-{name.rpartition(':')[2]}{target.ending}" if target.ending else name
