"""A command one of whose processes is killed, for real."""

import os
import subprocess
import sys
import time
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


def _environment(folder: Path, where: str, whom: str) -> dict[str, str]:
    (folder / "killer").mkdir(exist_ok=True)
    (folder / "killer" / "sitecustomize.py").write_text(KILLER, encoding="utf-8")
    path = os.pathsep.join([str(folder / "killer"), os.environ.get("PYTHONPATH", "")])
    return os.environ | {
        "PYTHONPATH": path,
        "KILL_AT": where,
        "KILL_WHOM": whom,
        "KILL_FLAG": str(folder / "killed"),
    }


def kill_driver(arguments: list[str], folder: Path, where: str) -> int:
    """Kills the command's own process while one of its trials is at a function, and stays there.

    Returns the trial's process.
    """
    driver = subprocess.Popen(
        [sys.executable, "-m", "prune_exp", *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        env=_environment(folder, where, "pause"),
    )
    flag = folder / "killed"
    while not (flag.exists() and flag.read_text()):  # the test's own limit ends this
        assert driver.poll() is None
        time.sleep(0.1)
    driver.kill()
    driver.wait()
    return int(flag.read_text())


def start(arguments: list[str], folder: Path, where: str, whom: str) -> tuple[int, str]:
    """Runs the command; the first call of a function kills a process, by SIGKILL, once.

    `whom` is self or driver, with `after` when the function is to run first, or `raise` for an
    error of MLflow's in place of the kill.
    """
    process = command(*arguments, cwd=folder, env=_environment(folder, where, whom))
    assert (folder / "killed").exists(), "nothing was killed"
    return process.returncode, process.stderr
