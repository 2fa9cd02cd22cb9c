"""Runs what is left of a study: asks for trials, has them launched, tells how they went."""

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_exp.machine.display import show_duration
from prune_exp.search import study as studies
from prune_exp.search.slots import Ended, Slots
from prune_exp.search.space import Space
from prune_exp.search.summary import describe_trial, print_front, write_plots
from prune_exp.settings.choices import describe_unknown
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import SearchSettings
from prune_exp.settings.params import flatten_settings
from prune_exp.settings.schema import Settings
from prune_exp.text.domains import list_judged_files
from prune_exp.tracking.metrics import metric_keys

if TYPE_CHECKING:
    import optuna

Launch = Callable[[list[list[str]], int], Sequence[Any]]
"""Runs trials given by their overrides, numbered from the second argument on."""
Lost = Callable[[list[int], str], None]
"""Hears of trials whose launcher broke down, and why."""
Metrics = dict[str, float]
Confirm = Callable[[list[int]], dict[int, Metrics] | None]
"""Metrics of those trials that the store has as finished; None where nothing is tracked."""
Finished = Callable[[], dict[int, Metrics] | None]
"""Metrics of the sweep's finished trials as the store has them."""
FALLBACK = {"weights_read_ratio": "minimize"}
OF_DISTRIBUTIONS = ("kl_to_dense", "top1_agreement")
"""Metrics of two models with the same tokens."""


