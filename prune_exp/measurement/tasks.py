"""Questions with right answers, asked of both models by lm-eval."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prune_exp.machine.cache import cached_folder, digest_of
from prune_exp.machine.device import cache_key
from prune_exp.machine.packages import installed_version
from prune_exp.measurement.intervals import difference_of_shares
from prune_exp.measurement.records import TaskComparison
from prune_exp.settings.choices import describe_unknown
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import QualitySettings

VERSION = 1
OWN = Path(__file__).with_name("questions")
"""Folder of the tasks that ship with the package."""
METRICS = ("acc", "exact_match", "acc_norm")
"""What says of a question whether its answer is right; the first that a task has counts."""
BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said to a question."""

    question: str
    said: str
    right: str
    """What would have been right."""
    is_right: bool


Answers = dict[str, list[Answer]]
"""By the name of the task, in the order of its questions."""


def load_tasks(settings: QualitySettings) -> dict[str, Any]:
    """lm-eval's tasks, by name.

    A name is that of a file NAME.jsonl in `tasks_path` or of one that ships with the package, or
    what lm-eval calls a task, its own or one of a YAML file in `tasks_path`.

    Raises:
        SettingError: lm-eval is not installed, there is no such task, or its questions cannot be
            had.
    """
    if not settings.tasks:
        return {}
    if find_spec("lm_eval") is None:
        raise SettingError(
            f"quality.tasks={_join(settings.tasks)} needs lm-eval; type pip install"
            " 'prune-exp[tasks]', or leave it out"
        )
    folder = None if settings.tasks_path is None else Path(settings.tasks_path).expanduser()
    if folder is not None and not folder.is_dir():
        raise SettingError(f"quality.tasks_path={folder} is no folder; give one with NAME.jsonl")
    files = _list_files(folder)
    with _quiet():
        return {name: _load_task(name, files.get(name), folder) for name in settings.tasks}


def _list_files(folder: Path | None) -> dict[str, Path]:
    """Files of questions by the name of the task, the user's before those of the package."""
    places = [OWN, *([] if folder is None else [folder])]
    return {path.stem: path for place in places for path in sorted(place.glob("*.jsonl"))}


def _load_task(name: str, file: Path | None, folder: Path | None) -> Any:
    manager = _manager(None if folder is None else str(folder))
    if file is not None:
        check_questions(file)
        wanted: Any = _describe_file(name, file)
    elif name in manager.all_subtasks:
        wanted = name
    else:
        known = [*sorted(_list_files(folder)), *manager.all_subtasks]
        raise SettingError(_shorten(describe_unknown("quality.tasks", name, known)))
    try:
        (task,) = manager.load([wanted])["tasks"].values()
    except Exception as error:  # what a data set's own code and servers may raise
        raise SettingError(
            f"quality.tasks={name} cannot be loaded ({type(error).__name__}: {_first_line(error)});"
            " without a network, give a file NAME.jsonl with quality.tasks_path=FOLDER"
        ) from error
    return task


@cache
def _manager(folder: str | None) -> Any:
    """lm-eval's list of tasks, which takes a while to read."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder)


def _describe_file(name: str, file: Path) -> dict[str, Any]:
    """A file of questions as lm-eval describes tasks."""
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": " ",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def check_questions(file: Path) -> None:
    """Raises SettingError, by line, unless a file holds questions with choices and an answer."""
    lines = file.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise SettingError(f"{file} holds no questions")
    for number, line in enumerate(lines, 1):
        if not _is_question(line):
            raise SettingError(
                f"{file}, line {number}, is no question; each line is like"
                ' {"question": "Two plus two is", "choices": ["four", "five"], "answer": 0}'
            )


def _is_question(line: str) -> bool:
    try:
        found = json.loads(line)
        choices = found["choices"]
        texts = [found["question"], *choices]
        return (
            all(isinstance(text, str) and text for text in texts)
            and len(set(choices)) == len(choices) > 1
            and type(found["answer"]) is int
            and 0 <= found["answer"] < len(choices)
        )
    except (ValueError, TypeError, KeyError):
        return False


def ask_model(model: Any, tokenizer: Any, tasks: Mapping[str, Any], limit: int | None) -> Answers:
    """What a model answers to the first `limit` questions of each task, greedily.

    Raises:
        SettingError: a task has no metric that is right or wrong for each question.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    with _quiet():
        asked = HFLM(
            pretrained=model,
            tokenizer=deepcopy(tokenizer),
            device=str(model.device),
            batch_size=BATCH,
        )
        found = evaluate(asked, dict(tasks), limit=limit, bootstrap_iters=0, log_samples=True)
    assert found is not None
    return {name: _read_answers(name, found["samples"][name]) for name in tasks}


