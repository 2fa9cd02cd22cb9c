"""A command one of whose processes is killed, for real."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.cli import command

KILLER = """
import importlib.abc, importlib.machinery, os, signal, sys
WHERE, WHOM, FLAG = (os.environ[name] for name in ("KILL_AT", "KILL_WHOM", "KILL_FLAG"))
MODULE, NAME = WHERE.split(":")

def deadly(function):
    def call(*args, **kwargs):
        after = WHOM.endswith("after")
        answer = function(*args, **kwargs) if after else None
        try:
            flag = os.open(FLAG, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return answer if after else function(*args, **kwargs)
        os.write(flag, str(os.getpid()).encode())
        os.close(flag)
        if WHOM == "pause":
            signal.pause()
        if WHOM == "raise":
            from mlflow.exceptions import MlflowException
            raise MlflowException("the store had a hiccup")
        os.kill(os.getppid() if WHOM.startswith("driver") else os.getpid(), signal.SIGKILL)
        signal.pause()
    return call

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            setattr(module, NAME, deadly(getattr(module, NAME)))
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


def fatal_environment(folder: Path, where: str, whom: str) -> dict[str, str]:
    """Variables with which Python kills somebody at a function, as `start` says; once."""
    (folder / "killer").mkdir(exist_ok=True)
    (folder / "killer" / "sitecustomize.py").write_text(KILLER, encoding="utf-8")
    path = os.pathsep.join([str(folder / "killer"), os.environ.get("PYTHONPATH", "")])
    return {
        "PYTHONPATH": path,
        "KILL_AT": where,
        "KILL_WHOM": whom,
        "KILL_FLAG": str(folder / "killed"),
    }


@contextmanager
def pause_command(arguments: list[str], folder: Path, where: str) -> Iterator[int]:
    """A command one of whose processes, which is given, has stopped at a function for good.

    The command's own process is killed in the end.
    """
    driver = subprocess.Popen(
        [sys.executable, "-m", "prune_exp", *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        env=os.environ | fatal_environment(folder, where, "pause"),
    )
    try:
        flag = folder / "killed"
        while not (flag.exists() and flag.read_text()):  # the test's own limit ends this
            assert driver.poll() is None
            time.sleep(0.1)
        yield int(flag.read_text())
    finally:
        driver.kill()
        driver.wait()


def start(arguments: list[str], folder: Path, where: str, whom: str) -> tuple[int, str]:
    """Runs the command; the first call of a function kills a process, by SIGKILL, once.

    `whom` is self or driver, with `after` when the function is to run first, or `raise` for an
    error of MLflow's in place of the kill.
    """
    process = command(*arguments, cwd=folder, env=fatal_environment(folder, where, whom))
    assert (folder / "killed").exists(), "nothing was killed"
    return process.returncode, process.stderr
