"""A command one of whose processes is killed, for real."""

import os
import subprocess
import sys
from pathlib import Path

KILLER = """
import importlib.abc, importlib.machinery, os, signal, sys
WHERE, WHOM, FLAG = (os.environ[name] for name in ("KILL_AT", "KILL_WHOM", "KILL_FLAG"))
MODULE, NAME = WHERE.split(":")

def deadly(function):
    def call(*args, **kwargs):
        after = WHOM.endswith("after")
        answer = function(*args, **kwargs) if after else None
        try:
            os.close(os.open(FLAG, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return answer if after else function(*args, **kwargs)
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


def start(arguments: list[str], folder: Path, where: str, whom: str) -> tuple[int, str]:
    """Runs the command; the first call of a function kills a process, by SIGKILL, once.

    `whom` is self or driver, with `after` when the function is to run first, or `raise` for an
    error of MLflow's in place of the kill.
    """
    (folder / "killer").mkdir(exist_ok=True)
    (folder / "killer" / "sitecustomize.py").write_text(KILLER, encoding="utf-8")
    path = os.pathsep.join([str(folder / "killer"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(
        [sys.executable, "-m", "prune_exp", *arguments],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ
        | {
            "PYTHONPATH": path,
            "KILL_AT": where,
            "KILL_WHOM": whom,
            "KILL_FLAG": str(folder / "killed"),
        },
        check=False,
        timeout=300,
    )
    assert (folder / "killed").exists(), "nothing was killed"
    return process.returncode, process.stderr
