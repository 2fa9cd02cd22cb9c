"""Runs of any Hydra project get tags, and nothing heavy is imported for them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.hostile import PASSWORD

APP = """
import hydra, mlflow
from pathlib import Path

@hydra.main(version_base="1.3", config_path=None)
def main(config):
    mlflow.set_tracking_uri(f"sqlite:///{Path.cwd()}/store.db")
    with mlflow.start_run():
        mlflow.log_param("a", config.a)

main()
"""


LIGHT = """
import sys
from prune_exp.tracking.context import HydraContext
assert not HydraContext().in_context()
assert HydraContext().tags() == {}
heavy = {"hydra", "mlflow", "torch", "omegaconf", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


def test_other_hydra_projects_get_tags(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    import prune_exp

    info = tmp_path / "site" / "prune_exp-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: prune-exp\nVersion: 0.1.0\n")
    wanted = 'prune_exp = "prune_exp.tracking.context:HydraContext"'
    project = Path(prune_exp.__file__).parents[1] / "pyproject.toml"
    group = '[project.entry-points."mlflow.run_context_provider"]\n'
    assert group + wanted in project.read_text(encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[mlflow.run_context_provider]\nprune_exp = prune_exp.tracking.context:HydraContext\n"
    )
    (tmp_path / "app.py").write_text(APP)
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "app.py", "-m", "+a=1,2", f"+db.password={PASSWORD}", "+b=3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runs = MlflowClient(f"sqlite:///{tmp_path}/store.db").search_runs(["0"])
    tags = sorted((run.data.tags for run in runs), key=lambda one: one["hydra.job.num"])
    assert [one["hydra.job.num"] for one in tags] == ["0", "1"]
    assert [one["hydra.overrides"] for one in tags] == [
        f"+a={a} +b=3 +db.password=***" for a in (1, 2)
    ] or [sorted(one["hydra.overrides"].split()) for one in tags] == [
        sorted([f"+a={a}", "+b=3", "+db.password=***"]) for a in (1, 2)
    ]
    for one in tags:
        assert one["hydra.job.name"] == "app"
        assert Path(one["hydra.sweep.dir"]).parts[0] == "multirun"
        assert PASSWORD not in str(one)


def test_the_context_is_light_and_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from prune_exp.tracking.context import HydraContext

    subprocess.run([sys.executable, "-c", LIGHT], check=True)

    class Broken:
        @property
        def HydraConfig(self) -> Any:
            raise RuntimeError("broken")

    monkeypatch.setitem(sys.modules, "hydra.core.hydra_config", Broken())  # type: ignore[arg-type]
    assert HydraContext().in_context() is False
    assert HydraContext().tags() == {}


@pytest.mark.parametrize("ours", [True, False])
def test_a_trial_of_ours_says_these_things_in_its_own_tags(
    ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omegaconf import OmegaConf

    from prune_exp.tracking import context, tags
    from prune_exp.trial import lifecycle

    kind = f"{lifecycle.__name__}.{lifecycle.Lifecycle.__name__}" if ours else "theirs.Callback"
    hydra = {
        "mode": None,
        "callbacks": {"one": {"_target_": kind}},
        "overrides": {"task": ["a=1"]},
        "job": {"name": "app"},
        "runtime": {"output_dir": "/somewhere"},
    }
    monkeypatch.setattr(context, "_hydra_config", lambda: OmegaConf.create(hydra))
    found = context.HydraContext().tags()
    assert (found == {}) is ours
    assert (tags.RUN_DIR in found) is not ours