class Driver:
    """One start of a study: trials, told as they end.

    `slots` batches of `batch_size` trials run at a time.
    """

    def __init__(
        self,
        study: "optuna.Study",
        space: Space,
        search: SearchSettings,
        directions: dict[str, str],
        *,
        launch: Launch,
        on_lost: Lost,
        confirm: Confirm,
        look_up_finished: Finished,
        check_ours: Callable[[], None],
        slots: int,
        batch_size: int = 1,
        why_settled: Callable[[], str] = str,
        look_up_runs: Callable[[list[int]], dict[int, str] | None] = lambda _: None,
        await_running: Callable[[list[int]], None] = lambda _: None,
    ) -> None:
        self.study = study
        self.space = space
        self.search = search
        self.directions = directions
        self.slots = slots
        self.batch_size = batch_size
        self.why_settled = why_settled
        self.look_up_runs = look_up_runs
        self.await_running = await_running
        self.launch = launch
        self.on_lost = on_lost
        self.confirm = confirm
        self.check_ours = check_ours
        self.look_up_finished = look_up_finished
        self.failures = 0

    def run_rows(self, rows: Sequence[dict[str, str]]) -> list[Any]:
        """Runs every row, some at a time; returns what jobs returned, in the trials' order.

        Raises:
            SettingError: another process took the study over.
        """
        size = self.batch_size
        waiting = deque(rows[start : start + size] for start in range(0, len(rows), size))
        slots = Slots(self._launch_batch, self.slots)
        begin = time.monotonic()
        returns: dict[int, Any] = {}
        try:
            while waiting or slots.numbers:
                self.check_ours()
                if not waiting or not slots.has_free:
                    returns |= self._end_batch(slots.wait())
                    continue
                seconds = time.monotonic() - begin
                left = sum(map(len, waiting))
                if why := self._why_to_end(left, seconds):
                    print(f"prune_exp: {why}", file=sys.stderr)
                    waiting.clear()
                    continue
                if done := len(rows) - left - len(slots.numbers):
                    print(describe_left(done, len(rows), seconds), file=sys.stderr)
                self._start_batch(slots, waiting.popleft())
        except SettingError:
            slots.interrupt()
            raise
        except BaseException:
            self._interrupt_trials(slots)
            raise
        return [returns[number] for number in sorted(returns)]

    def _why_to_end(self, left: int, seconds: float) -> str:
        """Why the trials that are left are not run; empty where they are."""
        search = self.search
        if why := self.why_settled():
            return why
        if search.max_failures is not None and self.failures >= search.max_failures:
            return (
                f"stopped after {self.failures} failed trials"
                f" (search.max_failures={search.max_failures}), {left} not run"
            )
        if search.minutes is not None and seconds >= 60 * search.minutes:
            return f"stopped after search.minutes={search.minutes:g}, {left} not run"
        return ""

    def _start_batch(self, slots: Slots, rows: Sequence[dict[str, str]]) -> None:
        asked = studies.ask_trials(self.study, self.space, rows)
        points = [self.space.overrides(studies.point_of(trial)) for trial in asked]
        slots.start(points, [trial.number for trial in asked])

    def _end_batch(self, ended: Ended) -> dict[int, Any]:
        """Tells how a batch went; returns what its jobs returned, by the trials' numbers."""
        if ended.error is not None:
            lost = self._keep_finished(ended.numbers, wait=True) or []
            self._tell_lost(lost, f"{type(ended.error).__name__}: {ended.error}")
            self._report_lost(lost, str(ended.error))
            return {}
        self.check_ours()
        found = dict(zip(ended.numbers, ended.returns, strict=True))
        self._tell_batch({number: _outcome_of(one) for number, one in found.items()})
        return found

    def _interrupt_trials(self, slots: Slots) -> None:
        """Ends what runs; what had finished keeps its result."""
        slots.interrupt()
        for number in self._keep_finished(slots.numbers) or []:
            studies.interrupt_trial(self.study, number)
        print(
            f"prune_exp: the same command with search.study_name={self.study.study_name} goes on",
            file=sys.stderr,
        )

    def _tell_batch(self, outcomes: dict[int, tuple[Metrics | None, str]]) -> None:
        """Tells how trials went; of good ones only those that the store has as finished."""
        good = {number: metrics for number, (metrics, _) in outcomes.items() if metrics is not None}
        bad = {number: why for number, (metrics, why) in outcomes.items() if metrics is None}
        try:
            confirmed = self.confirm(list(good)) if good else {}
        except Exception as error:
            print(
                f"prune_exp: the store does not answer ({error}); what came of trials"
                f" {', '.join(map(str, good))} is looked up when the study goes on",
                file=sys.stderr,
            )
            good = {}
            confirmed = {}
        missing = [number for number in good if confirmed is not None and number not in confirmed]
        for number in missing:
            del good[number]
            bad[number] = "the store has no result of it"
        self._note_runs([*good, *bad])
        for number in sorted(good | bad):
            self._tell_trial(number, good.get(number), bad.get(number, ""))
        if bad:
            self._report_lost(list(bad), next(iter(bad.values())))

    def _tell_lost(self, numbers: list[int], why: str) -> None:
        """Tells of trials whose launcher broke down: those that had not begun do not count."""
        began = self._find_runs(numbers)
        for number in numbers:
            if began is None or number in began:
                self._tell_trial(number, None, why)
            else:
                studies.interrupt_trial(self.study, number, f"not begun: {why}")
                self.failures += 1

    def _find_runs(self, numbers: list[int]) -> dict[int, str] | None:
        """Which run of the store each trial is; None where the store does not say."""
        with suppress(Exception):  # nothing depends on it
            return self.look_up_runs(numbers)
        return None

    def _note_runs(self, numbers: list[int]) -> None:
        """Notes which run of the store each trial is, for people who look at the study."""
        with suppress(Exception):  # nothing depends on it
            studies.note_runs(self.study, self._find_runs(numbers) or {})

    def _report_lost(self, numbers: list[int], reason: str) -> None:
        try:
            self.on_lost(numbers, reason)
        except Exception as error:
            print(f"prune_exp: the store was not told of failed trials: {error}", file=sys.stderr)

    def _keep_finished(self, numbers: list[int], *, wait: bool = False) -> list[int] | None:
        """Records those of a broken batch that the store has as finished; returns the others.

        With `wait` those that still run may come to their end first.
        None where the store does not answer; the next start of the study then looks again.
        """
        try:
            if wait:
                self.await_running(numbers)
            finished = self.look_up_finished() or {}
        except Exception as error:
            print(f"prune_exp: what had finished cannot be looked up: {error}", file=sys.stderr)
            return None
        self._note_runs(numbers)
        for number in numbers:
            if number in finished:
                self._tell_trial(number, finished[number], "")
        return [number for number in numbers if number not in finished]

    def _launch_batch(self, points: list[list[str]], numbers: list[int]) -> list[Any]:
        """Launches a batch; job numbers are trial numbers, which another driver may interleave."""
        returns: list[Any] = []
        start = 0
        for place in range(1, len(numbers) + 1):
            if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
                batch = points[start:place]
                returns += self.launch(batch, numbers[start])
                start = place
        return returns

    def _tell_trial(self, number: int, metrics: Metrics | None, error: str) -> None:
        reason = studies.tell_trial(
            self.study, number, metrics, self.directions, self.search.limits, error
        )
        self.failures += bool(reason)
        print(describe_trial(self.study, number, list(self.directions)), file=sys.stderr)

    def show_findings(self, folder: Path) -> None:
        """Shows the front and draws Optuna's plots, where something was searched."""
        if not self.space.searched:
            return
        print_front(self.study, list(self.directions))
        write_plots(self.study, list(self.directions), folder / "optuna")


def describe_left(done: int, total: int, seconds: float) -> str:
    """How long the other trials of a sweep may take, if they are like those that have run."""
    left = show_duration(seconds / done * (total - done))
    return f"prune_exp: {done} of {total} trials have run; about {left} left"


