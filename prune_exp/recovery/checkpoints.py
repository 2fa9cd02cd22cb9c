"""Training state on disk: whole or not at all, and nothing that needs unpickling."""

import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps of every parameter."""

OLD_S = 14 * 24 * 3600
"""A state that nobody went on with for so long is dropped."""

Tensors = dict[str, torch.Tensor]


def copy_of(weights: dict[str, Any]) -> Tensors:
    """A copy of the present weights."""
    return {name: value.detach().clone().contiguous() for name, value in weights.items()}


def copy_into(weights: dict[str, Any], source: Tensors) -> None:
    """Writes a copy back."""
    for name, value in weights.items():
        value.data.copy_(source[name])


def save_state(
    folder: Path, facts: dict[str, Any], weights: dict[str, Any], best: Tensors, optimizer: Any
) -> None:
    """Keeps a state in `folder`/step-N, then drops the one before it.

    A kill in the middle leaves the earlier state and a scratch folder that the next save removes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    older = list(folder.iterdir())
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    save_file(copy_of(weights), partial / "weights.safetensors")
    if facts["best_step"] != facts["step"]:
        save_file(best, partial / "best.safetensors")
    moments = {
        f"{name}/{key}": optimizer.state[value][key].contiguous()
        for name, value in weights.items()
        for key in MOMENTS
    }
    save_file(moments, partial / "optimizer.safetensors")
    (partial / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    os.replace(partial, folder / f"step-{facts['step']:08d}")
    for one in older:
        shutil.rmtree(one, ignore_errors=True)


def discard_state(folder: Path) -> None:
    """Forgets a training whose model is kept elsewhere, unless another trial is at it now.

    What cannot be removed stays until it is old: no trial fails for that.
    """
    with suppress(OSError, Timeout), FileLock(f"{folder}.lock", timeout=0):
        shutil.rmtree(folder, ignore_errors=True)


def drop_old_states(parent: Path) -> None:
    """Removes states below `parent` that were left long ago, and that nobody trains on now."""
    for folder in [*parent.iterdir()]:
        with suppress(FileNotFoundError, NotADirectoryError, Timeout):  # others come and go
            states = [*folder.glob("step-*")]
            if states and all(_is_old(state) for state in states):
                with FileLock(f"{folder}.lock", timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)


def _is_old(state: Path) -> bool:
    return time.time() - state.stat().st_mtime >= OLD_S


def load_state(
    folder: Path, weights: dict[str, Any], optimizer: Any
) -> tuple[dict[str, Any], Tensors] | None:
    """Puts the last whole state back; returns its facts and best weights, None without one."""
    states = sorted(folder.glob("step-*"))
    if not states:
        return None
    facts = json.loads((states[-1] / "facts.json").read_text(encoding="utf-8"))
    copy_into(weights, load_file(states[-1] / "weights.safetensors"))
    moments = load_file(states[-1] / "optimizer.safetensors")
    for name, value in weights.items():
        kept = {key: moments[f"{name}/{key}"].to(value.device) for key in MOMENTS}
        optimizer.state[value] = kept
    kept = states[-1] / "best.safetensors"
    return facts, load_file(kept) if kept.is_file() else copy_of(weights)
