"""What happens around a trial happens where it should."""

import logging
import shutil
from pathlib import Path
from typing import Any

import hydra
import pytest
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig, OmegaConf

from prune_exp.machine.cache import folder_sha256
from prune_exp.search.sweeper import register_sweeper
from prune_exp.settings.config_tree import conf_dir
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.settings.schema import Settings, store_schema
from prune_exp.tracking.read import Choice
from prune_exp.tracking.store import open_store
from prune_exp.trial import lifecycle
from prune_exp.trial.lifecycle import Lifecycle, _Refusals, check_pickled
from support.cli import command, small_trial
from support.hostile import PASSWORD
from support.made_up_runs import interval, settings, trial


@pytest.mark.parametrize(
    ("log_models", "needed"), [("all", True), ("best", False), ("none", False)]
)
def test_only_who_signs_needs_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_models: str, needed: bool
) -> None:
    started: list[Settings] = []
    monkeypatch.setattr(
        "prune_exp.tracking.runs.start_trial", lambda settings, *_, **__: started.append(settings)
    )
    callback = Lifecycle()
    callback.parent_run_id = "the driver's"
    config = composed(f"tracking.log_models={log_models}", "tracking.signing_key=none.pem")
    config.hydra.runtime.output_dir = str(tmp_path)
    if needed:
        with pytest.raises(SystemExit):
            callback.on_job_start(config)
    else:
        callback.on_job_start(config)
    assert bool(started) is not needed


def composed(*overrides: str) -> DictConfig:
    store_schema()
    register_sweeper()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose("config", [*overrides, "hydra.job.num=1"], return_hydra_config=True)
    OmegaConf.set_readonly(config, False)
    OmegaConf.set_readonly(config.hydra, False)
    return config


@pytest.mark.parametrize(
    "typed",
    [
        ("tracking.tags.team=red",),
        ("+tracking.tags.team=red",),
        ("tracking.tags={team: red}",),
        ("tracking.tags={team: blue, n: 7}", "tracking.tags.team=red"),
    ],
)
def test_tags_are_typed_in_any_way_that_hydra_knows(typed: tuple[str, ...]) -> None:
    found = lifecycle.settings_of(composed(*typed)).tracking.tags
    assert found["team"] == "red"
    assert found.get("n", "7") == "7"


def test_tags_of_ours_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = composed("tracking.tags.device=mine", f"tracking.root={tmp_path / 'mlruns'}")
    config.hydra.runtime.output_dir = str(tmp_path)
    for refuse in (
        lambda: Lifecycle().on_job_start(config),
        lambda: Lifecycle().on_sweep_checked(config, [config]),
    ):
        with pytest.raises(SystemExit, match="is a tag that runs have by themselves"):
            refuse()
    assert list(tmp_path.iterdir()) == []


def test_a_log_file_is_made_once_something_is_logged(tmp_path: Path) -> None:
    logger = logging.getLogger()
    inside = logging.FileHandler(tmp_path / "prune_exp.log")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    outside = logging.FileHandler(elsewhere / "theirs.log")
    try:
        for handler in (inside, outside):
            logger.addHandler(handler)
        lifecycle.delay_empty_logs(tmp_path)
        assert list(tmp_path.iterdir()) == [elsewhere]
        assert (elsewhere / "theirs.log").is_file()
        logger.error("something")
        lifecycle.delay_empty_logs(tmp_path)
        assert "something" in (tmp_path / "prune_exp.log").read_text(encoding="utf-8")
        logger.error("more")
        assert "more" in (tmp_path / "prune_exp.log").read_text(encoding="utf-8")
    finally:
        for handler in (inside, outside):
            logger.removeHandler(handler)
            handler.close()


