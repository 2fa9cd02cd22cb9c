"""Runs the parts of the check one after the other, as `tests/gpu/check.sh FOLDER` does.

Each part is a process with a time limit of its own. FOLDER/results.json is written anew after each,
and FOLDER/log has all that was said.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ALL_S = 460
"""What all parts together may take; starting and ending has to fit into eight minutes, too."""

LAST_LINES = 80
"""How much of the log is printed where a part did not end well."""


@dataclass(frozen=True)
class Part:
    """A part and the seconds that it may take."""

    name: str
    limit_s: int


PARTS = {
    "cuda": (
        Part("tests", 100),
        Part("prune llama-1b", 50),
        Part("serve llama-1b", 100),
        Part("recover smollm2-135m", 45),
        Part("prune llama-8b", 90),
        Part("serve llama-8b", 110),
    ),
    "cpu": (
        Part("tests", 120),
        Part("prune tiny", 60),
        Part("recover tiny", 60),
        Part("serve tiny", 200),
    ),
}


def main() -> None:
    """Exit code 0 when every part ended by itself and well, else 1."""
    given = _read_arguments()
    device, folder = given.device, given.folder
    parts = _choose_parts(device, given.part)
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"device": device, "machine": _describe_machine(device), "parts": {}}
    end = time.monotonic() + ALL_S
    for part in parts:
        limit_s = end - time.monotonic()
        if not given.part:
            limit_s = min(limit_s, part.limit_s)
        found["parts"][part.name] = _run_part(part.name, device, limit_s, folder)
        _write_whole(folder / "results.json", json.dumps(found, indent=1))
        ended = found["parts"][part.name]["ended"]
        print(part.name, ended, flush=True)
        if ended != "well":
            print(_read_end(folder / "log"), flush=True)
    sys.exit(any(part["ended"] != "well" for part in found["parts"].values()))


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/gpu/check.sh", description=__doc__)
    out = os.environ.get("OUT")
    parser.add_argument("folder", type=Path, nargs="?" if out else None, default=out)
    parser.add_argument("--cpu", dest="device", action="store_const", const="cpu", default="cuda")
    parser.add_argument(
        "--part",
        action="append",
        help="this part alone, with all the time that is left; may be given several times",
    )
    return parser.parse_args()


def _choose_parts(device: str, names: list[str] | None) -> list[Part]:
    """The parts of these names, or all."""
    known = {part.name: part for part in PARTS[device]}
    unknown = {*(names or [])} - {*known}
    if unknown:
        sys.exit(f"--part={unknown.pop()} is none of {', '.join(known)}")
    return [known[name] for name in names or known]


def _describe_machine(device: str) -> dict[str, Any]:
    import torch
    import transformers

    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here; --cpu rehearses the check on the processor")
    return {
        "name": torch.cuda.get_device_name() if device == "cuda" else platform.processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _run_part(name: str, device: str, limit_s: float, folder: Path) -> dict[str, Any]:
    """How a part ended, how long it took, and all that it found by then."""
    results = folder / ".part"
    results.unlink(missing_ok=True)
    command = [sys.executable, "-m", "gpu.part", name, device, str(results)]
    if name == "tests":
        command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-rA"]
        command += [
            "-p",
            "gpu.without",
            "-p",
            "no:hydra_pytest",
            "-m",
            "gpu",
            "-q",
            f"--junitxml={results}",
            str(HERE),
        ]
    start = time.monotonic()
    with (folder / "log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"GPU_CHECK_DEVICE": device, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        try:
            code = process.wait(max(limit_s, 0))
            ended = "well" if code == 0 else f"with code {code}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            ended = f"at its limit of {limit_s:.0f} s"
    seconds = round(time.monotonic() - start, 1)
    read = _read_tests if name == "tests" else _read_lines
    found = read(results) if results.is_file() else []
    results.unlink(missing_ok=True)
    return {"ended": ended, "seconds": seconds, "found": found}


def _read_end(log: Path) -> str:
    """The last lines of what was said, each with the last state of its progress bar."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")[-LAST_LINES:]
    return "\n".join(line.rsplit("\r", 1)[-1] for line in lines)


def _read_lines(path: Path) -> list[Any]:
    """What a part found; a last line that was cut off is left out."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _read_tests(path: Path) -> list[Any]:
    """Every test with how it went."""
    return [
        {"test": case.get("name"), "went": next((one.tag for one in case), "passed")}
        for case in ET.parse(path).iter("testcase")
    ]


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    main()
