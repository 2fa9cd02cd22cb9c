"""The kill matrix: whatever is killed, the same command again ends with nothing lost."""

import os
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from support.cells import CELLS, PROMOTIONS, Cell
from support.cli import runs_in, small_trial
from support.faults import Fault
from support.store import PLACES
from support.studies import study_in
from support.warm_sweeps import Done, Warm

pytestmark = pytest.mark.kill
POINTS = ["0.3", "0.5"]


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """A process that starts commands without their imports."""
    process = Warm()
    yield process
    process.close()


@pytest.fixture(scope="session")
def template(
    warm: Warm, tiny_folder: Path, text_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a store without runs, and a cache that knows the dense model."""
    root = tmp_path_factory.mktemp("template")
    arguments = ["-m", *small_trial(tiny_folder, text_file, root / "cache"), "benchmark=off"]
    done = warm.run("prune_exp.__main__", [*arguments, "sparsity=0.3,0.5"], root)
    assert done.code == 0, done.errors
    shutil.rmtree(root / "mlruns")
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    (root / "mlruns").mkdir(exist_ok=True)
    SqlAlchemyStore(f"sqlite:///{root / 'mlruns' / 'mlflow.db'}", str(root / "artifacts"))
    return root


class Lab:
    """One cell: its folder, its command, and what may be mounted or served for it."""

    def __init__(self, cell: Cell, folder: Path, warm: Warm, template: Path) -> None:
        self.cell = cell
        self.folder = folder
        self.warm = warm
        self.uri: str | None = None
        self.mounted: Path | None = None
        self.server = 0
        self.notes = folder / "notes"
        self.notes.mkdir()
        self.cache = template / "cache"
        self.module = "prune_exp.__main__"
        if cell.disk:
            self._mount(folder / cell.disk)
        if cell.cold or cell.disk == "cache":
            self.cache = folder / "cache"
        shutil.copytree(template / "mlruns", folder / "mlruns", dirs_exist_ok=True)
        move_store(template, folder)
        if cell.who == "server":
            self._serve()

    def _mount(self, target: Path) -> None:
        """A disk of 32 MB, where this process may mount one."""
        target.mkdir()
        how = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(target)]
        done = subprocess.run(how, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
        self.mounted = target

    def _serve(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start_server()

    def start_server(self) -> None:
        """Starts the server on the cell's store, and waits until it answers."""
        database = self.folder / "mlruns" / "mlflow.db"
        self.server = self.warm.serve(database, self.folder / "artifacts", self.port)
        while True:  # the test's own limit ends this
            try:
                if requests.get(f"{self.uri}/health", timeout=2).ok:
                    return
            except requests.RequestException:
                time.sleep(0.1)

    def start(self, arguments: list[str], *, faulty: bool) -> Done:
        """Runs the cell's command."""
        fault = Fault(
            where=self.cell.where,
            deed=self.cell.deed,
            after=self.cell.after,
            call=self.cell.call,
            notes=str(self.notes),
            target=self.server or str(self.mounted),
        )
        done = self.warm.run(self.module, arguments, self.folder, fault if faulty else None)
        assert fault.happened, f"{self.cell.where} was not reached\n{done.errors}"
        return done

    def mend(self) -> None:
        """Makes room, and starts what was killed beside the command."""
        if self.mounted:
            (self.mounted / "filler").unlink()
        if self.cell.who == "server":
            self.start_server()

    def close(self) -> None:
        """Leaves nothing behind."""
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.mounted)], check=True)
        if self.server:
            os.kill(self.server, 9)


def move_store(old: Path, new: Path) -> None:
    """Has a store that was copied find its own files."""
    with sqlite3.connect(new / "mlruns" / "mlflow.db") as database:
        for table, column in PLACES:
            asked = f"update {table} set {column} = replace({column}, ?, ?)"
            database.execute(asked, (str(old), str(new)))
    database.close()


@pytest.fixture
def lab(
    request: pytest.FixtureRequest, tmp_path: Path, warm: Warm, template: Path
) -> Iterator[Lab]:
    made = Lab(request.param, tmp_path, warm, template)
    yield made
    made.close()


