"""A function in a process of its own: when that is killed, the caller lives on and can say so."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from prune_exp.machine.cache import write_whole
from prune_exp.machine.progress import is_followed, speak_to
from prune_exp.settings.surroundings import count_as_said, list_said

T = TypeVar("T")
GRACE_S = 5


class TrialDied(RuntimeError):
    """The process ended without an answer."""


def run_isolated(
    function: Callable[..., T],
    *args: Any,
    follow: Callable[[Path], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> T:
    """Calls `function(*args)` in a fresh process and returns what it returns.

    While it runs, `follow` may read what it says of its progress in a folder.

    A plain subprocess and not `multiprocessing`, whose start methods depend on who started us.

    Raises:
        TrialDied: the process was killed or ended early.
        Exception: whatever the function raised, its traceback in a note.
    """
    with tempfile.TemporaryDirectory(prefix="prune_exp-") as scratch:
        request = Path(scratch) / "request"
        answer = Path(scratch) / "answer"
        request.write_bytes(pickle.dumps((function, args, list_said())))
        with follow(Path(scratch)):
            code = _run_process(request, answer)
        if not answer.exists():
            raise TrialDied(_describe_exit(code))
        succeeded, value = pickle.loads(answer.read_bytes())  # noqa: S301
    if not succeeded:
        raise value
    return value


def _run_process(request: Path, answer: Path) -> int:
    """Has a process of its own answer a request; returns its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "prune_exp.trial.isolated", request, answer, str(os.getpid())],
        stdin=subprocess.DEVNULL,
    )
    try:
        return process.wait()
    except BaseException:
        _end_process(process)
        raise


def _end_process(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process that Ctrl-C may already have told to end."""
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> None:
    """The other side: `python -m prune_exp.trial.isolated REQUEST ANSWER PARENT`."""
    request = Path(sys.argv[1])
    answer = Path(sys.argv[2])
    parent = int(sys.argv[3])
    _die_with_parent(parent)
    try:
        function, args, said = pickle.loads(request.read_bytes())  # noqa: S301
        count_as_said(said)
        speak_to(request.parent if is_followed(request.parent) else None)
        found = (True, function(*args))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        found = (False, _make_portable(error))
    write_whole(answer, pickle.dumps(found))


def _make_portable(error: Exception) -> Exception:
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


def _describe_exit(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        why = "; running out of memory is the usual cause" if name == "SIGKILL" else ""
        return f"the trial's process was killed by {name}{why}"
    return f"the trial's process ended early with code {code}"


if __name__ == "__main__":
    main()
