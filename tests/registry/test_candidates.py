"""Which stored model a promotion is about, on a real store without models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from prune_exp.registry import candidates
from prune_exp.registry.candidates import Candidate, choose_candidate
from prune_exp.settings.command_schemas import PromoteSettings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking import tags
from support.made_up_runs import figures, interval, store_sweep, trial


@pytest.fixture(autouse=True)
def nothing_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_fetch_checkpoint", lambda uri, _scratch: Path(uri))


def a_sweep(root: Path, best: str, speedups: Sequence[float]) -> tuple[str, list[str]]:
    """A stored sweep by a rule, quality falling with every trial; all models stored."""
    trials = []
    for number, speedup in enumerate(speedups):
        found: dict[str, Any] = figures(0.1 * (number + 1)) | interval("speedup", speedup, 0.01)
        found |= interval("perplexity_ratio", 2.0 + number, 0.1) | {"quality_maintained": 0.0}
        one = trial(number, metrics={k: v for k, v in found.items() if "text_" not in k})
        kept = {tags.MODEL_URI: f"models:/m-{number}", tags.WEIGHTS_SHA256: "0" * 64}
        one.params["tracking.best"] = best
        one.tags.update(kept)
        trials.append(one)
    return store_sweep(root, trials)


def asked(root: Path, **wanted: Any) -> PromoteSettings:
    return PromoteSettings(tracking=TrackingSettings(root=str(root), best="quality"), **wanted)


@pytest.mark.parametrize(("rule", "number"), [("speedup", 1), ("quality", 0)])
def test_the_sweeps_own_rule_chooses(rule: str, number: int, tmp_path: Path) -> None:
    sweep, ids = a_sweep(tmp_path, rule, [1.1, 1.3])
    for wanted in ({"run_id": sweep}, {}):
        assert choose_candidate(asked(tmp_path, **wanted), tmp_path).trial.run_id == ids[number]


def register(run_id: str, name: str, *, alias: bool = True) -> None:
    client = MlflowClient()
    client.create_registered_model(name)
    made = client.create_model_version(name, source="/nowhere", run_id=run_id)
    if alias:
        client.set_registered_model_alias(name, "candidate", str(made.version))


def test_the_candidate_comes_before_the_latest_sweep(tmp_path: Path) -> None:
    _, (first, _) = a_sweep(tmp_path, "speedup", [1.1, 1.3])
    a_sweep(tmp_path, "speedup", [1.1, 1.3])
    register(first, "pruned-tiny")

    def chosen(**wanted: Any) -> Candidate:
        return choose_candidate(asked(tmp_path, **wanted), tmp_path)

    assert (chosen().version, chosen().trial.run_id) == ("1", first)


def test_the_newest_candidate_of_the_experiment_counts(tmp_path: Path) -> None:
    _, (first, second) = a_sweep(tmp_path, "speedup", [1.1, 1.3])
    register(first, "older")
    register(second, "newer")
    register(first, "without-alias", alias=False)
    settings = asked(tmp_path)
    assert choose_candidate(settings, tmp_path).name == "newer"
    settings.tracking.registered_model = "older"
    assert choose_candidate(settings, tmp_path).name == "older"
    settings.tracking.registered_model = None
    settings.tracking.experiment = "another"
    with pytest.raises(SettingError, match="has no sweep"):
        choose_candidate(settings, tmp_path)