@pytest.mark.parametrize("lab", CELLS, ids=lambda cell: cell.name, indirect=True)
def test_the_same_command_again_ends_with_nothing_lost(
    lab: Lab, tiny_folder: Path, text_file: Path
) -> None:
    cell = lab.cell
    arguments = ["-m", *small_trial(tiny_folder, text_file, lab.cache), "benchmark=off"]
    arguments += [*cell.extra, "search.study_name=X", f"sparsity={','.join(POINTS)}"]
    if lab.uri is not None:
        arguments += [f"tracking.uri={lab.uri}"]
    first = lab.start(arguments, faulty=True)
    lab.mend()
    assert first.code == cell.code, first.errors
    assert "Traceback" not in first.errors, first.errors
    before = whole_results(lab)
    assert len(before) == cell.kept, first.errors
    second = lab.start(arguments, faulty=False)
    assert second.code == 0, first.errors + second.errors
    assert "Traceback" not in second.errors, second.errors
    check_stores(lab, before)
    check_winner(lab)
    check_left_over(lab)
    check_told(lab, first, second)


def whole_results(lab: Lab) -> dict[str, dict[str, float]]:
    """Metrics of trials that have their result, by run."""
    return {
        run.info.run_id: run.data.metrics
        for run in runs_in(lab.folder, lab.uri)
        if "prune_exp.weights_sha256" in run.data.tags and "prune_exp.error" not in run.data.tags
    }


def check_stores(lab: Lab, before: dict[str, dict[str, float]]) -> None:
    """Nothing is left running, nothing was lost, and both stores know the same results."""
    runs = runs_in(lab.folder, lab.uri)
    assert {run.info.status for run in runs} <= {"FINISHED", "FAILED"}
    (parent,) = [run for run in runs if is_latest_sweep(run, runs)]
    assert parent.info.status == "FINISHED"
    assert not {"prune_exp.error", "prune_exp.interrupted"} & parent.data.tags.keys()
    good = [run for run in runs if run.info.status == "FINISHED" and "sparsity" in run.data.params]
    assert sorted(run.data.params["sparsity"] for run in good) == POINTS
    assert {run.data.tags["mlflow.parentRunId"] for run in good} == {parent.info.run_id}
    found = {run.info.run_id: run.data.metrics for run in good}
    assert before.items() <= found.items()
    trials = study_in(lab.folder, "X").trials
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "FAIL"}
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert sorted(trial.user_attrs["point"]["sparsity"] for trial in complete) == POINTS
    by_number = {int(run.data.tags["hydra.job.num"]): run for run in good}
    for trial in complete:
        run = by_number[trial.number]
        assert run.data.params["sparsity"] == trial.user_attrs["point"]["sparsity"]
        assert trial.values[0] in run.data.metrics.values()


def is_latest_sweep(run: Any, runs: list[Any]) -> bool:
    """Whether this is a sweep's run, and none began later."""
    return "prune_exp.study" in run.data.tags and all(
        other.info.start_time <= run.info.start_time
        for other in runs
        if "prune_exp.study" in other.data.tags
    )


def check_winner(lab: Lab) -> None:
    """The best trial is the candidate, with its own files, and no trial is registered twice."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(lab.uri or f"sqlite:///{lab.folder / 'mlruns' / 'mlflow.db'}")
    registered = [one.run_id for one in client.search_model_versions("name = 'pruned-tiny'")]
    assert len(set(registered)) == len(registered)
    version = client.get_model_version_by_alias("pruned-tiny", "candidate")
    run = client.get_run(str(version.run_id))
    assert run.info.run_id == best_of(lab)
    model = run.data.tags["prune_exp.model_uri"].removeprefix("models:/")
    (weights,) = lab.folder.rglob(f"{model}/artifacts/model/model.safetensors")
    from prune_exp.machine.cache import file_sha256

    assert file_sha256(weights) == run.data.tags["prune_exp.weights_sha256"]


def best_of(lab: Lab) -> str:
    """The trial that the sweep's own rule chooses among all that finished, over both starts."""
    from mlflow import set_tracking_uri

    from prune_exp.tracking.read import choose_best, read_trials

    set_tracking_uri(lab.uri or f"sqlite:///{lab.folder / 'mlruns' / 'mlflow.db'}")
    (sweep,) = (run for run in runs_in(lab.folder, lab.uri) if "prune_exp.study" in run.data.tags)
    best = choose_best(read_trials(sweep.info.run_id), "speedup_if_maintained")
    assert best is not None
    return best.trial.run_id


