"""What happens around a trial happens where it should."""

import shutil
from pathlib import Path

import hydra
import pytest
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig, OmegaConf

from prune_exp.machine.cache import folder_sha256
from prune_exp.search.sweeper import register_sweeper
from prune_exp.settings.config_tree import conf_dir
from prune_exp.settings.errors import SettingError
from prune_exp.settings.schema import Settings, store_schema
from prune_exp.trial.lifecycle import Lifecycle, check_pickled
from support.cli import command, small_trial
from support.hostile import PASSWORD


@pytest.mark.parametrize(
    ("log_models", "needed"), [("all", True), ("best", False), ("none", False)]
)
def test_only_who_signs_needs_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_models: str, needed: bool
) -> None:
    started: list[Settings] = []
    monkeypatch.setattr(
        "prune_exp.tracking.runs.start_trial", lambda settings, *_, **__: started.append(settings)
    )
    lifecycle = Lifecycle()
    lifecycle.parent_run_id = "the driver's"
    config = composed(f"tracking.log_models={log_models}", "tracking.signing_key=none.pem")
    config.hydra.runtime.output_dir = str(tmp_path)
    if needed:
        with pytest.raises(SystemExit):
            lifecycle.on_job_start(config)
    else:
        lifecycle.on_job_start(config)
    assert bool(started) is not needed


def composed(*overrides: str) -> DictConfig:
    store_schema()
    register_sweeper()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose("config", [*overrides, "hydra.job.num=1"], return_hydra_config=True)
    OmegaConf.set_readonly(config, False)
    OmegaConf.set_readonly(config.hydra, False)
    return config


@pytest.mark.parametrize("kind", ["single", "sweep"])
def test_a_checkpoint_of_the_users_is_never_written_over(
    kind: str, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    """hydra.run.dir=. in a project that keeps its model in ./model, as many do."""
    project = tmp_path / ("0" if kind == "sweep" else ".")
    shutil.copytree(tiny_folder, project / "model")
    before = folder_sha256(project / "model")
    args = small_trial(project / "model", text_file, tmp_path / "cache")
    where = ["hydra.run.dir=."] if kind == "single" else ["-m", "hydra.sweep.dir=.", "sparsity=0.3"]
    done = command(*where, *args, "benchmark=off", cwd=tmp_path)
    assert done.returncode == 1
    assert "model is there already" in done.stderr
    assert folder_sha256(project / "model") == before


@pytest.mark.slow
def test_the_best_model_of_a_sweep_over_models_has_its_own_name(
    tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    for name in ("river", "stone"):
        shutil.copytree(tiny_folder, tmp_path / name)
    given = small_trial(tiny_folder, text_file, tmp_path / "cache")
    args = [one for one in given if not one.startswith(("model.path", "model.name"))]
    swept = f"model.path={tmp_path / 'river'},{tmp_path / 'stone'}"
    done = command("-m", *args, swept, "benchmark=off", "quality=off", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    (registered,) = client.search_registered_models()
    version = client.get_model_version_by_alias(registered.name, "candidate")
    trial = client.get_run(str(version.run_id))
    assert registered.name == f"pruned-{Path(trial.data.params['model.path']).name}"


@pytest.mark.parametrize("sweeper", ["prune_exp", "basic"])
def test_submitit_is_given_no_secret_to_write_down(
    sweeper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("STUDIES", f"postgresql://u:{PASSWORD}@h/d")
    secret = f"search.storage=postgresql://u:{PASSWORD}@h/d"
    by_name = "search.storage=${oc.env:STUDIES}"

    def refusal(launcher: str, override: str) -> str:
        config = composed(f"hydra/launcher={launcher}", f"hydra/sweeper={sweeper}")
        config.hydra.overrides.task = ["sparsity=0.3", override]
        try:
            check_pickled(config)
        except SettingError as error:
            return str(error)
        return ""

    assert "search.storage='${oc.env:NAME}'" in refusal("submitit_local", secret)
    assert PASSWORD not in refusal("submitit_local", secret)
    assert not refusal("submitit_local", by_name)
    assert not refusal("basic", secret)
