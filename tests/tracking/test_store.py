"""Stores that cannot be used are refused with what to type."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking.store import open_store


def test_a_deleted_experiment_is_said_to_be_deleted(tmp_path: Path) -> None:
    tracking = TrackingSettings(root=str(tmp_path / "mlruns"), experiment="tidied")
    experiment = open_store(tracking)
    client = MlflowClient()
    client.delete_experiment(experiment)
    with pytest.raises(SettingError, match=f"deleted.*--experiment-id {experiment}.*NAME"):
        open_store(tracking)
    client.restore_experiment(experiment)
    assert open_store(tracking) == experiment
    client.delete_experiment(experiment)
    other = TrackingSettings(root=tracking.root, experiment="other")
    assert open_store(other) != experiment
