"""Our commands in processes that need not import the large packages again.

A server imports what the commands need, but nothing of ours, and forks for each command; a command
forks for the processes that it starts in turn, a trial's and a measured model's. They are real
ones, with process ids, pipes, an environment and an end of their own, and our code is imported anew
in each. A handful of tests start Python itself (`support.cli.command(..., cold=True)`).
"""

import atexit
import inspect
import logging
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, ClassVar

import pytest

OURS = "prune_exp"
PRELOAD = "support.preload"
TESTS = Path(__file__).parents[1]
POPEN: Any = subprocess.Popen
START = inspect.signature(POPEN._execute_child)
"""What starting a process takes, by name."""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([PRELOAD])


@dataclass(frozen=True)
class Started:
    """A command under way, in a session of its own."""

    process: Any
    outputs: list[Path]
    """What it prints, and what it says of errors."""

    def finish(self, timeout: float) -> "subprocess.CompletedProcess[str]":
        """What it has printed in the end, and its exit code.

        Raises:
            TimeoutError: it took longer, and was killed.
        """
        self.process.join(timeout)
        if self.process.exitcode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.join()
            raise TimeoutError(f"it took longer than {timeout} s")
        said = [path.read_text(encoding="utf-8", errors="replace") for path in self.outputs]
        return subprocess.CompletedProcess([], self.process.exitcode or 0, *said)


@contextmanager
def start_module(
    module: str, *args: str, cwd: Path, env: Mapping[str, str] | None = None
) -> Iterator[Started]:
    """Starts `python -m MODULE ARGS` in `cwd`; what it says is kept for the time of the body."""
    _start_server()
    surroundings = dict(os.environ) | dict(env or {})
    with tempfile.TemporaryDirectory() as scratch:
        outputs = [Path(scratch) / name for name in ("stdout", "stderr")]
        place = (str(cwd), surroundings, *map(str, outputs))
        process = CONTEXT.Process(target=_act, args=([module, *args], *place))
        process.start()
        yield Started(process, outputs)


def run_module(
    module: str, *args: str, cwd: Path, timeout: float, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """What `python -m MODULE ARGS` in `cwd` prints, and its exit code."""
    with start_module(module, *args, cwd=cwd, env=env) as started:
        return started.finish(timeout)


@cache
def _start_server() -> None:
    """Starts the server, which finds what it is to import by its environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
        forkserver.ensure_running()


def _act(arguments: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    """A command's side of `start_module`; how it ends is the process's end."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    assert PRELOAD in sys.modules, "the server could not import what it was to"
    for path, target in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, target)
        os.close(file)
    try:
        _become(arguments, env, cwd)
    finally:
        atexit._run_exitfuncs()


def _become(arguments: list[str], env: Mapping[str, str], cwd: str | None) -> None:
    """Goes on as `python -m ARGUMENTS` would, in this process."""
    os.environ.clear()
    os.environ.update(env)
    if cwd is not None:
        os.chdir(cwd)
    subprocess.Popen = ForkingPopen  # pyright: ignore[reportAttributeAccessIssue]
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    logging.root.handlers.clear()
    for name in [one for one in sys.modules if one.partition(".")[0] == OURS]:
        del sys.modules[name]
    _start_as_python_does()
    sys.argv = ["", *arguments[1:]]
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _start_as_python_does() -> None:
    """Puts the present folder and PYTHONPATH on the path, and runs a sitecustomize from there."""
    folders = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
    sys.path[:] = [os.getcwd(), *folders, *(one for one in sys.path if one not in folders)]
    for folder in folders:
        spec = spec_from_file_location("sitecustomize", Path(folder) / "sitecustomize.py")
        if spec is not None and spec.loader is not None and os.path.exists(str(spec.origin)):
            spec.loader.exec_module(module_from_spec(spec))


class ForkingPopen(subprocess.Popen):  # pyright: ignore[reportMissingTypeArgument]
    """Forks for a module of ours; anything else is started as ever."""

    started: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()
    """Those that this process has started; their pipes are not for the next one."""

    def _execute_child(self, *given: Any) -> None:
        asked = START.bind(self, *given).arguments
        arguments = [os.fspath(one) for one in asked["args"]]
        if arguments[:2] != [sys.executable, "-m"] or not arguments[2].startswith(f"{OURS}."):
            POPEN._execute_child(self, *given)
            return
        self.started.add(self)
        self.pid = os.fork()
        if self.pid == 0:
            self._go_on(arguments[2:], asked)
        self._child_created = True
        names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        POPEN._close_pipe_fds(self, *(asked[name] for name in names))

    def _go_on(self, arguments: list[str], asked: dict[str, Any]) -> None:
        """The new process, to its end."""
        code = 1
        try:
            for number, name in enumerate(("p2cread", "c2pwrite", "errwrite")):
                if asked[name] not in (-1, number):
                    os.dup2(asked[name], number)
            nothing = os.open(os.devnull, os.O_RDWR)
            for process in [*self.started]:
                for pipe in (process.stdin, process.stdout, process.stderr):
                    if pipe is None or pipe.closed:
                        continue
                    # not closed: a thread that is not here any more may have it locked
                    os.dup2(nothing, pipe.fileno())
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            env = dict(os.environ) if asked["env"] is None else asked["env"]
            _become(arguments, env | {"TOKENIZERS_PARALLELISM": "false"}, asked["cwd"])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
