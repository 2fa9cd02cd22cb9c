"""Passes on to MLflow how far a trial is while it runs, but never while clocks run."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.system_metrics.system_metrics_monitor import (  # pyright: ignore[reportMissingImports]
    SystemMetricsMonitor,
)
from mlflow.tracking import MlflowClient

from prune_exp.machine.progress import HEARD, WORDS
from prune_exp.tracking import tags

LOOK_S = 0.2
QUIET_LOOK_S = 0.5
"""Between two looks at the file while clocks run."""


class Listener:
    """Reads what a trial's process says and sends it to its run."""

    def __init__(self, run_id: str, folder: Path, *, system_metrics: bool = False) -> None:
        self.system_metrics = system_metrics
        self.monitor: SystemMetricsMonitor | None = None
        self.run_id = run_id
        self.folder = folder
        self.heard = 0
        self.hushed = False
        self.held: list[dict[str, Any]] = []
        """Words said while clocks ran."""

    def listen_once(self) -> None:
        """Passes on what is new, then says that it was heard. Never raises."""
        with suppress(OSError):
            lines = (self.folder / WORDS).read_text(encoding="utf-8").split("\n")[:-1]
            for line in lines[self.heard :]:
                self._take(json.loads(line))
            if len(lines) > self.heard:
                if not self.hushed:
                    self._send()
                self.heard = len(lines)
                (self.folder / HEARD).write_text(str(self.heard), encoding="ascii")

    def watch_machine(self) -> None:
        """Starts MLflow's own monitor of the machine, where that is wanted."""
        if self.system_metrics and self.monitor is None:
            self.monitor = SystemMetricsMonitor(self.run_id, resume_logging=True)
            self.monitor.start()

    def leave_machine(self) -> None:
        """Ends the monitor, once it has sent what it has."""
        if self.monitor is not None:
            self.monitor.finish()
            self.monitor = None

    def _take(self, words: dict[str, Any]) -> None:
        if "hush" in words:
            if words["hush"] or self.hushed:
                self._send()
            self.hushed = words["hush"]
            if self.hushed:
                self.leave_machine()
            else:
                self.watch_machine()
            return
        self.held.append(words)

    def _send(self) -> None:
        """Sends what is held; what the store does not take comes again with the whole result."""
        held, self.held = self.held, []
        metrics = [
            Metric(key, float(value), words["at_ms"], words["step"])
            for words in held
            for key, value in words.get("figures", {}).items()
        ]
        phases = [words["phase"] for words in held if "phase" in words]
        with suppress(Exception):
            if metrics:
                MlflowClient().log_batch(self.run_id, metrics=metrics)
            if phases:
                MlflowClient().set_tag(self.run_id, tags.PHASE, phases[-1])


@contextmanager
def follow_trial(
    run_id: str | None, folder: Path, *, system_metrics: bool = False
) -> Iterator[None]:
    """Passes on what is said in `folder` while the body runs; nothing where there is no run."""
    if run_id is None:
        yield
        return
    (folder / HEARD).write_text("0", encoding="ascii")
    listener = Listener(run_id, folder, system_metrics=system_metrics)
    listener.watch_machine()
    ended = threading.Event()

    def listen() -> None:
        while not ended.wait(QUIET_LOOK_S if listener.hushed else LOOK_S):
            listener.listen_once()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        listener.hushed = False
        listener.listen_once()
        listener.leave_machine()