@pytest.mark.parametrize("kind", ["single", "sweep"])
def test_a_checkpoint_of_the_users_is_never_written_over(
    kind: str, tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    """hydra.run.dir=. in a project that keeps its model in ./model, as many do."""
    project = tmp_path / ("0" if kind == "sweep" else ".")
    shutil.copytree(tiny_folder, project / "model")
    before = folder_sha256(project / "model")
    args = small_trial(project / "model", text_file, tmp_path / "cache")
    where = ["hydra.run.dir=."] if kind == "single" else ["-m", "hydra.sweep.dir=.", "sparsity=0.3"]
    done = command(*where, *args, "benchmark=off", cwd=tmp_path)
    assert done.returncode == 1
    assert "model is there already" in done.stderr
    assert folder_sha256(project / "model") == before


@pytest.mark.slow
def test_the_best_model_of_a_sweep_over_models_has_its_own_name(
    tiny_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    for name in ("river", "stone"):
        shutil.copytree(tiny_folder, tmp_path / name)
    given = small_trial(tiny_folder, text_file, tmp_path / "cache")
    args = [one for one in given if not one.startswith(("model.path", "model.name"))]
    swept = f"model.path={tmp_path / 'river'},{tmp_path / 'stone'}"
    done = command("-m", *args, swept, "benchmark=off", "quality=off", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}")
    (registered,) = client.search_registered_models()
    version = client.get_model_version_by_alias(registered.name, "candidate")
    run = client.get_run(str(version.run_id))
    assert registered.name == f"pruned-{Path(run.data.params['model.path']).name}"


@pytest.mark.parametrize("sweeper", ["prune_exp", "basic"])
def test_submitit_is_given_no_secret_to_write_down(
    sweeper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("STUDIES", f"postgresql://u:{PASSWORD}@h/d")
    secret = f"search.storage=postgresql://u:{PASSWORD}@h/d"
    by_name = "search.storage=${oc.env:STUDIES}"

    def refusal(launcher: str, override: str) -> str:
        config = composed(f"hydra/launcher={launcher}", f"hydra/sweeper={sweeper}")
        config.hydra.overrides.task = ["sparsity=0.3", override]
        try:
            check_pickled(config)
        except SettingError as error:
            return str(error)
        return ""

    assert "search.storage='${oc.env:NAME}'" in refusal("submitit_local", secret)
    assert PASSWORD not in refusal("submitit_local", secret)
    assert not refusal("submitit_local", by_name)
    assert not refusal("basic", secret)
    filed = composed("hydra/launcher=submitit_local", secret)
    filed.hydra.overrides.task = []
    with pytest.raises(SettingError, match=r"search\.storage of the config files") as refused:
        check_pickled(filed)
    assert PASSWORD not in str(refused.value)
    check_pickled(composed("hydra/launcher=submitit_local", by_name))
    check_pickled(composed(secret))


def store_some(
    monkeypatch: pytest.MonkeyPatch, *, feasible: bool = True, kept: bool = True, **tracking: Any
) -> tuple[list[str], str | None]:
    """What is done with two trials, the first of which is the best, and the registered name."""
    from prune_exp.registry import stored_models

    done: list[str] = []

    def log_model(one: Any, *_: object) -> None:
        done.append(f"stored {one.number}")

    def register(one: Any, *_: object) -> None:
        done.append(f"registered {one.number}")

    monkeypatch.setattr(stored_models, "can_store", lambda _: kept)
    monkeypatch.setattr(stored_models, "log_model", log_model)
    monkeypatch.setattr(stored_models, "register_candidate", register)
    asked = settings()
    for key, value in tracking.items():
        setattr(asked.tracking, key, value)
    trials = [trial(0), trial(1)]
    best = Choice(trial=trials[0], rule="the best quality", feasible=feasible)
    return done, lifecycle._store_models(asked, trials, best)


@pytest.mark.parametrize("feasible", [True, False])
def test_only_who_meets_the_constraints_is_registered(
    feasible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, name = store_some(monkeypatch, feasible=feasible)
    assert done == (["stored 0", "registered 0"] if feasible else ["stored 0"])
    assert name == ("pruned-tiny" if feasible else None)


@pytest.mark.parametrize(
    ("tracking", "wanted"),
    [
        ({"log_models": "none"}, []),
        ({"log_models": "all"}, ["stored 0", "registered 0", "stored 1"]),
        ({"register": False}, ["stored 0"]),
        ({"register": False, "log_models": "all"}, ["stored 0", "stored 1"]),
    ],
)
def test_as_much_is_stored_and_registered_as_is_asked_for(
    tracking: dict[str, Any], wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done, name = store_some(monkeypatch, **tracking)
    assert done == wanted
    assert name == ("pruned-tiny" if "registered 0" in wanted else None)


def test_a_model_that_was_not_kept_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done, name = store_some(monkeypatch, kept=False)
    assert (done, name) == ([], None)
    said = capsys.readouterr().err
    assert "trial 0 were not kept" in said
    assert f"prune_exp.rebuild run_id={trial(0).run_id} output=DIR" in said
    trained = trial(1)
    trained.params["recovery.name"] = "distill"
    lifecycle.say_not_kept(trained)
    assert "rebuild" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("limit", "asked"), [(1.05, None), (1.1, None), (1.3, 1.3)], ids=["less", "default", "more"]
)
def test_gates_judge_by_the_limit_that_was_typed_where_it_allows_more(
    limit: float, asked: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(
        "prune_exp.registry.promotion.promote_model",
        lambda wanted, **_: given.append(wanted.limits),
    )
    one = trial(0)
    one.metrics["max_perplexity_ratio"] = limit
    lifecycle.promote_best(settings(), one, "pruned-tiny")
    assert [limits.max_perplexity_ratio for limits in given] == [asked]


def test_a_model_that_gates_refuse_ends_in_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prune_exp.registry.promotion.promote_model", lambda _, **__: 1)
    one = trial(0)
    one.metrics["max_perplexity_ratio"] = 1.1
    with pytest.raises(SystemExit) as ended:
        lifecycle.promote_best(settings(), one, "pruned-tiny")
    assert ended.value.code == 1


@pytest.mark.parametrize(
    ("changes", "overrides", "said"),
    [
        ({"search.sampler": "largest_kept"}, [], "type -m before the settings"),
        ({"search.sampler": "largest_kept"}, ["sparsity=0.2"], None),
        ({"optimized_metric": "sped"}, [], "optimized_metric=sped is unknown"),
        ({"optimized_metric": "params_pruned_pct"}, [], None),
    ],
)
def test_a_single_trial_is_refused_what_only_several_find(
    changes: dict[str, Any], overrides: list[str], said: str | None, text_file: Path
) -> None:
    asked = settings()
    asked.data.path = str(text_file)
    for key, value in changes.items():
        group, _, name = key.rpartition(".")
        setattr(getattr(asked, group) if group else asked, name, value)
    if said is None:
        lifecycle.check_single(asked, overrides)
        return
    with pytest.raises(SettingError, match=said):
        lifecycle.check_single(asked, overrides)


@pytest.mark.parametrize(
    ("ratio", "spread", "name", "asked"),
    [
        (1.05, 0.02, "pruned-tiny", True),
        (1.15, 0.06, "pruned-tiny", True),
        (1.15, 0.04, "pruned-tiny", False),
        (1.05, 0.02, None, False),
    ],
)
def test_gates_are_asked_where_they_might_say_yes(
    ratio: float,
    spread: float,
    name: str | None,
    asked: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done: list[str] = []
    monkeypatch.setattr(
        "prune_exp.registry.promotion.promote_model", lambda wanted, **_: done.append(wanted.run_id)
    )
    one = trial(0)
    one.metrics.update(interval("worst_perplexity_ratio", ratio, spread))
    one.metrics["max_perplexity_ratio"] = 1.1
    if asked:
        lifecycle.promote_best(settings(), one, name)
    else:
        with pytest.raises(SystemExit) as ended:
            lifecycle.promote_best(settings(), one, name)
        assert ended.value.code == 1
        assert "promoted" in capsys.readouterr().err
    assert done == ([one.run_id] if asked else [])


def test_a_refused_trial_leaves_no_folders(tmp_path: Path) -> None:
    root = tmp_path / "mlruns"

    def output(name: str, **files: str) -> Path:
        folder = root / name
        (folder / ".hydra").mkdir(parents=True)
        for file, text in files.items():
            (folder / file.replace("_log", ".log")).write_text(text, encoding="utf-8")
        return folder

    refused = output("outputs/day/1", prune_exp_log="")
    lifecycle.remove_empty_output(refused, root)
    assert not root.exists(), "nothing was written"
    assert tmp_path.is_dir(), "what is the user's stays, empty or not"
    logged = output("outputs/day/2", prune_exp_log="something")
    model = output("outputs/day/3", model="")
    theirs = output("elsewhere/day/4")
    plain = root / "outputs" / "day" / "5"
    plain.mkdir()
    for folder in (logged, model, theirs, plain, root / "outputs" / "missing"):
        lifecycle.remove_empty_output(folder, root)
    assert all(folder.is_dir() for folder in (logged, model, theirs, plain))


def test_an_error_is_told_though_the_store_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk: the exit code is not 0 because closing the runs fails as well."""
    import mlflow

    open_store(TrackingSettings(root=str(tmp_path)))
    mlflow.start_run()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlflow.tracking.fluent.MlflowClient.set_terminated", full)
    with pytest.raises(SystemExit, match="prune_exp: error: mend it"), _Refusals():
        raise SettingError("mend it")
    assert mlflow.active_run() is None