def check_left_over(lab: Lab) -> None:
    """Nothing half-written stays, and no training that nobody goes on with."""
    names = [path.name for path in lab.folder.rglob("*")]
    assert not [name for name in names if name.endswith(".partial")]
    assert not list(lab.cache.glob("recovery/*/step-*"))
    assert list((lab.folder / "mlruns" / "sweeps").glob("*/*/report.md"))


def check_told(lab: Lab, first: Done, second: Done) -> None:
    """Each start says in a line what went wrong, or what was repaired."""
    if lab.cell.code > 0:
        assert "prune_exp: " in first.errors
    repaired = [line for line in second.errors.splitlines() if line.startswith("note: ")]
    assert repaired or lab.cell.code > 0 or lab.cell.kept == 2, second.errors


@pytest.fixture(scope="session")
def stored(
    warm: Warm, tiny_folder: Path, text_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store with three models, of which the second is the champion, and the first was."""
    root = tmp_path_factory.mktemp("stored")
    arguments = ["-m", *small_trial(tiny_folder, text_file, root / "cache"), "benchmark=off"]
    arguments += ["tracking.log_models=all", "tracking.register=false", "sparsity=0.2,0.3,0.4"]
    done = warm.run("prune_exp.__main__", arguments, root)
    assert done.code == 0, done.errors
    for run_id in trials_of(root)[:2]:
        done = warm.run("prune_exp.promote", promotion_of(run_id, root), root)
        assert done.code == 0, done.output + done.errors
    return root


def trials_of(folder: Path) -> list[str]:
    """Runs of the trials, in order."""
    return [run.info.run_id for run in runs_in(folder) if "sparsity" in run.data.params]


def promotion_of(run_id: str, root: Path) -> list[str]:
    """What a promotion is asked for that needs no clocks."""
    named = "tracking.registered_model=pruned-tiny"
    return [f"run_id={run_id}", "gates=[integrity]", f"cache_dir={root / 'cache'}", named]


@pytest.mark.parametrize("cell", PROMOTIONS, ids=lambda cell: cell.name)
def test_a_promotion_that_was_cut_off_is_finished_by_the_next(
    cell: Cell, tmp_path: Path, warm: Warm, stored: Path
) -> None:
    lab = Lab(cell, tmp_path, warm, stored)
    lab.module = "prune_exp.promote"
    try:
        back = cell.step == "rollback"
        asked = ["rollback=true"] if back else promotion_of(trials_of(tmp_path)[2], stored)
        first = lab.start(asked, faulty=True)
        lab.mend()
        assert first.code == cell.code, first.output + first.errors
        assert "Traceback" not in first.errors, first.errors
        second = lab.start(asked, faulty=False)
        assert second.code == 0, second.output + second.errors
        assert "champion" in second.output
        check_aliases(tmp_path, back=back)
    finally:
        lab.close()


def check_aliases(folder: Path, *, back: bool) -> None:
    """Both aliases are where they belong, and every version says what became of it."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    versions = {str(one.version): one for one in client.search_model_versions("")}
    assert sorted(versions) == (["1", "2"] if back else ["1", "2", "3"])
    aliases = client.get_registered_model("pruned-tiny").aliases
    found = {name: str(version) for name, version in aliases.items()}
    assert found == ({"champion": "1"} if back else {"champion": "3", "previous": "2"})
    outcomes = {number: one.tags["promotion"] for number, one in versions.items()}
    assert outcomes["2"] == ("rolled back" if back else "promoted")
    champion = versions[found["champion"]].tags
    assert champion["promotion"] == "promoted"
    assert "promotion.at" in champion
    assert "gate.integrity" in champion
    assert not {"promotion.replaces", "promotion.undoes"} & champion.keys()
