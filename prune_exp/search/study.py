"""The Optuna study of a sweep: where it lives, what is left to do, what trials came to."""

import fcntl
import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import IO, Any

import optuna
from optuna import samplers
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import Trial, TrialState

from prune_exp.machine.cache import digest_of
from prune_exp.machine.display import first_line
from prune_exp.search.samplers import make_sampler
from prune_exp.search.space import SEARCH, SearchChoice, SearchRange, Space
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import SearchSettings
from prune_exp.settings.redaction import redact
from prune_exp.tracking.metrics import AT_LEAST, describe_stop, is_stopped

FINGERPRINT = "fingerprint"
PARENT = "mlflow_parent"
INTERRUPTED = "interrupted"
WARM = "warm_start"
"""Of a trial that another study ran: which one, as STUDY/NUMBER. Of a study: what differs."""
STOPPED = "stopped"
"""Which constraint a trial could not meet, of one that was ended for that."""
ERROR = "error"
RUN = "mlflow_run"
POINT = "point"
"""Of what lists give a trial the words as typed, from which its config is composed."""
UNCOMPARED = frozenset(
    {
        "cache_dir",
        "plan",
        "search.study_name",
        "search.n_trials",
        "search.parallel",
        "search.max_failures",
        "search.minutes",
        "search.space",
        "search.start_at_ends",
        "search.stop",
        "search.warm_start",
        "tracking.best",
        "tracking.log_models",
        "tracking.promote",
        "tracking.register",
        "tracking.registered_model",
        "tracking.serve_as",
        "tracking.signing_key",
    }
)
"""Settings that change no trial's result."""
TAGS = "tracking.tags."
"""Before a tag of the user's, which changes no result either."""
UNSET = "None"
"""How a setting that is null is noted."""
NOTHING_SET = (UNSET, "[]", "False")
"""Values of settings that earlier versions did not know, under which all is as it was."""
SPACE = "space of "
"""Before a swept setting in a fingerprint."""
KNOWN_BY_DIGEST = {
    "digest of the dense model": ("model.path", "model.package"),
    "digest of the text": ("data.path", "data.package"),
    "digest of the prompts": ("benchmark.prompts_path",),
    "digest of the questions": ("quality.tasks_path",),
}
"""Where inputs are found, which does not matter where their digests are noted."""
OF_INPUTS = ("digest of ", "version of ")
"""How entries of a fingerprint begin that are about inputs, which earlier studies did not note."""
WITH_POINT = re.compile(r"[+-]?(\d+\.\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
DIGITS = 12
"""Of numbers that are compared: steps that are added up leave dust behind them."""
JOURNAL = "optuna.journal"
TAIL_BYTES = 1 << 16
"""How much of a journal's end is read at a time."""
STALE_LOCK_S = 30
"""A journal lock this old was left behind by a process that was killed."""


def storage_of(search: SearchSettings, root: Path) -> Any:
    """Optuna's storage: the URL of the settings, or a journal file under `root`.

    Raises:
        SettingError: the journal is damaged, or the package that talks to the database is missing.
    """
    if search.storage is not None:
        return _open_database(search.storage)
    root.mkdir(parents=True, exist_ok=True)
    path = str(root / JOURNAL)
    lock = JournalFileOpenLock(path, grace_period=STALE_LOCK_S)
    try:
        return JournalStorage(WholeLines(path, lock_obj=lock))
    except (KeyError, TypeError, ValueError, IndexError):
        raise SettingError(
            f"{path}, where studies are kept, is damaged{_first_bad_line(Path(path))}; put it aside"
            f" as with mv {path} {path}.damaged, and studies begin anew (runs and models are in"
            " MLflow, and stay)"
        ) from None


def _open_database(url: str) -> Any:
    """A database whose connections are tried before they are used: it may have restarted."""
    try:
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except ImportError as error:
        raise SettingError(
            f"search.storage={redact(url)} needs a package that is not installed"
            f" ({first_line(error)}); for PostgreSQL type pip install 'prune-exp[postgresql]' and"
            " let the URL begin with postgresql+psycopg://"
        ) from None


def _first_bad_line(journal: Path) -> str:
    """Where a journal is no JSON, in words; empty where every line is."""
    for number, line in enumerate(journal.read_bytes().splitlines(), start=1):
        try:
            json.loads(line)
        except ValueError:
            return f" in line {number}"
    return ""


class WholeLines(JournalFileBackend):
    """A journal in which a line that a kill or a full disk cut off spoils none after it.

    Optuna reads past a last line without an end, but would write the next one on to it.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends lines, all of them or none."""
        lines = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs)
        self._lock.acquire()
        try:
            with open(self._file_path, "r+b", buffering=0) as journal:
                whole = _end_of_whole_lines(journal)
                journal.truncate(whole)
                journal.seek(whole)
                _append_all(journal, lines.encode(), whole)
        finally:
            self._lock.release()