def _read_answers(name: str, samples: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """A task's answers; of several ways to read an answer the first counts."""
    metric = next((one for one in METRICS if one in samples[0]["metrics"]), None)
    values = {sample.get(metric) for sample in samples}
    if metric is None or not values <= {0, 1}:
        raise SettingError(
            f"quality.tasks={name} does not say of each question whether its answer is right"
            f" ({', '.join(METRICS)}); leave it out"
        )
    first = samples[0]["filter"]
    return [
        _read_answer(sample, is_right=bool(sample[metric]))
        for sample in sorted(samples, key=lambda one: one["doc_id"])
        if sample["filter"] == first
    ]


def _read_answer(sample: Mapping[str, Any], *, is_right: bool) -> Answer:
    """Of choices, what was said is the likeliest."""
    asked = sample["arguments"]
    answers = sample["filtered_resps"]
    target = sample["target"]
    if len(answers) > 1 and isinstance(target, int):
        choices = [str(one[1]).strip() for one in asked]
        likelihoods = [float(one[0]) for one in answers]
        said = choices[likelihoods.index(max(likelihoods))]
        right = choices[target]
    else:
        said, right = str(answers[0]), str(target)
    return Answer(question=str(asked[0][0]), said=said, right=right, is_right=is_right)


def ask_dense(
    model: Any,
    model_digest: str,
    tokenizer: Any,
    tasks: Mapping[str, Any],
    settings: QualitySettings,
    *,
    cache_dir: Path,
) -> Answers:
    """The dense model's answers, asked once for all trials on the same questions."""
    questions = {name: [*task.eval_docs] for name, task in tasks.items()}
    how = {name: task.dump_config() for name, task in tasks.items()}
    key = digest_of(
        VERSION,
        model_digest,
        questions,
        how,
        settings.task_questions,
        installed_version("lm_eval"),
        *cache_key(model.device),
    )

    def build(folder: Path) -> None:
        found = ask_model(model, tokenizer, tasks, settings.task_questions)
        rows = {name: [asdict(one) for one in answers] for name, answers in found.items()}
        (folder / "answers.json").write_text(json.dumps(rows), encoding="utf-8")

    folder = cached_folder(cache_dir / "tasks" / key, build)
    rows = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    return {name: [Answer(**one) for one in answers] for name, answers in rows.items()}


def compare_answers(dense: Answers, pruned: Answers) -> dict[str, TaskComparison]:
    """Both models question by question, by the name of the task."""
    return {name: _compare_task(dense[name], pruned[name]) for name in dense}


def _compare_task(dense: Sequence[Answer], pruned: Sequence[Answer]) -> TaskComparison:
    from scipy.stats import binomtest

    pairs = [*zip(dense, pruned, strict=True)]
    flipped = [(one, other) for one, other in pairs if one.is_right != other.is_right]
    won = sum(other.is_right for _, other in flipped)
    return TaskComparison(
        questions=len(pairs),
        dense_accuracy_pct=100 * sum(one.is_right for one in dense) / len(pairs),
        pruned_accuracy_pct=100 * sum(one.is_right for one in pruned) / len(pairs),
        accuracy_change=difference_of_shares(won, len(flipped) - won, len(pairs)),
        mcnemar_p_value=float(binomtest(won, len(flipped)).pvalue) if flipped else 1.0,
        flipped=tuple(
            {
                "question": one.question,
                "right": one.right,
                "dense": one.said,
                "pruned": other.said,
                "change": "won" if other.is_right else "lost",
            }
            for one, other in flipped
        ),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what lm-eval and its libraries tell of their progress."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def _join(names: Sequence[str]) -> str:
    return f"[{','.join(names)}]"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or "no reason given"


def _shorten(message: str, most: int = 400) -> str:
    """lm-eval has thousands of tasks; the nearest one is said at the end."""
    if len(message) <= most:
        return message
    listed, mark, hint = message.partition("; did you mean")
    return f"{listed[: most - 60].rpartition(',')[0]}, and more{mark}{hint}"