def _outcome_of(result: Any) -> tuple[Metrics | None, str]:
    """A job's metrics, or why it has none."""
    from hydra.core.utils import JobStatus

    if result.status == JobStatus.COMPLETED:
        return result.return_value, ""
    error = result._return_value
    return None, f"{type(error).__name__}: {error}"


def objectives_of(points: Sequence[Settings], *, searching: bool) -> dict[str, str]:
    """The objectives' directions, checked against the keys that the trials of all points will have.

    An enumeration runs the same points whatever its objectives are, so those that it does not
    measure everywhere are left out of its record; constraints decide on its best trial too.

    Raises:
        SettingError: a search would optimize, or anything constrain, what is not measured.
    """
    directions = points[0].search.directions
    measured = set(directions)
    for settings in {_describe_measured(one): one for one in points}.values():
        keys = _keys_of(settings)
        wanted = {"constraints": settings.search.limits}
        if searching:
            wanted = {"objectives": directions, **wanted}
        for name, metrics in wanted.items():
            for key in metrics:
                if key not in keys:
                    raise SettingError(_explain_missing(settings, f"search.{name}", key, keys))
        measured &= set(keys)
    return {key: way for key, way in directions.items() if key in measured} or FALLBACK


def _describe_measured(settings: Settings) -> str:
    """All that decides which metrics a trial will have; texts are read to know them."""
    groups = (settings.data, settings.quality, settings.benchmark, settings.recovery)
    return repr((*groups, removes_tokens(settings), settings.search))


def check_optimized(settings: Settings) -> None:
    """Refuses a metric to optimize for another sweeper that trials will not have.

    Raises:
        SettingError: there is none of the name, or it is not measured.
    """
    metric = settings.optimized_metric
    if metric is None:
        return
    keys = _keys_of(settings)
    if metric in keys:
        return
    if metric in OF_DISTRIBUTIONS and removes_tokens(settings):
        raise SettingError(
            f"optimized_metric={metric} compares models with the same tokens; use pruning=consensus"
            " or another that removes none"
        )
    if metric in _keys_of(settings, all_measured=True):
        raise SettingError(
            f"optimized_metric={metric} is not measured by these settings; measure it with"
            " benchmark=default and quality=default, or use optimized_metric=weights_read_ratio"
        )
    raise SettingError(describe_unknown("optimized_metric", metric, keys))


def _keys_of(settings: Settings, *, all_measured: bool = False) -> list[str]:
    """The metrics that trials will have, or could have with everything switched on."""
    keys = metric_keys(
        speed=all_measured or settings.benchmark.enabled,
        quality=all_measured or settings.quality.enabled,
        recovery=all_measured or settings.recovery.name != "none",
        batches=list(settings.benchmark.batches),
        tasks=settings.quality.tasks,
        domains=[one.file.name for one in list_judged_files(settings.data, settings.quality)],
    )
    if removes_tokens(settings) and not all_measured:
        return [key for key in keys if key.rpartition("/")[2] not in OF_DISTRIBUTIONS]
    return keys


def removes_tokens(settings: Settings) -> bool:
    """Whether trials may have a smaller vocabulary than the dense model."""
    pruning = settings.pruning
    shares = (pruning.vocab_share, *pruning.rehearse_vocab)
    return "vocab" in pruning.units and any(share > 0 for share in shares)


def _explain_missing(settings: Settings, name: str, key: str, keys: list[str]) -> str:
    """Why trials will not have a metric, and what to type."""
    if key not in _keys_of(settings, all_measured=True):
        return describe_unknown(name, key, keys)
    switched_off = {
        "benchmark=off": not settings.benchmark.enabled,
        "quality=off": not settings.quality.enabled,
        "recovery=none": key.startswith("recovery/") and settings.recovery.name == "none",
    }
    if key in OF_DISTRIBUTIONS and removes_tokens(settings):
        return (
            f"{name}: {key} compares models with the same tokens; use pruning=consensus or another"
            " that removes none, or leave it out"
        )
    why = " with ".join(option for option, applies in switched_off.items() if applies)
    if name == "search.constraints":
        return f"{why} does not measure {key}; take it out of {name}, or measure it"
    left = ["weights_read_ratio", *(["bits_per_byte_increase"] if settings.quality.enabled else [])]
    return (
        f"{why} does not measure {key}, which is searched for unless something else is; type"
        f" search.objectives=[{','.join(left)}]"
        + (", or experiment=search" if settings.quality.enabled else "")
    )


def fingerprint_of(settings: Settings, space: Space) -> dict[str, str]:
    """What must stay the same for a study to go on."""
    swept = {f"{studies.SPACE}{key}": text for key, text in space.describe().items()}
    ignored = space.describe()
    config = {key: value for key, value in flatten_settings(settings).items() if key not in ignored}
    return config | swept