def _end_of_whole_lines(journal: FileIO) -> int:
    """Where the last line ends that has an end."""
    end = journal.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - TAIL_BYTES)
        journal.seek(start)
        found = journal.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _append_all(journal: FileIO, lines: bytes, start: int) -> None:
    """Writes at the end; takes back what was written where it is not all."""
    left = memoryview(lines)
    try:
        while left:
            left = left[journal.write(left) :]
        os.fsync(journal.fileno())
    except OSError:
        journal.truncate(start)
        raise


def find_study(
    search: SearchSettings, root: Path, fingerprint: Mapping[str, str]
) -> optuna.Study | None:
    """The study that a sweep would go on with; none is made.

    Raises:
        SettingError: it exists with other settings.
    """
    if search.study_name is None:
        return None
    if search.storage is None and not (root / JOURNAL).is_file():
        return None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = storage_of(search, root)
    if search.study_name not in optuna.get_all_study_names(storage):
        return None
    study = optuna.load_study(study_name=search.study_name, storage=storage)
    _check_same(study, fingerprint)
    return study


@contextmanager
def sole_driver(root: Path, name: str) -> Any:
    """Holds a study for this process, as far as this machine goes.

    Raises:
        SettingError: another process is running it.
    """
    root.mkdir(parents=True, exist_ok=True)
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    path = root / f".study-{safe}.lock"
    with path.open("ab") as held:
        if not _is_ours(held, path):
            raise SettingError(
                f"search.study_name={name} is being run by another process; wait for it, or give"
                " another name"
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _is_ours(held: IO[bytes], path: Path) -> bool:
    """Locks an open file; false where another process has it, or had it and has just removed it."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(held.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def open_study(
    search: SearchSettings,
    root: Path,
    name: str,
    directions: Mapping[str, str],
    fingerprint: Mapping[str, str],
    sampler: BaseSampler | None = None,
) -> optuna.Study:
    """Creates the study, or loads it to go on with it; the settings name the sampler by default.

    Raises:
        SettingError: it exists with another space or config; says what differs.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    storage = storage_of(search, root)
    known = name in optuna.get_all_study_names(storage)
    if known:
        _check_same(optuna.load_study(study_name=name, storage=storage), fingerprint)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=list(directions.values()),  # pyright: ignore[reportArgumentType]
        load_if_exists=True,
    )
    study.sampler = sampler or make_sampler(search, seen=len(study.trials))
    if not known:
        study.set_metric_names(list(directions))
    if study.user_attrs.get(FINGERPRINT) != fingerprint:
        study.set_user_attr(FINGERPRINT, dict(fingerprint))
    return study


def _check_same(study: optuna.Study, fingerprint: Mapping[str, str]) -> None:
    """Raises SettingError where something differs; of inputs only where it was noted then."""
    differ = [
        f"{key} was {before} and is {now}"
        for key, (before, now) in list_differences(study, fingerprint).items()
    ]
    if differ:
        of_text = any(one.startswith("digest of the text") for one in differ)
        version = " (other versions may cut the same text into other documents)" if of_text else ""
        raise SettingError(
            f"search.study_name={study.study_name} exists with other settings:"
            f" {'; '.join(differ[:5])}{version}; give a new search.study_name, or what it had"
            " before"
        )


