"""What goes wrong at a named point of the code, for real: kills, full disks, numbers that are none.

A fault is armed in a process, and holds in what that process forks.
"""

import functools
import importlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DEEDS = ("self", "driver", "child", "server", "fill", "nan", "interrupt")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong, once."""

    where: str
    """Function or method, as `package.module:Class.method`."""
    deed: str
    """Who is killed by SIGKILL: the process itself, its driver, its youngest child, a server. Or
    `fill` for a disk that is full from then on, `nan` for an answer that is no number,
    `interrupt` for Ctrl-C."""
    after: bool = False
    """Whether the function runs first."""
    call: int = 1
    """At which of its calls, over all processes."""
    notes: str = ""
    """A folder in which calls are counted."""
    target: int | str = 0
    """The server's process, or the folder on the disk that is filled."""

    def to_json(self) -> dict[str, Any]:
        """What travels to another process."""
        return asdict(self)

    @property
    def happened(self) -> bool:
        """Whether it went wrong, in any process."""
        return (Path(self.notes) / "happened").exists()


def arm_fault(fault: Fault) -> None:
    """Has the function go wrong wherever this package has it by name."""
    module, _, dotted = fault.where.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, name = dotted.split(".")
    for one in classes:
        owner = getattr(owner, one)
    original = getattr(owner, name)
    faulty = _make_faulty(original, fault)
    setattr(owner, name, faulty)
    for other in list(sys.modules.values()):
        if getattr(other, "__name__", "").startswith("prune_exp"):
            for key, value in list(vars(other).items()):
                if value is original:
                    setattr(other, key, faulty)
                if isinstance(value, dict):
                    value |= {name: faulty for name, one in value.items() if one is original}


def _make_faulty(function: Callable[..., Any], fault: Fault) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        due = _is_due(fault)
        if due and not fault.after and fault.deed != "nan":
            _go_wrong(fault, args)
        answer = function(*args, **kwargs)
        if due and fault.deed == "nan":
            return _without_numbers(answer)
        if due and fault.after:
            _go_wrong(fault, args)
        return answer

    return call


def _is_due(fault: Fault) -> bool:
    """Counts a call; whether it is the one."""
    with (Path(fault.notes) / "calls").open("a") as stream:
        stream.write(".")
        stream.flush()
        count = stream.tell()
    if count != fault.call:
        return False
    (Path(fault.notes) / "happened").touch()
    return True


def _go_wrong(fault: Fault, args: tuple[Any, ...]) -> None:
    if fault.deed == "self":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.deed == "driver":
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
    elif fault.deed == "child":
        args[0]._process.kill()  # a worker's other side
    elif fault.deed == "server":
        os.kill(int(fault.target), signal.SIGKILL)
    elif fault.deed == "interrupt":
        raise KeyboardInterrupt
    else:
        fill_disk(Path(str(fault.target)))


def fill_disk(folder: Path) -> None:
    """Leaves no byte free on the disk of a folder; `filler` there is what fills it."""
    with (folder / "filler").open("ab", buffering=0) as stream:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    stream.write(b"\0" * size)
            except OSError:
                continue


def _without_numbers(answer: Any) -> Any:
    """The same with NaN for every number."""
    import torch

    if isinstance(answer, float):
        return float("nan")
    if isinstance(answer, torch.Tensor) and answer.is_floating_point():
        return torch.full_like(answer, float("nan"))
    if isinstance(answer, dict):
        return {key: _without_numbers(one) for key, one in answer.items()}
    if isinstance(answer, tuple | list):
        return type(answer)(_without_numbers(one) for one in answer)
    return answer
