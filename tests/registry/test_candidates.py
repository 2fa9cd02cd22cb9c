"""Which stored model a promotion is about, on a real store without models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.tracking import MlflowClient
from mlflow.tracking._tracking_service.utils import _get_store

from prune_exp.registry import candidates
from prune_exp.registry.base_model import check_base_model, check_kept_text
from prune_exp.registry.candidates import Candidate, at_version, choose_candidate
from prune_exp.settings.command_schemas import PromoteSettings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.tracking import tags
from support.made_up_runs import figures, interval, on_text, store_sweep, trial


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


def test_a_candidate_whose_run_is_gone_is_passed_over(tmp_path: Path) -> None:
    _, (first, second) = a_sweep(tmp_path, "speedup", [1.1, 1.3])
    register(first, "older")
    register(second, "newer")
    _get_store()._hard_delete_run(second)
    assert choose_candidate(asked(tmp_path), tmp_path).name == "older"


def test_a_named_model_without_a_candidate_is_not_taken_from_another_sweep(tmp_path: Path) -> None:
    sweep, _ = a_sweep(tmp_path, "speedup", [1.1, 1.3])
    settings = asked(tmp_path)
    settings.tracking.registered_model = "pruned-other"
    with pytest.raises(SettingError, match=f"pruned-other has no candidate, and .*{sweep}"):
        choose_candidate(settings, tmp_path)
    settings.tracking.registered_model = "pruned-tiny"
    assert choose_candidate(settings, tmp_path).name == "pruned-tiny"


def test_a_sweep_in_which_all_broke_the_constraints_has_no_best(tmp_path: Path) -> None:
    found = [trial(0), trial(1)]
    for one in found:
        one.params["search.constraints"] = '["perplexity_ratio:0.5"]'
        one.tags.update({tags.MODEL_URI: "models:/m-0", tags.WEIGHTS_SHA256: "0" * 64})
    sweep, (first, _) = store_sweep(tmp_path, found)
    with pytest.raises(SettingError, match=r"no trial .* met its search\.constraints"):
        choose_candidate(asked(tmp_path, run_id=sweep), tmp_path)
    assert choose_candidate(asked(tmp_path, run_id=first), tmp_path).trial.run_id == first


def test_the_latest_run_can_be_asked_for(tmp_path: Path) -> None:
    a_sweep(tmp_path, "speedup", [1.1, 1.3])
    _, (_, second) = a_sweep(tmp_path, "speedup", [1.1, 1.3])
    assert choose_candidate(asked(tmp_path, run_id="latest"), tmp_path).trial.run_id == second


@pytest.mark.parametrize("champion", [True, False])
def test_another_dense_model_does_not_follow(champion: bool, tmp_path: Path) -> None:
    def digests(first: str, second: str) -> list[str]:
        trials = [trial(0), trial(1)]
        for one, digest in zip(trials, (first, second), strict=True):
            one.tags.update({tags.MODEL_DIGEST: digest, tags.MODEL_URI: "models:/m-0"})
            one.tags[tags.WEIGHTS_SHA256] = "0" * 64
        trials[1].params["model.name"] = "other"
        return store_sweep(tmp_path, trials)[1]

    first, second = digests("a", "b")
    register(first, "pruned-tiny")
    made = MlflowClient().create_model_version("pruned-tiny", source="/nowhere", run_id=second)
    held, ours = (at_version("pruned-tiny", str(n), tmp_path) for n in ("1", made.version))
    with pytest.raises(SettingError, match=r"pruned other, and pruned-tiny is about tiny"):
        check_base_model(ours, held if champion else None)
    check_base_model(held, held if champion else None)


@pytest.mark.parametrize("other", [True, False])
def test_another_dense_model_follows_where_that_is_wanted(
    other: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prune_exp.registry import promotion

    trials = [trial(0), trial(1)]
    for one, digest in zip(trials, "ab", strict=True):
        one.tags.update({tags.MODEL_DIGEST: digest, tags.MODEL_URI: "models:/m-0"})
        one.tags[tags.WEIGHTS_SHA256] = "0" * 64
    first, second = store_sweep(tmp_path, trials)[1]
    register(first, "pruned-tiny")
    client = MlflowClient()
    made = client.create_model_version("pruned-tiny", source="/nowhere", run_id=second)
    client.set_registered_model_alias("pruned-tiny", "champion", "1")
    judged: list[str] = []

    def judge(case: Any, _gates: object) -> list[Any]:
        judged.append(str(case.candidate.version))
        return []

    monkeypatch.setattr(promotion, "judge_candidate", judge)
    monkeypatch.setattr(promotion, "folder_sha256", lambda _: "0")
    monkeypatch.setattr(promotion, "_act_on_verdicts", lambda *_: 0)
    settings = asked(tmp_path, version=int(made.version), other_base_model=other)
    settings.tracking.registered_model = "pruned-tiny"
    if other:
        assert promotion.promote_model(settings) == 0
    else:
        with pytest.raises(SettingError, match=r"or other_base_model=true"):
            promotion.promote_model(settings)
    assert judged == ([str(made.version)] if other else [])


def test_files_that_are_not_where_the_store_says_are_said_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    _, (first, _) = a_sweep(tmp_path, "speedup", [1.1, 1.3])
    client = MlflowClient()
    client.create_registered_model("moved")
    gone = tmp_path / "gone"
    gone.mkdir()
    made = client.create_model_version("moved", source=gone.as_uri(), run_id=first)
    gone.rmdir()
    with pytest.raises(SettingError, match=f"not at {gone}; was the store moved"):
        at_version("moved", str(made.version), tmp_path)


def test_a_candidate_behind_a_hundred_other_models_is_found(tmp_path: Path) -> None:
    _, (first, _) = a_sweep(tmp_path, "speedup", [1.1, 1.3])
    client = MlflowClient()
    for number in range(101):
        client.create_registered_model(f"another-{number:03}")
    register(first, "pruned-tiny")
    found = choose_candidate(asked(tmp_path), tmp_path)
    assert (found.name, found.version) == ("pruned-tiny", "1")
    with pytest.raises(SettingError, match=r"102 models .*another-000, .* and 97 more"):
        candidates.only_model()


def test_a_store_that_does_not_answer_is_not_a_version_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_sweep(tmp_path, "speedup", [1.1])

    def fail(*_: Any) -> None:
        raise MlflowException("not now", error_code=TEMPORARILY_UNAVAILABLE)

    monkeypatch.setattr(candidates.MlflowClient, "get_model_version", fail)
    with pytest.raises(MlflowException, match="not now"):
        at_version("pruned-tiny", "1", tmp_path)


def keeping(names: list[str], **text: str) -> Candidate:
    """A stored model that had to keep texts of these names; `text` is its digest and its place."""
    metrics = figures(0.3)
    for name in names:
        metrics |= on_text(name, 1.05, kept=True)
    metrics |= on_text("other", 3.0, kept=False)
    one = trial(0, metrics=metrics)
    one.tags.update({tags.RESERVED_DIGEST: text.get("digest", "d")})
    one.params["data.path"] = text.get("path", "text.txt")
    return Candidate(name="m", version="1", trial=one, folder=Path("model"))


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({"digest": "e"}, False),
        ({"path": "moved/text.txt"}, False),
        ({"digest": "e", "path": "other/text.txt"}, True),
    ],
)
def test_another_text_of_the_same_name_is_another_text(
    changed: dict[str, str], refused: bool
) -> None:
    candidate, champion = keeping(["text"], **changed), keeping(["text"])
    if not refused:
        check_kept_text(candidate, champion)
        return
    with pytest.raises(SettingError, match="keeps quality on another text"):
        check_kept_text(candidate, champion)


def test_runs_that_recorded_no_texts_are_let_through() -> None:
    check_kept_text(keeping([]), keeping(["wiki"]))
    check_kept_text(keeping(["wiki"]), keeping([]))


@pytest.mark.parametrize(
    ("ours", "theirs", "refused"),
    [
        (["wiki", "c4"], ["wiki", "c4"], False),
        (["wiki", "c4", "code"], ["wiki", "c4"], False),
        (["stories"], ["wiki", "stories"], True),
        (["stories"], ["wiki"], True),
    ],
)
def test_a_champion_of_more_texts_is_not_replaced(
    ours: list[str], theirs: list[str], refused: bool
) -> None:
    candidate, champion = keeping(ours), keeping(theirs)
    check_kept_text(candidate, None)
    if not refused:
        check_kept_text(candidate, champion)
        return
    with pytest.raises(SettingError, match=r"keeps quality on wiki, and .* other_text=true"):
        check_kept_text(candidate, champion)