def list_differences(
    study: optuna.Study, fingerprint: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """What decides on results and was otherwise in a study: before and now, by name."""
    earlier = _comparable(study.user_attrs.get(FINGERPRINT, {}))
    fingerprint = _comparable(fingerprint)
    for digest, places in KNOWN_BY_DIGEST.items():
        if digest in earlier and digest in fingerprint:
            for place in places:
                earlier.pop(place, None)
                fingerprint.pop(place, None)
    return {
        key: (earlier.get(key, "not set"), fingerprint.get(key, "not set"))
        for key in sorted(earlier.keys() | fingerprint.keys())
        if earlier.get(key) != fingerprint.get(key)
        and not (key.startswith(OF_INPUTS) and key not in earlier)
        and not (fingerprint.get(key) in NOTHING_SET and key not in earlier)
    }


def directions_of(study: optuna.Study) -> dict[str, str]:
    """The objectives that a study was made with; empty where it does not name them."""
    names = study.metric_names or []
    return dict(zip(names, (one.name.lower() for one in study.directions), strict=False))


def _comparable(fingerprint: Mapping[str, str]) -> dict[str, str]:
    """What must be the same: of an enumeration which settings it lists, but not their values."""
    kept = {
        key: value
        for key, value in fingerprint.items()
        if key not in UNCOMPARED and not key.startswith(TAGS)
    }
    if kept.get("tracking.uri", UNSET) != UNSET or kept.get("search.storage") == UNSET:
        kept.pop("tracking.root", None)  # runs are elsewhere, or where the study itself was found
    spaces = [key for key in kept if key.startswith(SPACE)]
    marks = ("interval(", f"tag({SEARCH},")
    searched = [key for key in spaces if any(mark in kept[key] for mark in marks)]
    if not searched:
        return kept | dict.fromkeys(spaces, "a list")
    listed = {key: kept[key].split(",") for key in spaces if key not in searched}
    return kept | {key: ",".join(map(_plain_value, values)) for key, values in listed.items()}


def distributions_of(study: optuna.Study, space: Space) -> dict[str, BaseDistribution]:
    """Optuna's form of a space. Lists of numbers are numbers, so that plots have an axis for them.

    Studies of earlier versions hold them as words, and go on with words. Lists of other things are
    Optuna's only beside an interval: Optuna's own lists could never become longer.
    """
    words = _keys_held_as_words(study)
    made: dict[str, BaseDistribution] = {}
    for key, values in space.listed.items():
        numbers = None if key in words else read_numbers(values)
        if numbers is not None:
            made[key] = FloatDistribution(min(numbers), max(numbers))
        elif space.searched:
            made[key] = CategoricalDistribution(values)
    return made | {key: _distribution_of(one) for key, one in space.searched.items()}


def read_numbers(values: Iterable[str]) -> list[float] | None:
    """The numbers of a list, or None where it holds anything else."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _keys_held_as_words(study: optuna.Study) -> set[str]:
    """Settings that a study's trials have as one word of several."""
    return {
        key
        for trial in study.get_trials(deepcopy=False)
        for key, one in trial.distributions.items()
        if isinstance(one, CategoricalDistribution)
    }


def _distribution_of(one: SearchRange | SearchChoice) -> BaseDistribution:
    if isinstance(one, SearchChoice):
        return CategoricalDistribution(one.values)
    if one.integer:
        return IntDistribution(int(one.low), int(one.high), log=one.log, step=int(one.step or 1))
    return FloatDistribution(one.low, one.high, log=one.log, step=one.step)


def remaining_rows(study: optuna.Study | None, space: Space, n_trials: int) -> list[dict[str, Any]]:
    """The listed part of every trial that is still to run, in order; all of them without a study.

    Listed points each count once they have a result. In a search every trial counts that was not
    interrupted, up to `n_trials`, dealt to the listed points in turn; points that were cut off come
    first, whole.
    """
    if study is None:
        return _deal_rows(space, 0, n_trials) if space.searched else [*space.rows]
    told = [t for t in study.trials if t.state.is_finished() and WARM not in t.user_attrs]
    if not space.searched:
        done = [_plain_point(point_of(t)) for t in told if t.state != TrialState.FAIL]
        return [row for row in space.rows if _plain_point(row) not in done]
    used = sum(INTERRUPTED not in t.user_attrs for t in told)
    again = _points_cut_off(study, space)[: max(0, n_trials - used)]
    return again + _deal_rows(space, used + len(again), n_trials)


def _plain_point(point: Mapping[str, Any]) -> dict[str, str]:
    """A point that is equal however its numbers were typed: `.3`, `0.30`, or by steps."""
    return {key: _plain_value(value) for key, value in point.items()}


def _plain_value(value: Any) -> str:
    """A value as text, a number with a point in its shortest form."""
    text = str(value)
    return f"{float(text):.{DIGITS}g}" if WITH_POINT.fullmatch(text) else text


def _deal_rows(space: Space, start: int, stop: int) -> list[dict[str, Any]]:
    """Trials from one number to another, dealt to the listed points in turn.

    Where the space has starts, the first of each listed point are whole.
    """
    rows = space.rows
    rounds = dict(enumerate(space.starts))
    return [
        {**rows[number % len(rows)], **rounds.get(number // len(rows), {})}
        for number in range(start, stop)
    ]


def _points_cut_off(study: optuna.Study, space: Space) -> list[dict[str, Any]]:
    """Points of a search whose trials were all interrupted: what they left is used once more."""
    keys = space.listed.keys() | space.searched.keys()
    tried = [point_of(t) for t in study.trials if INTERRUPTED not in t.user_attrs]
    found: list[dict[str, Any]] = []
    for trial in study.trials:
        point = point_of(trial)
        listed = {key: point[key] for key in space.listed if key in point}
        whole = point.keys() == keys and _plain_point(listed) in map(_plain_point, space.rows)
        cut_off = INTERRUPTED in trial.user_attrs and whole
        if cut_off and point not in tried and point not in found:
            found.append(point)
    return found


def ask_trials(study: optuna.Study, space: Space, rows: Iterable[Mapping[str, Any]]) -> list[Any]:
    """One Optuna trial for each row, its intervals sampled from what trials of that row found."""
    distributions = distributions_of(study, space)
    return [_ask_for_row(study, space, row, distributions) for row in rows]


def _ask_for_row(
    study: optuna.Study,
    space: Space,
    row: Mapping[str, Any],
    distributions: dict[str, BaseDistribution],
) -> Any:
    """A trial whose listed values are given, as Optuna's parameters where it can hold them."""
    fixed = {
        key: float(value) if isinstance(distributions[key], FloatDistribution) else value
        for key, value in row.items()
        if key in distributions
    }
    asked = _choose_values(study, space, row, fixed).ask(distributions)
    listed = {key: value for key, value in row.items() if key in space.listed}
    if listed:
        asked.set_user_attr(POINT, listed)
    return asked


def _choose_values(
    study: optuna.Study, space: Space, row: Mapping[str, Any], fixed: dict[str, Any]
) -> optuna.Study:
    """The study as it looks from one listed point: its own trials, its own values fixed.

    A whole point leaves nothing to choose. A trial is made in one step. Enqueued first and asked
    for then, it would be left waiting by a kill in between, and be the answer to the next question,
    about another row.
    """
    if space.searched.keys() <= row.keys():
        sampler = samplers.PartialFixedSampler(fixed, samplers.RandomSampler())
        return optuna.Study(study.study_name, study._storage, sampler=sampler)
    if not row:
        return study
    storage: Any = _RowStorage(study._storage, row)
    sampler = samplers.PartialFixedSampler(fixed, study.sampler)
    return optuna.Study(study.study_name, storage, sampler=sampler)


class _RowStorage:
    """A storage in which a study has the trials of one row only, and notes of samplers of its own.

    Everything else is the storage behind it.
    """

    def __init__(self, storage: Any, row: Mapping[str, str]) -> None:
        self._storage = storage
        self._row = _plain_point(row)
        self._prefix = f"{digest_of(row)}:"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[Any]:
        """Trials of the row."""
        trials = self._storage.get_all_trials(study_id, deepcopy=deepcopy, states=states)
        wanted = self._row.items()
        return [one for one in trials if wanted <= _plain_point(point_of(one)).items()]

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """What samplers noted for the row."""
        notes = self._storage.get_study_system_attrs(study_id).items()
        start = self._prefix
        return {key.removeprefix(start): value for key, value in notes if key.startswith(start)}

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Notes something for the row."""
        self._storage.set_study_system_attr(study_id, f"{self._prefix}{key}", value)


def point_of(trial: Any) -> dict[str, Any]:
    """What a trial, finished or not, was given of the space, of lists as it was typed."""
    return trial.params | trial.user_attrs.get(POINT, {})


def _open_trial(study: optuna.Study, number: int) -> optuna.Trial:
    return Trial(study, study.trials[number]._trial_id)


def tell_trial(
    study: optuna.Study,
    number: int,
    metrics: Mapping[str, float] | None,
    directions: Mapping[str, str],
    constraints: Mapping[str, float],
    error: str = "",
) -> str:
    """Records how a trial went; returns why it failed, or an empty string.

    One that was ended early is no failure: it is told as infeasible, and as PRUNED where not all
    objectives are known. Samplers learn from its constraint that far.
    """
    trial = _open_trial(study, number)
    if metrics is not None and is_stopped(metrics) and not error:
        _tell_stopped(study, trial, metrics, directions, constraints)
        return ""
    reason = error or describe_unusable(metrics or {}, [*directions, *constraints])
    if metrics is None or reason:
        trial.set_user_attr(ERROR, reason or "no result")
        study.tell(number, state=TrialState.FAIL)
        return reason or "no result"
    for metric, most in constraints.items():
        trial.set_constraint(metric, metrics[metric] - most)
    for metric, value in metrics.items():
        if math.isfinite(value):
            trial.set_user_attr(metric, value)
    study.tell(number, [metrics[metric] for metric in directions])
    return ""


def _tell_stopped(
    study: optuna.Study,
    trial: optuna.Trial,
    metrics: Mapping[str, float],
    directions: Mapping[str, str],
    constraints: Mapping[str, float],
) -> None:
    for metric, most in constraints.items():
        found = metrics.get(f"{AT_LEAST}{metric}", metrics.get(metric, math.nan))
        if not math.isnan(found):
            trial.set_constraint(metric, found - most)
    for metric, value in metrics.items():
        if math.isfinite(value):
            trial.set_user_attr(metric, value)
    trial.set_user_attr(STOPPED, describe_stop(metrics, constraints))
    if describe_unusable(metrics, directions):
        study.tell(trial.number, state=TrialState.PRUNED)
    else:
        study.tell(trial.number, [metrics[metric] for metric in directions])


def note_runs(study: optuna.Study, runs: Mapping[int, str]) -> None:
    """Notes which MLflow run each trial is, by number; only before the trials are told."""
    for number, run_id in runs.items():
        _open_trial(study, number).set_user_attr(RUN, run_id)


def describe_unusable(metrics: Mapping[str, float], wanted: Iterable[str]) -> str:
    """Names the metrics that are missing or not finite; empty when all can be used."""
    bad = [
        f"{key} is {metrics.get(key, 'missing')}"
        for key in wanted
        if not math.isfinite(metrics.get(key, math.nan))
    ]
    return ", ".join(bad)


def interrupt_trial(study: optuna.Study, number: int, why: str = "interrupted") -> None:
    """Records that a trial was cut off, so that it does not count."""
    trial = _open_trial(study, number)
    trial.set_user_attr(INTERRUPTED, True)
    trial.set_user_attr(ERROR, why)
    study.tell(number, state=TrialState.FAIL)


def running_trials(study: optuna.Study) -> list[int]:
    """Numbers of trials that a driver asked for and never told about."""
    return [trial.number for trial in study.trials if trial.state == TrialState.RUNNING]


def is_feasible(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a finished trial meets all constraints."""
    return all(value <= 0 for value in trial.constraints.values())
