"""A function in a process of its own: when that is killed, the caller lives on and can say so."""

import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

T = TypeVar("T")


class TrialDied(RuntimeError):
    """The process ended without an answer."""


def run_isolated(function: Callable[..., T], *args: Any) -> T:
    """Calls `function(*args)` in a fresh process and returns what it returns.

    Raises:
        TrialDied: the process was killed or ended early.
        Exception: whatever the function raised, its traceback in a note.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(function, args, theirs, os.getpid()))
    process.start()
    theirs.close()
    try:
        succeeded, value = ours.recv()
    except EOFError:
        process.join()
        raise TrialDied(_epitaph(process.exitcode)) from None
    finally:
        if process.is_alive():
            process.join(5)
            process.kill()
        process.join()
    if not succeeded:
        raise value
    return value


def _child(function: Callable[..., Any], args: Any, answers: Connection, parent: int) -> None:
    _die_with_parent(parent)
    try:
        answer = (True, function(*args))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        answer = (False, _portable(error))
    answers.send(answer)


def _portable(error: Exception) -> Exception:
    """The error with its traceback as a note, as a kind that can travel."""
    note = traceback.format_exc()
    try:
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.__notes__ = [note]
    return copy


def _die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent is gone (Linux)."""
    import ctypes

    pr_set_pdeathsig = 1
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _epitaph(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        why = "; running out of memory is the usual cause" if name == "SIGKILL" else ""
        return f"the trial's process was killed by {name}{why}"
    return f"the trial's process ended early with code {code}"
