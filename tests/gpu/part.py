"""One part of the check, in a process of its own: `python -m gpu.part NAME DEVICE RESULTS`.

Each finding is written to RESULTS, a line of JSON, as soon as it is there: what comes later may run
out of time.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu import without

PARTS = ("prune", "serve", "recover")
Report = Callable[..., None]


def main() -> None:
    """Runs the part."""
    name, device, results = sys.argv[1:]
    without.hide_packages()
    kind, _, shape = name.partition(" ")

    def report(**found: Any) -> None:
        print(f"{name}: {found}", flush=True)
        with Path(results).open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")

    with tempfile.TemporaryDirectory() as scratch:
        run_part(kind, shape, device, Path(scratch), report)


def run_part(kind: str, shape: str, device: str, scratch: Path, report: Report) -> None:
    """Runs a part on a shape of `gpu.shapes`."""
    if kind == "prune":
        from gpu.pruning import prune_shape

        prune_shape(shape, device, scratch, report)
    elif kind == "serve":
        from gpu.serving import serve_shape

        serve_shape(shape, device, report)
    else:
        from gpu.recovery import recover_shape

        assert kind == "recover", PARTS
        recover_shape(shape, device, scratch, report)


if __name__ == "__main__":
    main()
