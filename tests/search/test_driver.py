"""The driver tells Optuna what trials came to, whatever becomes of their batch."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prune_exp.search import study as studies
from prune_exp.search.driver import Driver, check_optimized, objectives_of
from prune_exp.search.space import SearchRange, Space
from prune_exp.search.sweep import list_points
from prune_exp.settings.checks import settings_of
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import SearchSettings
from prune_exp.settings.schema import Settings
from support.composed import compose_trial, loading_points

COST = {"cost": "minimize"}
Found = dict[int, dict[str, float]]


def nothing() -> Found:
    return {}


def driver_for(
    tmp_path: Path,
    launch: Callable[[list[list[str]], int], Sequence[Any]],
    *,
    confirm: Callable[[list[int]], Found | None] = lambda _: None,
    look_up_finished: Callable[[], Found | None] = nothing,
    lost: list[int] | None = None,
    slots: int = 1,
) -> Driver:
    search = SearchSettings(study_name="s")
    study = studies.open_study(search, tmp_path, "s", COST, {})
    space = Space(fixed=(), listed={"seed": ("0", "1", "2")}, searched={})
    return Driver(
        study,
        space,
        search,
        COST,
        launch=launch,
        on_lost=lambda numbers, _: (lost if lost is not None else []).extend(numbers),
        confirm=confirm,
        look_up_finished=look_up_finished,
        check_ours=lambda: None,
        slots=slots,
        batch_size=3 if slots == 1 else 1,
    )


def states_of(driver: Driver) -> list[str]:
    return [trial.state.name for trial in driver.study.trials]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_batch_keeps_what_had_finished(
    error: type[BaseException], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def launch(*_: object) -> list[Any]:
        raise error

    finished: Found = {0: {"cost": 1.0}, 2: {"cost": 3.0}, 7: {"cost": 0.0}}
    driver = driver_for(tmp_path, launch, look_up_finished=lambda: finished)
    with pytest.raises(error):
        driver.run_rows(driver.space.rows)
    assert states_of(driver) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert driver.study.trials[2].values == [3.0]
    assert studies.INTERRUPTED in driver.study.trials[1].user_attrs
    assert "search.study_name=s goes on" in capsys.readouterr().err
    rows = studies.remaining_rows(driver.study, driver.space, 3)
    assert rows == [{"seed": "1"}]


def test_a_broken_launcher_loses_only_what_had_not_finished(tmp_path: Path) -> None:
    def launch(*_: object) -> list[Any]:
        raise RuntimeError("a worker died")

    lost: list[int] = []
    driver = driver_for(tmp_path, launch, look_up_finished=lambda: {1: {"cost": 2.0}}, lost=lost)
    assert driver.run_rows(driver.space.rows) == []
    assert states_of(driver) == ["FAIL", "COMPLETE", "FAIL"]
    assert lost == [0, 2]
    assert "a worker died" in driver.study.trials[0].user_attrs[studies.ERROR]


def test_trials_that_a_broken_launcher_never_began_are_asked_for_again(tmp_path: Path) -> None:
    """The first had begun, and may be what broke it; a search does not count the others."""

    def launch(*_: object) -> list[Any]:
        raise RuntimeError("a worker died")

    lost: list[int] = []
    driver = driver_for(tmp_path, launch, lost=lost)
    driver.look_up_runs = lambda numbers: {one: "its run" for one in numbers if one == 0}
    driver.run_rows(driver.space.rows)
    assert lost == [0, 1, 2]
    assert driver.failures == 3
    assert states_of(driver) == ["FAIL"] * 3
    counted = [studies.INTERRUPTED not in one.user_attrs for one in driver.study.trials]
    assert counted == [True, False, False]
    assert driver.study.trials[1].user_attrs[studies.ERROR].endswith("a worker died")
    between = SearchRange(low=0.1, high=0.5, integer=False, log=False)
    search = replace(driver.space, listed={}, searched={"sparsity": between})
    assert len(studies.remaining_rows(driver.study, search, 3)) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("a worker died")])
def test_where_the_store_does_not_answer_the_next_start_looks_again(
    error: type[BaseException] | BaseException, tmp_path: Path
) -> None:
    def launch(*_: object) -> list[Any]:
        raise error

    def look_up() -> Found:
        raise ConnectionError("no answer")

    driver = driver_for(tmp_path, launch, look_up_finished=look_up)
    if isinstance(error, RuntimeError):
        assert driver.run_rows(driver.space.rows) == []
    else:
        with pytest.raises(KeyboardInterrupt):
            driver.run_rows(driver.space.rows)
    assert states_of(driver) == ["RUNNING"] * 3


def good_batch(points: list[list[str]], _first: int) -> list[Any]:
    """What a launcher returns of jobs that all ended well."""
    from hydra.core.utils import JobReturn, JobStatus

    returns = []
    for _ in points:
        one = JobReturn()
        one.return_value = {"cost": 1.0}
        one.status = JobStatus.COMPLETED
        returns.append(one)
    return returns


def test_a_result_that_the_store_lacks_is_no_result(tmp_path: Path) -> None:
    lost: list[int] = []
    driver = driver_for(
        tmp_path, good_batch, confirm=lambda _: {0: {"cost": 1.0}, 1: {"cost": 1.0}}, lost=lost
    )
    assert len(driver.run_rows(driver.space.rows)) == 3
    assert states_of(driver) == ["COMPLETE", "COMPLETE", "FAIL"]
    assert driver.failures == 1
    assert lost == [2]


@pytest.mark.parametrize("answers", [True, False])
def test_a_trial_of_the_study_names_its_run(answers: bool, tmp_path: Path) -> None:
    def look_up(numbers: list[int]) -> dict[int, str]:
        if not answers:
            raise ConnectionError("no answer")
        return {number: f"run {number}" for number in numbers}

    driver = driver_for(tmp_path, good_batch)
    driver.look_up_runs = look_up
    driver.run_rows(driver.space.rows)
    assert states_of(driver) == ["COMPLETE"] * 3
    found = [trial.user_attrs.get(studies.RUN) for trial in driver.study.trials]
    assert found == ([f"run {number}" for number in range(3)] if answers else [None] * 3)


def test_while_the_store_does_not_answer_nothing_is_told(tmp_path: Path) -> None:
    def confirm(_: list[int]) -> Found:
        raise ConnectionError("no answer")

    driver = driver_for(tmp_path, good_batch, confirm=confirm)
    driver.run_rows(driver.space.rows)
    assert states_of(driver) == ["RUNNING"] * 3
    assert studies.running_trials(driver.study) == [0, 1, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_trials_of_a_broken_batch_name_their_runs_too(
    error: type[BaseException], tmp_path: Path
) -> None:
    def launch(*_: object) -> list[Any]:
        raise error

    driver = driver_for(tmp_path, launch, look_up_finished=lambda: {1: {"cost": 2.0}})
    driver.look_up_runs = lambda numbers: {number: f"run {number}" for number in numbers}
    with suppress(KeyboardInterrupt):
        driver.run_rows(driver.space.rows)
    assert states_of(driver) == ["FAIL", "COMPLETE", "FAIL"]
    found = [trial.user_attrs.get(studies.RUN) for trial in driver.study.trials]
    assert found == ["run 0", "run 1", "run 2"]


@pytest.mark.parametrize("answers", [True, False])
def test_trials_that_a_killed_driver_left_name_their_runs_too(
    answers: bool, tmp_path: Path
) -> None:
    from prune_exp.search.sweep import _tell_cut_off

    def look_up(hook: str, numbers: list[int], parent: str) -> dict[int, str]:
        assert (hook, parent) == ("on_runs_wanted", "earlier")
        if not answers:
            raise ConnectionError("no answer")
        return {number: f"run {number}" for number in numbers}

    driver = driver_for(tmp_path, good_batch)
    driver.study.set_user_attr(studies.PARENT, "earlier")
    studies.ask_trials(driver.study, driver.space, driver.space.rows)
    hydra: Any = SimpleNamespace(call_hooks=look_up)
    _tell_cut_off(hydra, driver.study, {1: {"cost": 2.0}}, Settings(), COST)
    assert states_of(driver) == ["FAIL", "COMPLETE", "FAIL"]
    found = [trial.user_attrs.get(studies.RUN) for trial in driver.study.trials]
    assert found == ([f"run {number}" for number in range(3)] if answers else [None] * 3)


def searching_for(text_file: Path, **changes: Any) -> Settings:
    """Settings of a search by its default objectives, with something switched off."""
    settings = Settings()
    settings.data.path = str(text_file)
    settings.search.objectives = changes.pop("objectives", ["latency_ratio"])
    settings.search.constraints = changes.pop("constraints", [])
    for name in changes:
        getattr(settings, name).enabled = False
    return settings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"benchmark": "off"},
            "benchmark=off does not measure latency_ratio, which is searched for unless something"
            " else is; type search.objectives=[weights_read_ratio,bits_per_byte_increase], or"
            " experiment=search",
        ),
        (
            {"quality": "off", "objectives": ["bits_per_byte_increase"]},
            "quality=off does not measure bits_per_byte_increase, which is searched for unless"
            " something else is; type search.objectives=[weights_read_ratio]",
        ),
        ({"benchmark": "off", "objectives": ["speedup:maximize"]}, "benchmark=off does not mea"),
        ({"benchmark": "off", "quality": "off"}, "benchmark=off with quality=off does not meas"),
        ({"objectives": ["recovery/steps"]}, "recovery=none does not measure recovery/steps"),
        ({"objectives": ["latency_ratoi"]}, "search.objectives=latency_ratoi is unknown"),
    ],
)
def test_what_is_not_measured_is_not_searched_for(
    changes: dict[str, Any], said: str, text_file: Path
) -> None:
    with pytest.raises(SettingError) as refused:
        objectives_of([searching_for(text_file, **changes)], searching=True)
    assert str(refused.value).startswith(said)


def test_a_list_runs_without_its_objectives_but_not_without_its_constraints(
    text_file: Path,
) -> None:
    listed = searching_for(text_file, benchmark="off")
    assert objectives_of([listed], searching=False) == {"weights_read_ratio": "minimize"}
    bound = searching_for(text_file, benchmark="off", constraints=["latency_ratio:0.8"])
    with pytest.raises(SettingError, match="take it out of search"):
        objectives_of([bound], searching=False)


def test_a_list_keeps_the_objectives_that_all_its_points_measure(text_file: Path) -> None:
    wanted = ["latency_ratio", "bits_per_byte_increase"]
    timed = searching_for(text_file, objectives=wanted)
    untimed = searching_for(text_file, benchmark="off", objectives=wanted)
    for points in ([timed, untimed], [untimed, timed]):
        assert objectives_of(points, searching=False) == {"bits_per_byte_increase": "minimize"}
    bound = searching_for(text_file, benchmark="off", constraints=["latency_ratio:0.8"])
    with pytest.raises(SettingError, match="take it out of search"):
        objectives_of([timed, bound], searching=False)


@pytest.mark.parametrize("key", ["kl_to_dense", "top1_agreement"])
def test_other_vocabularies_are_not_compared_token_by_token(key: str, text_file: Path) -> None:
    settings = searching_for(text_file, objectives=[key])
    assert objectives_of([settings], searching=True)
    settings.pruning.units = ["mlp", "vocab"]
    settings.pruning.vocab_share = 0.0
    assert objectives_of([settings], searching=True)
    settings.pruning.vocab_share = 0.15
    with pytest.raises(SettingError) as refused:
        objectives_of([settings], searching=True)
    said = f"search.objectives: {key} compares models with the same tokens; use pruning=consensus"
    assert str(refused.value).startswith(said)
    settings.optimized_metric = key
    with pytest.raises(SettingError, match="compares models with the same tokens"):
        check_optimized(settings)


@pytest.mark.parametrize(
    ("metric", "changes", "said"),
    [
        ("latency_ratio", {}, ""),
        (None, {}, ""),
        ("latency_ratoi", {}, "did you mean latency_ratio?"),
        ("latency_ratio", {"benchmark": "off"}, "optimized_metric=latency_ratio is not measured"),
        ("kl_to_dense", {"quality": "off"}, "optimized_metric=kl_to_dense is not measured"),
    ],
)
def test_what_another_sweeper_optimizes_must_be_measured(
    metric: str | None, changes: dict[str, Any], said: str, text_file: Path
) -> None:
    settings = searching_for(text_file, **changes)
    settings.optimized_metric = metric
    if not said:
        check_optimized(settings)
        return
    with pytest.raises(SettingError) as refused:
        check_optimized(settings)
    assert said in str(refused.value)


@pytest.mark.parametrize("swept", ["data.path={a},{b}", "data=file,wikipedia data.path={a}"])
def test_texts_may_be_swept(swept: str, text_file: Path, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("another text", encoding="utf-8")
    arguments = swept.format(a=text_file, b=tmp_path / "b.txt").split()
    if len(arguments) == 1:
        arguments.insert(0, "data=file")
    config = compose_trial("data=file")
    with loading_points() as loader:
        _, configs = list_points(config, loader, [*arguments, "benchmark=off"])
    assert len(configs) == 2
    assert settings_of(configs[0]).data.path == str(text_file)
    assert objectives_of([settings_of(configs[0])], searching=False)


@pytest.mark.parametrize(("minutes", "ran"), [(None, 3), (1000.0, 3), (0.0, 0)])
def test_no_trial_is_started_after_so_many_minutes(
    minutes: float | None, ran: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = driver_for(tmp_path, good_batch)
    driver.search.minutes = minutes
    driver.batch_size = 1
    assert len(driver.run_rows(driver.space.rows)) == ran
    told = capsys.readouterr().err
    assert ("stopped after search.minutes=0, 3 not run" in told) == (ran == 0)
    assert ("2 of 3 trials have run; about" in told) == (ran == 3)
    assert "3 of 3" not in told


def test_trials_that_outlive_their_launcher_come_to_their_end(tmp_path: Path) -> None:
    finished: Found = {0: {"cost": 1.0}}

    def launch(*_: object) -> list[Any]:
        raise RuntimeError("a worker died")

    driver = driver_for(tmp_path, launch, look_up_finished=lambda: finished)
    driver.await_running = lambda _: finished.update({2: {"cost": 3.0}})
    driver.run_rows(driver.space.rows)
    assert states_of(driver) == ["COMPLETE", "FAIL", "COMPLETE"]


@pytest.mark.parametrize("slots", [2, 3])
def test_the_next_trial_is_asked_for_when_one_has_ended(slots: int, tmp_path: Path) -> None:
    """The first trial ends after all others, and holds nobody up."""
    others_ended = threading.Event()
    order: list[int] = []

    def launch(points: list[list[str]], first: int) -> list[Any]:
        assert len(points) == 1
        if first == 0:
            assert others_ended.wait(60)
        order.append(first)
        if len(order) == 2:
            others_ended.set()
        return good_batch(points, first)

    driver = driver_for(tmp_path, launch, slots=slots)
    states: list[list[str]] = []
    confirm = driver.confirm
    driver.confirm = lambda numbers: states.append(states_of(driver)) or confirm(numbers)
    returns = driver.run_rows(driver.space.rows)
    assert order[-1] == 0
    assert len(returns) == 3
    assert states_of(driver) == ["COMPLETE"] * 3
    running = [found.count("RUNNING") for found in states]
    assert max(running) == slots
    assert [len(found) for found in states] == ([2, 3, 3] if slots == 2 else [3, 3, 3])


def test_a_trial_that_breaks_its_launcher_leaves_those_beside_it_alone(tmp_path: Path) -> None:
    others_ended = threading.Event()

    def launch(points: list[list[str]], first: int) -> list[Any]:
        if first == 1:
            raise RuntimeError("a worker died")
        if first == 0:
            assert others_ended.wait(60)
        else:
            others_ended.set()
        return good_batch(points, first)

    lost: list[int] = []
    awaited: list[list[int]] = []
    driver = driver_for(tmp_path, launch, lost=lost, slots=2)
    driver.await_running = awaited.append
    assert len(driver.run_rows(driver.space.rows)) == 2
    assert states_of(driver) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert (lost, awaited) == ([1], [[1]])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_reaches_every_launcher(error: type[BaseException], tmp_path: Path) -> None:
    begun = threading.Barrier(2)
    interrupted: list[int] = []

    def launch(points: list[list[str]], first: int) -> list[Any]:
        try:
            begun.wait(60)
            if first == 1:
                raise error
            for _ in range(6000):  # as launchers do, which look again and again
                time.sleep(0.01)
        except KeyboardInterrupt:
            interrupted.append(first)
            raise
        return good_batch(points, first)

    driver = driver_for(tmp_path, launch, look_up_finished=lambda: {1: {"cost": 2.0}}, slots=2)
    with pytest.raises(error):
        driver.run_rows(driver.space.rows)
    assert 0 in interrupted
    assert states_of(driver) == ["FAIL", "COMPLETE"]
    assert studies.INTERRUPTED in driver.study.trials[0].user_attrs


def test_who_was_replaced_ends_its_trials_and_leaves_the_study_alone(tmp_path: Path) -> None:
    begun = threading.Barrier(2)

    def launch(points: list[list[str]], first: int) -> list[Any]:
        begun.wait(60)
        if first == 1:
            return good_batch(points, first)
        for _ in range(6000):
            time.sleep(0.01)
        return []

    def check_ours() -> None:
        if begun.broken:
            raise SettingError("another process took over")

    driver = driver_for(tmp_path, launch, slots=2)
    driver.check_ours = check_ours
    driver.confirm = lambda _: begun.abort()
    with pytest.raises(SettingError, match="took over"):
        driver.run_rows(driver.space.rows)
    assert states_of(driver) == ["RUNNING", "COMPLETE"]


def test_no_more_trials_begin_once_too_many_have_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def launch(*_: object) -> list[Any]:
        raise RuntimeError("a worker died")

    driver = driver_for(tmp_path, launch, slots=2)
    driver.look_up_runs = lambda numbers: dict.fromkeys(numbers, "its run")
    driver.search.max_failures = 1
    assert driver.run_rows(driver.space.rows) == []
    assert states_of(driver) == ["FAIL", "FAIL"]
    assert "(search.max_failures=1), 1 not run" in capsys.readouterr().err
