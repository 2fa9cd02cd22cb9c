"""Worker processes from the measuring side."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from prune_exp.measurement.backends.protocol import ServeSpec


class MeasurementError(RuntimeError):
    """A model's process died or did not answer."""


class ModelProcess:
    """Speaks with one worker process; a context manager that ends it."""

    def __init__(self, serving: ServeSpec, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        started = str(time.monotonic())
        self._process = subprocess.Popen(
            [sys.executable, "-m", "prune_exp.measurement.worker", serving.to_line(), started],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment_of(serving.threads),
        )

    def __enter__(self) -> "ModelProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def receive(self) -> dict[str, Any]:
        """The next answer.

        Raises:
            MeasurementError: the process ended or took longer than the timeout.
        """
        assert self._process.stdout is not None
        watchdog = threading.Timer(self._timeout_s, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise MeasurementError(self._describe_exit())
        return json.loads(line)

    def send(self, **request: Any) -> None:
        """Sends a request, to be answered in its turn."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise MeasurementError(self._describe_exit()) from None

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for its answer."""
        self.send(**request)
        return self.receive()

    def _describe_exit(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        last = lines[-1] if lines else "it said nothing"
        return f"the measured model's process ended with code {code}: {last}"


def environment_of(threads: int) -> dict[str, str]:
    """The environment of a measured process."""
    return os.environ | {"OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
