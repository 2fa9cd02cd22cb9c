"""An experiment is one file, and what it says counts."""

from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from prune_exp.search.sweeper import register_sweeper
from prune_exp.settings.config_tree import conf_dir
from prune_exp.settings.schema import store_schema

EXPERIMENTS = sorted(
    path.stem for path in (conf_dir() / "experiment").glob("*.yaml") if path.stem != "cluster"
)
"""All but the one that needs a launcher of its own."""


def composed(*overrides: str) -> Any:
    store_schema()
    register_sweeper()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


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


def test_the_command_line_wins_over_an_experiment() -> None:
    own = composed("experiment=headline").sparsity
    assert own != composed().sparsity
    assert composed("experiment=headline", f"sparsity={own / 2}").sparsity == own / 2
