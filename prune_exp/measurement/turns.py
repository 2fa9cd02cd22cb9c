"""One measurement at a time on a machine's processor, and one on each GPU, whoever runs it.

The turn is a name in the kernel's list of sockets and no file: private temporary folders of
services and jobs share it, nothing is left behind by a kill, and who holds it can be named.
"""

import errno
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prune_exp.machine.device import identify_gpu
from prune_exp.measurement.worker_client import MeasurementError

NAME = "prune_exp-measure"
POLL_S = 0.2
LONGEST_WAIT_S = 6 * 3600


def name_turn(device: str) -> str:
    """The turn of a device: the processor's, or that of the GPU which this process sees first."""
    return "-".join((NAME, *identify_gpu(device)))


@contextmanager
def take_turn(name: str = NAME, longest_wait_s: float = LONGEST_WAIT_S) -> Iterator[None]:
    """Waits until nobody else measures by this name on the machine, and says so; then holds it.

    Raises:
        MeasurementError: it took longer than `longest_wait_s`.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as turn:
        _wait_for(turn, f"\0{name}", time.monotonic() + longest_wait_s)
        turn.listen()
        yield


def _wait_for(turn: socket.socket, address: str, latest: float) -> None:
    said = False
    while True:
        try:
            turn.bind(address)
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        if time.monotonic() > latest:
            raise MeasurementError(
                f"{_name_holder(address)} measured on this machine for too long; end it, or measure"
                " elsewhere"
            )
        if not said:
            print(
                f"prune_exp: waits until {_name_holder(address)} has measured: one at a time on a"
                " machine's processor, and one on each GPU",
                file=sys.stderr,
                flush=True,
            )
            said = True
        time.sleep(POLL_S)


def _name_holder(address: str) -> str:
    """The process that holds the turn."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(address)
            found = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:  # it has just ended, or many others ask
            return "another process"
    pid, _, _ = struct.unpack("3i", found)
    return f"process {pid}"
