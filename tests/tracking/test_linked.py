"""Texts, models and metrics are linked in MLflow, and what was cut off is filled in place."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from prune_exp.settings.groups import TrackingSettings
from prune_exp.text.records import TextUsed
from prune_exp.tracking import runs, tags
from prune_exp.tracking.linked import log_dense, log_linked, make_dataset, model_of_trial
from prune_exp.tracking.metrics import make_up_result
from prune_exp.tracking.read import find_latest, read_trials, text_digests
from prune_exp.tracking.result import TrialResult
from support.made_up_runs import store_sweep, trial

TEXT = TextUsed(role="heldout", source="wiki.txt, c4.txt", digest="d" * 16, blocks=3, tokens=96)


@pytest.fixture
def sweep(tmp_path: Path) -> tuple[str, str]:
    root, (first, _) = store_sweep(tmp_path, [trial(0, 0.3), trial(1, 0.5)])
    return root, first


def models_of(run_id: str) -> list[Any]:
    client = MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    asked = f"source_run_id = '{run_id}'"
    return [*client.search_logged_models([experiment], filter_string=asked)]


def test_a_text_is_told_by_its_files_and_its_digest(sweep: tuple[str, str]) -> None:
    _, run_id = sweep
    with mlflow.start_run(run_id=run_id):
        mlflow.log_input(make_dataset(TEXT), context=TEXT.role)
    assert text_digests(run_id) == {"heldout": TEXT.digest}
    inputs: Any = MlflowClient().get_run(run_id).inputs
    (given,) = [one.dataset for one in inputs.dataset_inputs]
    assert '"files": "wiki.txt, c4.txt"' in given.source
    assert '"tokens": 96' in given.source


def test_figures_belong_to_the_model_and_those_of_quality_to_their_text(
    sweep: tuple[str, str],
) -> None:
    _, run_id = sweep
    figures = {"speedup": 1.5, "perplexity_ratio": 1.1, "domain/wiki/tokens": 9.0}
    log_linked(run_id, figures, [TEXT])
    (model,) = models_of(run_id)
    found = {one.key: one for one in model.metrics}
    assert {key: one.value for key, one in found.items()} == figures
    digests = {key: one.dataset_digest for key, one in found.items()}
    assert digests == {
        "speedup": None,
        "perplexity_ratio": TEXT.digest,
        "domain/wiki/tokens": TEXT.digest,
    }
    assert MlflowClient().get_run(run_id).data.metrics["speedup"] == 1.5


def test_what_is_no_number_is_kept_as_such(sweep: tuple[str, str]) -> None:
    _, run_id = sweep
    log_linked(run_id, {"perplexity_ratio": math.nan, "kl_to_dense": math.inf}, [TEXT])
    assert math.isnan(MlflowClient().get_run(run_id).data.metrics["perplexity_ratio"])


def test_a_trial_has_one_model_whatever_was_cut_off(sweep: tuple[str, str]) -> None:
    _, run_id = sweep
    client = MlflowClient()
    run = client.get_run(run_id)
    orphan = client.create_logged_model(run.info.experiment_id, "model", source_run_id=run_id)
    assert model_of_trial(run_id).model_id == orphan.model_id
    assert model_of_trial(run_id).model_id == orphan.model_id, "and is linked once"
    outputs: Any = client.get_run(run_id).outputs
    assert [one.model_id for one in outputs.model_outputs] == [orphan.model_id]


def test_a_model_has_a_name_that_mlflow_takes(sweep: tuple[str, str]) -> None:
    _, run_id = sweep
    root = MlflowClient().create_run(MlflowClient().get_run(run_id).info.experiment_id)
    MlflowClient().log_param(root.info.run_id, "model.name", "a/b:1.5'")
    assert model_of_trial(root.info.run_id).name == "pruned-a_b_1_5_"


def test_a_sweep_has_a_row_for_the_dense_model(sweep: tuple[str, str], tmp_path: Path) -> None:
    root, _ = sweep
    trials = read_trials(root)
    for one in (trials[0], trials[1], trials[1]):
        log_dense(root, one)
    assert [one.number for one in read_trials(root)] == [0, 1], "it is no trial"
    client = MlflowClient()
    experiment = client.get_run(root).info.experiment_id
    (dense,) = client.search_runs([experiment], f"tags.`{tags.ROLE}` = '{tags.DENSE}'")
    assert dense.info.status == "FINISHED"
    assert dense.data.metrics["speedup"] == 1.0
    assert dense.data.metrics["memory_reduction_pct"] == 0.0
    assert dense.data.metrics["params_active"] == dense.data.metrics["params_total"]
    assert "dense/bits_per_byte" in dense.data.metrics
    (model,) = models_of(dense.info.run_id)
    assert model.name == "dense-tiny"
    assert find_latest(TrackingSettings(root=str(tmp_path))) == root


def test_two_sweeps_share_the_dense_model(tmp_path: Path) -> None:
    roots = [store_sweep(tmp_path, [trial(0, 0.3)])[0] for _ in range(2)]
    for root in roots:
        log_dense(root, read_trials(root)[0])
    client = MlflowClient()
    experiment = client.get_run(roots[0]).info.experiment_id
    found = client.search_logged_models([experiment])
    assert [one.name for one in found] == ["dense-tiny"]


def test_a_result_is_logged_once_whole_after_a_second_try(
    sweep: tuple[str, str], tmp_path: Path
) -> None:
    _, run_id = sweep
    result = make_up_result(TrialResult)
    shape = replace(result.dense_shape, params_total=2)
    result = replace(result, dense_shape=shape, texts=(TEXT,), speed=None)
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("a: 1", encoding="utf-8")
    (tmp_path / "prune_exp.log").write_text("a line", encoding="utf-8")
    result = replace(result, machine={"processor": "a processor"})
    with mlflow.start_run(run_id=run_id):
        runs.log_result(result, tmp_path)
        runs.log_result(result, tmp_path)
    assert len(models_of(run_id)) == 1
    client = MlflowClient()
    names = {item.path for item in client.list_artifacts(run_id)}
    assert {"hydra", "prune_exp.log", "machine.json", "plan.json"} <= names
    assert [item.path for item in client.list_artifacts(run_id, "hydra")] == ["hydra/config.yaml"]
