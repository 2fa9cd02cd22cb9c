"""What MLflow keeps beside a stored checkpoint, and whether any of it could run or be installed.

MLflow imports the module that `MLmodel` names, puts the folder that it names as code on Python's
path, and installs what the requirements say.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from prune_exp.machine.cache import folder_sha256
from prune_exp.model.loading import foreign_parts

CHECKPOINT = "model"
LOADER = "mlflow.transformers"
REQUIRED = ("torch", "transformers", "tokenizers", "safetensors", "accelerate")
"""What loading a stored model needs."""
INSTALLED = {"mlflow", *REQUIRED}
KNOWN_FILES = {
    "MLmodel",
    "LICENSE.txt",
    "components",
    "conda.yaml",
    "input_example.json",
    CHECKPOINT,
    "model_card.md",
    "model_card_data.yaml",
    "python_env.yaml",
    "requirements.txt",
    "serving_input_example.json",
}
PYFUNC_KEYS = {"code", "config", "env", "loader_module", "python_version"}
SERVED = {"max_new_tokens": 32, "do_sample": False}
"""What a model is told that is served as a chat or for completions."""
PINNED = re.compile(r"([\w-]+)==[\w.!]+")
ENVIRONMENT = ["-r requirements.txt"]


def wrapper_sha256(root: Path) -> str:
    """One digest over the names and the bytes of all files of a stored model but its checkpoint."""
    return folder_sha256(root, without=CHECKPOINT)


def foreign_wrapper(root: Path) -> list[str]:
    """What no model of ours has beside its checkpoint: other files, code, a loader, a package."""
    names = sorted(path.name for path in root.iterdir())
    found = [name for name in names if name not in KNOWN_FILES or (root / name).is_symlink()]
    if "components" in names:
        found += [f"components/{name}" for name in foreign_parts(root / "components")]
    found += [f"MLmodel ({fault})" for fault in _list_faults(_read_yaml(root / "MLmodel"))]
    found += [f"requirements ({line})" for line in _requirements_of(root) if not _is_pinned(line)]
    return found


def _list_faults(facts: dict[str, Any]) -> Iterator[str]:
    """What in an `MLmodel` is not as MLflow writes it for a stock checkpoint."""
    flavors = facts.get("flavors")
    if not isinstance(flavors, dict) or set(flavors) != {"python_function", "transformers"}:
        yield "flavors"
        return
    pyfunc, stock = (flavors[name] or {} for name in ("python_function", "transformers"))
    if pyfunc.get("loader_module") != LOADER:
        yield "loader_module"
    if stock.get("model_binary") != CHECKPOINT:
        yield "model_binary"
    config = pyfunc.get("config") or {}
    if not (isinstance(config, dict) and config.items() <= SERVED.items()):
        yield "config"
    for part in (facts, pyfunc, stock):
        yield from sorted(key for key in part if "code" in key and part[key])
    yield from sorted(set(pyfunc) - PYFUNC_KEYS)


def _requirements_of(root: Path) -> list[str]:
    """All lines that pip would be given; what should be a list of lines and is none is a line."""
    file = root / "requirements.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    conda = _read_yaml(root / "conda.yaml").get("dependencies") or []
    for one in conda if isinstance(conda, list) else [conda]:
        if isinstance(one, dict):
            lines += map(str, one.get("pip") or [])
        elif not re.fullmatch(r"(python|pip)[<>=]+[\d.]+|pip", str(one)):
            lines.append(str(one))
    listed = _read_yaml(root / "python_env.yaml").get("dependencies", ENVIRONMENT)
    return lines if listed == ENVIRONMENT else [*lines, str(listed)]


def _is_pinned(line: str) -> bool:
    found = PINNED.fullmatch(line.strip())
    return found is not None and found[1] in INSTALLED


def _read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file; an empty one where the file is none."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
