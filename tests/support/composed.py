"""Configs as Hydra composes them for a trial."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from prune_exp.search.sweeper import register_sweeper
from prune_exp.settings.config_tree import conf_dir
from prune_exp.settings.schema import store_schema


def compose_trial(*overrides: str, config_dir: Path | None = None) -> DictConfig:
    """A trial's config with Hydra's own node; `config_dir` is as in `--config-dir`."""
    store_schema()
    register_sweeper()
    beside = [] if config_dir is None else [f"hydra.searchpath=[file://{config_dir}]"]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose(
            "config", [*beside, *overrides, "hydra.job.num=1"], return_hydra_config=True
        )
    OmegaConf.set_readonly(config, False)
    OmegaConf.set_readonly(config.hydra, False)
    return config


@contextmanager
def loading_points() -> Iterator[Any]:
    """What a sweeper composes the configs of its points with."""
    store_schema()
    register_sweeper()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()
