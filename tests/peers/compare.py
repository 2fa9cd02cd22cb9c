"""`python -m peers.compare`: every method at every size, once, and what that says."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import prune_exp
from prune_exp.machine.cache import digest_of
from prune_exp.measurement import quality
from prune_exp.settings.command import end_in_one_line
from prune_exp.settings.schema import Settings
from prune_exp.trial.prepare import prepare_trial

from . import ours, peer
from .methods import OURS, PEERS
from .rows import Missing, Row, kept_row, write_json
from .table import table, verdicts
from .task import Task

SIZES = (0.2, 0.3, 0.5)
BASE = ["benchmark=quick"]
Job = tuple[Path, Callable[[], Row | Missing]]

NOTES = """\
Sizes count all parameters, tied weights once. All methods saw the same calibration blocks and were
judged on the same held-out blocks; "ratio" has a 95 % interval over blocks. Peers' weights are not
refit; ours are, and layers before removed ones are trained. Prune time counts calibration for
whoever uses its statistics. wanda scores a channel by the norm over its outgoing weights;
flap-uniform keeps one shape in all layers, flap does not, so no stock checkpoint of it can be
timed. torch-pruning was given MLP channels alone (LOG.md)."""


def list_rows() -> list[str]:
    """Our rows that are compared unless others are asked for."""
    return [name for name, row in OURS.items() if row.kind != "trap"]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="peers.compare", description=__doc__)
    parser.add_argument("--size", type=float, action="append", help="share to remove; repeatable")
    parser.add_argument("--only", action="append", choices=[*PEERS, *OURS], help="repeatable")
    parser.add_argument("--speed", action="store_true", help="time decoding too")
    parser.add_argument("--again", action="store_true", help="compute rows that are there")
    parser.add_argument("overrides", nargs="*", help="settings for all rows, such as seed=1")
    return parser.parse_args()


def folder_of(task: Task) -> Path:
    """Where rows are kept that share the model, the text and how they are judged."""
    settings, inputs = task.settings, task.inputs
    key = digest_of(
        prune_exp.__version__,
        inputs.source.digest,
        inputs.corpus.calibration.digest,
        inputs.corpus.heldout.digest,
        settings.data.gradient_blocks,
        settings.seed,
        settings.benchmark.bootstrap_resamples,
        quality.VERSION,
    )
    return Path(settings.tracking.root) / "compare" / key


def calibration_seconds(task: Task, folder: Path) -> float:
    """How long calibration takes, measured once."""
    kept = folder / "calibration.json"
    if not kept.is_file():
        with tempfile.TemporaryDirectory() as scratch:
            start, loads = time.perf_counter(), len(task.load_s)
            task.calibration(Path(scratch))
            seconds = time.perf_counter() - start - sum(task.load_s[loads:])
        write_json(kept, {"seconds": seconds})
    return json.loads(kept.read_text(encoding="utf-8"))["seconds"]


def jobs(task: Task, folder: Path, base: list[str], names: list[str], **how: Any) -> list[Job]:
    """Each row's file and how to compute it."""
    found: list[Job] = []
    size = f"{task.settings.sparsity:g}"
    for name in names:
        if name in PEERS:
            key, compute = peer.digest(PEERS[name]), partial(peer.measure, name, PEERS[name], task)
        else:
            settings = ours.row_settings(OURS[name], task, base)
            key = ours.digest(settings)
            compute = partial(ours.measure, name, OURS[name], settings, task)
        found.append((folder / f"{name}-{size}-{key}.json", partial(compute, **how)))
    return found


def compare(
    settings: Settings,
    base: list[str],
    sizes: list[float],
    names: list[str],
    *,
    speed: bool,
    again: bool = False,
) -> dict[float, list[Row | Missing]]:
    """The rows of every size, from disk where they are there."""
    from tqdm import tqdm

    shared = Task(settings=settings, inputs=prepare_trial(settings).dense)
    folder = folder_of(shared)
    how = {"calibration_s": calibration_seconds(shared, folder), "speed": speed}
    if any(name in PEERS and PEERS[name].statistics for name in names):
        shared.calibration()  # so that it is in the cache, and in no method's time
    listed = {
        size: jobs(
            Task(settings=replace(settings, sparsity=size), inputs=shared.inputs),
            folder,
            base,
            names,
            **how,
        )
        for size in sizes
    }
    found: dict[float, list[Row | Missing]] = {}
    with tqdm(total=sum(map(len, listed.values())), desc="compare", unit="row") as bar:
        for size, rows in listed.items():
            found[size] = []
            for path, compute in rows:
                bar.set_postfix_str(path.stem)
                if again:
                    path.unlink(missing_ok=True)
                found[size].append(kept_row(path, compute, speed=speed))
                bar.update()
    return found


def main() -> None:
    """Prints a table and its verdicts for every size; exit code 130 when interrupted."""
    given = arguments()
    sizes, names = given.size or list(SIZES), given.only or [*PEERS, *list_rows()]
    how = {"speed": given.speed, "again": given.again}
    base = [*BASE, *given.overrides]
    with end_in_one_line("compare", kept="; finished rows are kept"):
        found = compare(ours.settings_from(base), base, sizes, names, **how)
    for size, rows in found.items():
        print(f"\n## {100 * size:g} % removed\n\n{table(rows)}\n")
        for sentence in verdicts(rows):
            print(sentence)
    print(f"\n{NOTES}")


if __name__ == "__main__":
    main()
