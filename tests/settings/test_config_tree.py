"""A command line is remembered with where its configs were."""

from pathlib import Path
from types import SimpleNamespace

from prune_exp.settings.config_tree import conf_dir, typed_options
from support.cli import command


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


def test_hydra_says_which_folder_was_typed(tmp_path: Path) -> None:
    done = command(f"--config-dir={tmp_path}", "--info", "searchpath", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "command-line" in line]
    assert str(tmp_path) in line
