"""Commands that start warm: a process that has imported everything forks them.

Each command is a process of its own with its own exit code, and so is each of its trials; only
what they would import, seconds each time, is there already.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.faults import Fault, arm_fault

HEAVY = (
    "mlflow.transformers",
    "mlflow.pyfunc",
    "prune_exp.measurement.benchmark",
    "prune_exp.promote",
    "prune_exp.recovery.recover",
    "prune_exp.registry.promotion",
    "prune_exp.reporting.terminal",
    "prune_exp.reporting.write",
    "prune_exp.search.summary",
    "prune_exp.search.sweep",
    "prune_exp.search.sweeper",
    "prune_exp.trial.app",
    "prune_exp.trial.lifecycle",
    "prune_exp.trial.run",
    "transformers.models.llama.modeling_llama",
)
TESTS = Path(__file__).parents[1]
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True, kw_only=True)
class Done:
    """A command that has ended."""

    code: int
    """Exit code, or the negative signal that killed it."""
    errors: str
    output: str


class Warm:
    """The warm process, from the side that asks for commands."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.warm_sweeps"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | PATIENCE | {"PYTHONPATH": path},
        )

    def close(self) -> None:
        """Ends it, and what it forked with it."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def run(
        self, module: str, arguments: list[str], folder: Path, fault: Fault | None = None
    ) -> Done:
        """Runs `python -m MODULE` in a folder, and waits for its end."""
        out = folder / "out.txt"
        err = folder / "err.txt"
        code = self._ask(
            do="run",
            module=module,
            arguments=arguments,
            folder=str(folder),
            out=str(out),
            err=str(err),
            fault=None if fault is None else fault.to_json(),
        )
        return Done(code=code, errors=err.read_text(), output=out.read_text())

    def serve(self, database: Path, artifacts: Path, port: int) -> int:
        """Starts an MLflow server; returns its process."""
        return self._ask(do="serve", database=str(database), artifacts=str(artifacts), port=port)


class ForkedTrial:
    """What stands in for the trial's `subprocess.Popen`: a fork of the driver."""

    def __init__(self, command: list[Any], **_how: Any) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _be_trial([str(one) for one in command[3:]])

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; it is given no time limit."""
        del timeout
        if self._code is None:
            _, status = os.waitpid(self.pid, 0)
            self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def kill(self) -> None:
        """Kills it."""
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)


def _be_trial(arguments: list[str]) -> None:
    """Is the trial's process from here on."""
    from prune_exp.trial import isolated

    code = 1
    try:
        sys.argv = ["isolated", *arguments]
        isolated.main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _be_command(asked: dict[str, Any]) -> None:
    """Is a command from here on; returns or raises as that does."""
    import importlib

    from prune_exp.tracking import attempts
    from prune_exp.trial import isolated

    _end_with_parent()
    os.chdir(asked["folder"])
    for name, descriptor in (("out", 1), ("err", 2)):
        target = os.open(asked[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    attempts.PAUSES_S = (0.1, 0.2)
    isolated.subprocess = ForkingSubprocess
    sys.argv = [asked["module"], *asked["arguments"]]
    module = importlib.import_module(asked["module"])
    if asked["fault"] is not None:
        arm_fault(Fault(**asked["fault"]))
    module.main()


class ForkingSubprocess:
    """`subprocess` as `prune_exp.trial.isolated` knows it."""

    Popen = ForkedTrial
    DEVNULL = subprocess.DEVNULL
    TimeoutExpired = subprocess.TimeoutExpired


def _be_server(asked: dict[str, Any]) -> None:
    """Is an MLflow server from here on."""
    _end_with_parent()
    silent = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silent, descriptor)
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{asked['database']}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": asked["artifacts"],
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    from mlflow.server import app

    app.run(port=asked["port"], threaded=True)


def _end_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main() -> None:
    """The warm process: a request a line on standard input, an answer a line on standard output."""
    import importlib

    for name in HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            become: Callable[[dict[str, Any]], None]
            become = _be_command if asked["do"] == "run" else _be_server
            with ExitStack() as stack:
                stack.callback(sys.stdout.flush)
                become(asked)
            return
        answer = child
        if asked["do"] == "run":
            answer = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
