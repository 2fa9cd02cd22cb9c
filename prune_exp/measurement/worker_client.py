"""Worker processes from the measuring side."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from typing import Any

from prune_exp.measurement.backends.protocol import ServeSpec


class MeasurementError(RuntimeError):
    """A model's process died or did not answer."""


class ModelProcess:
    """Speaks with one worker process; a context manager that ends it.

    Answers are read as they come, by a thread: a process whose answer nobody takes stops reading
    requests once the pipe is full, and whoever sends the next one would wait for ever.
    """

    def __init__(self, serving: ServeSpec, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._process = subprocess.Popen(
            _command_of(serving),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment_of(serving.threads),
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read_answers, daemon=True)
        self._reader.start()

    def _read_answers(self) -> None:
        """Takes every line as it comes; an empty one says that there will be no more."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def __enter__(self) -> "ModelProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # what was not sent yet
                pipe.close()
        self._errors.close()

    def receive(self) -> dict[str, Any]:
        """The next answer.

        Raises:
            MeasurementError: the process ended or took longer than the timeout.
        """
        try:
            line = self._lines.get(timeout=self._timeout_s)
        except queue.Empty:
            self._process.kill()
            line = ""
        if not line:
            self._lines.put(line)  # the end stays the end
            raise MeasurementError(self._describe_exit())
        return json.loads(line)

    def send(self, **request: Any) -> None:
        """Sends a request, to be answered in its turn.

        Raises:
            MeasurementError: the process ended, or did not take it before the timeout.
        """
        assert self._process.stdin is not None
        watchdog = threading.Timer(self._timeout_s, self._process.kill)
        watchdog.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise MeasurementError(self._describe_exit()) from None
        finally:
            watchdog.cancel()

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


def _command_of(serving: ServeSpec) -> list[str]:
    started = str(time.monotonic())
    return [sys.executable, "-m", "prune_exp.measurement.worker", serving.to_line(), started]


def environment_of(threads: int) -> dict[str, str]:
    """The environment of a measured process."""
    return os.environ | {"OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
