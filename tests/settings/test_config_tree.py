"""A command line is remembered with where its configs were."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import pytest

from prune_exp.settings.config_tree import conf_dir, typed_options
from prune_exp.settings.schema import store_schema


def test_only_what_was_typed_is_typed_again() -> None:
    sources = [
        SimpleNamespace(provider="hydra", path="hydra.conf"),
        SimpleNamespace(provider="main", path=str(conf_dir())),
        SimpleNamespace(provider="command-line", path="/mine"),
    ]
    node = SimpleNamespace(
        runtime=SimpleNamespace(config_sources=sources), job=SimpleNamespace(config_name="config")
    )
    assert typed_options(node) == ["--config-dir=/mine"]
    node.job.config_name = "ours"
    assert typed_options(node) == ["--config-dir=/mine", "--config-name=ours"]


def test_hydra_says_which_folder_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.hydra_config import HydraConfig

    from prune_exp.search.sweeper import register_sweeper

    found: list[Any] = []
    store_schema()
    register_sweeper()
    arguments = ["prune_exp", f"--config-dir={tmp_path}", f"hydra.run.dir={tmp_path}/out"]
    monkeypatch.setattr("sys.argv", [*arguments, "~hydra.callbacks", "hydra/job_logging=disabled"])
    decorate = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
    decorate(lambda _: found.extend(typed_options(HydraConfig.get())))()
    assert found == [f"--config-dir={tmp_path}"]
