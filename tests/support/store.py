"""One tracked sweep for all tests that need stored models, made once a session."""

import os
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from prune_exp.measurement.records import Interval
from support.cli import command, small_trial
from support.keys import write_keys

LOOSE: dict[str, Any] = {"blocks": 20, "resamples": 200, "max_perplexity_ratio": 2.0}
"""Few blocks; and quality that weights of a tiny random model can keep."""
CLOCKS: dict[str, Any] = {"pairs": 2, "new_tokens": 2}
CLOCKS |= {"min_speedup": 0.0, "min_memory_reduction_pct": -1000.0}
"""Where the clocks are real: what they say of a tiny model is not what is tested."""


def make_up_speed(dense: Path, pruned: Path, *_: Any, **__: Any) -> Any:
    """In place of a measurement: a candidate that is faster and smaller than what it is up against.

    A model is as fast against itself.
    """
    faster = 1.0 if dense == pruned else 1.5
    return SimpleNamespace(
        speedup=Interval(value=faster, low=0.9 * faster, high=1.1 * faster),
        memory_ratio=Interval(value=0.8, low=0.75, high=0.85),
    )


def look_at(uri: str) -> None:
    """Points MLflow at a store, but not the commands that a test runs afterwards."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@dataclass(frozen=True, kw_only=True)
class Store:
    """A folder with a store of two trials, sparsity 0.2 and 0.4, both with their models, signed."""

    root: Path
    cache: Path

    @property
    def uri(self) -> str:
        """The tracking URI."""
        return f"sqlite:///{self.root / 'mlruns' / 'mlflow.db'}"

    @property
    def client(self) -> Any:
        """An MLflow client on it."""
        from mlflow.tracking import MlflowClient

        look_at(self.uri)
        return MlflowClient()

    def run_id(self, sparsity: str) -> str:
        """The trial of a sparsity."""
        with sqlite3.connect(self.root / "mlruns" / "mlflow.db") as database:
            asked = "select run_uuid from params where key = 'sparsity' and value = ?"
            return database.execute(asked, (sparsity,)).fetchone()[0]

    def files(self, sparsity: str) -> Path:
        """Where the store keeps the checkpoint of a trial."""
        uri = self.client.get_run(self.run_id(sparsity)).data.tags["prune_exp.model_uri"]
        name = uri.removeprefix("models:/")
        return self.root / "mlruns" / "artifacts" / "models" / name / "artifacts" / "model"

    def call(self, module: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs `python -m prune_exp.<module>` as a user does."""
        cache = f"cache_dir={self.cache}"
        return command(*args, cache, module=f"prune_exp.{module}", cwd=self.root, env=env)

    def promote(
        self, *, limits: dict[str, Any] | None = None, clocks: bool = False, **wanted: Any
    ) -> int:
        """Promotes in this process; returns the exit code. Without `clocks` nothing is timed."""
        from prune_exp.registry import evidence
        from prune_exp.registry.promotion import promote_model
        from prune_exp.settings.command_schemas import LimitSettings, PromoteSettings
        from prune_exp.settings.groups import TrackingSettings

        asked = LOOSE | (CLOCKS if clocks else {}) | (limits or {})
        measure = evidence.measure_pair if clocks else make_up_speed
        with mock.patch.object(evidence, "measure_pair", measure):
            return promote_model(
                PromoteSettings(
                    limits=LimitSettings(**asked),
                    tracking=TrackingSettings(root=str(self.root / "mlruns")),
                    cache_dir=str(self.cache),
                    **wanted,
                )
            )

    def tags(self, version: str) -> dict[str, str]:
        """A version's tags."""
        return dict(self.client.get_model_version("pruned-tiny", version).tags)

    def alias(self, name: str) -> str | None:
        """The version that an alias of the tiny model points at."""
        from prune_exp.registry.candidates import version_at

        assert self.client is not None
        return version_at("pruned-tiny", name)


def make_store(root: Path, model: Path, text: Path) -> Store:
    """Runs the sweep."""
    args = [
        *small_trial(model, text, root / "cache"),
        *("model.license=mit", "tracking.log_models=all"),
        f"tracking.signing_key={write_keys(root)}",
        *("benchmark.prompts=2", "benchmark.new_tokens=2"),
    ]
    done = command("-m", *args, "sparsity=0.2,0.4", cwd=root)
    assert done.returncode == 0, done.stderr
    return Store(root=root, cache=root / "cache")


PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
