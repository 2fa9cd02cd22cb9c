"""An experiment is one file, and what it says counts."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from prune_exp.search.sweeper import register_sweeper
from prune_exp.settings.config_tree import conf_dir
from prune_exp.settings.schema import store_schema
from support.cli import command
from support.composed import compose_trial

EXPERIMENTS = sorted(
    path.stem for path in (conf_dir() / "experiment").glob("*.yaml") if path.stem != "cluster"
)
"""All but the one that needs a launcher of its own."""


def composed(*overrides: str) -> Any:
    store_schema()
    register_sweeper()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def test_ray_never_runs_a_trial_again_by_itself() -> None:
    cluster: Any = OmegaConf.load(conf_dir() / "experiment" / "cluster.yaml")
    assert cluster.hydra.launcher.ray.remote.max_retries == 0


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_value_of_an_experiment_is_the_trials(name: str) -> None:
    own: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "experiment" / f"{name}.yaml"))
    del own["defaults"]
    own.pop("hydra", None)
    config = composed(f"experiment={name}")
    for key, value in flatten(own).items():
        if "${" not in str(value):
            assert OmegaConf.select(config, key) == value, key


@pytest.mark.parametrize("experiment", ["kept", "headline"])
@pytest.mark.parametrize("pruning", ["consensus", "best", "depth", "width"])
def test_a_pruning_that_is_typed_replaces_an_experiments(experiment: str, pruning: str) -> None:
    wanted = composed(f"pruning={pruning}").pruning
    assert composed(f"experiment={experiment}", f"pruning={pruning}").pruning == wanted


def test_experiments_may_lie_outside_the_package(tmp_path: Path) -> None:
    """In a folder of `hydra.searchpath`, which is added to ours."""
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text("# @package _global_\nsparsity: 0.123\n", encoding="utf-8")
    config = compose_trial("experiment=mine", "vote_threshold=0.4", config_dir=tmp_path)
    assert config.sparsity == 0.123
    assert config.vote_threshold == 0.4
    assert compose_trial("experiment=quick", config_dir=tmp_path).sparsity != 0.123


def test_an_experiment_in_a_typed_folder_is_planned_like_ours(
    tiny_args: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    text = "# @package _global_\nsearch:\n  space: ['sparsity=interval(0.2,0.3)']\n  n_trials: 3\n"
    (folder / "own.yaml").write_text(text, encoding="utf-8")
    typed = ["-m", f"--config-dir={tmp_path / 'mine'}", *tiny_args, "experiment=own", "plan=true"]
    done = command(*typed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 trials, one after the other" in done.stdout


def test_the_command_line_wins_over_an_experiment() -> None:
    own = composed("experiment=headline").sparsity
    assert own != composed().sparsity
    assert composed("experiment=headline", f"sparsity={own / 2}").sparsity == own / 2
