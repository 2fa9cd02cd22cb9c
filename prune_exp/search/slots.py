"""Where trials run: one batch after the other, or single trials side by side.

A launcher comes back once everything that it was given has ended. Where each of several threads
gives it one trial, a slot is free as soon as its own trial has ended.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any

LaunchBatch = Callable[[list[list[str]], list[int]], list[Any]]
"""Runs trials, given by their overrides and their numbers, and returns once all have ended."""
GRACE_S = 30.0
"""How long a launcher may take to end its trials when the driver is interrupted."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A batch that is over: what the launcher returned, or why it broke down."""

    numbers: list[int]
    returns: Sequence[Any] = ()
    error: Exception | None = None


class Slots:
    """Batches that run, at most `count` of them; with one slot in this thread."""

    def __init__(self, launch: LaunchBatch, count: int) -> None:
        self.launch = launch
        self.count = count
        self._running: list[tuple[list[int], Thread | None]] = []
        self._ended: SimpleQueue[Ended | BaseException] = SimpleQueue()

    @property
    def numbers(self) -> list[int]:
        """Of all trials that run, or whose end was not yet waited for."""
        return [number for numbers, _ in self._running for number in numbers]

    @property
    def has_free(self) -> bool:
        """Whether another batch can be started."""
        return len(self._running) < self.count

    def start(self, points: list[list[str]], numbers: list[int]) -> None:
        """Starts a batch; with one slot it has ended when this returns."""
        if self.count == 1:
            self._running.append((numbers, None))
            self._ended.put(self._run(points, numbers))
            return
        thread = Thread(target=self._run_beside, args=(points, numbers), daemon=True)
        self._running.append((numbers, thread))
        thread.start()

    def _run(self, points: list[list[str]], numbers: list[int]) -> Ended:
        try:
            return Ended(numbers=numbers, returns=self.launch(points, numbers))
        except Exception as error:
            return Ended(numbers=numbers, error=error)

    def _run_beside(self, points: list[list[str]], numbers: list[int]) -> None:
        try:
            self._ended.put(self._run(points, numbers))
        except BaseException as error:  # ends the driver, which waits in another thread
            self._ended.put(error)

    def wait(self) -> Ended:
        """The next batch to end; what a launcher raises to end the driver is raised here."""
        ended = self._ended.get()
        if not isinstance(ended, Ended):
            raise ended
        self._running = [one for one in self._running if one[0] is not ended.numbers]
        return ended

    def interrupt(self) -> None:
        """Has launchers in other threads end their trials as Ctrl-C does in the main thread."""
        threads = [thread for _, thread in self._running if thread is not None]
        for thread in threads:
            if thread.is_alive():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread.ident or 0), ctypes.py_object(KeyboardInterrupt)
                )
        for thread in threads:
            thread.join(GRACE_S)
