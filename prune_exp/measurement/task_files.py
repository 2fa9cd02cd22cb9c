"""Which questions are meant by the name of a task: a file's, or lm-eval's own."""

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prune_exp.machine.cache import digest_of
from prune_exp.machine.display import first_line
from prune_exp.machine.files import read_text
from prune_exp.machine.quiet import hush_loggers
from prune_exp.settings.choices import check_name, describe_unknown
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import QualitySettings

OWN = Path(__file__).with_name("questions")
"""Folder of the tasks that ship with the package."""
LONGEST_MESSAGE = 400
LOUD = ("lm_eval", "datasets")
"""The loggers that tell of lm-eval's progress."""
METRICS = ("acc", "exact_match", "acc_norm")
"""What says of a question whether its answer is right; the first that a task has counts."""


def load_tasks(settings: QualitySettings) -> dict[str, Any]:
    """lm-eval's tasks, by name.

    A name is that of a file NAME.jsonl in `tasks_path` or of one that ships with the package, or
    what lm-eval calls a single task, its own or one of a YAML file in `tasks_path`.

    Raises:
        SettingError: lm-eval is not installed, there is no such task, its questions cannot be had,
            or nothing says of a question whether its answer is right.
    """
    if not settings.tasks:
        return {}
    if find_spec("lm_eval") is None:
        raise SettingError(
            f"quality.tasks=[{','.join(settings.tasks)}] needs lm-eval; type pip install"
            " 'prune-exp[tasks]', or leave it out"
        )
    folder = None if settings.tasks_path is None else Path(settings.tasks_path).expanduser()
    if folder is not None and not folder.is_dir():
        raise SettingError(f"quality.tasks_path={folder} is no folder; give one with NAME.jsonl")
    files = _list_files(folder)
    with hush_loggers(*LOUD):
        found = {name: _load_task(name, files.get(name), folder) for name in settings.tasks}
    for name, task in found.items():
        _check_task(name, task)
    return found


def digest_tasks(tasks: dict[str, Any]) -> str:
    """Tells the questions of some tasks, and the examples before them, from others."""
    return digest_of({name: _texts_of(task) for name, task in tasks.items()})


def _texts_of(task: Any) -> list[list[Any]]:
    shown = task.fewshot_docs() if task.config.num_fewshot else None
    return [[*task.eval_docs], [*(shown or [])]]


def _list_files(folder: Path | None) -> dict[str, Path]:
    """Files of questions by the name of the task, the user's before those of the package."""
    places = [OWN, *([] if folder is None else [folder])]
    return {path.stem: path for place in places for path in sorted(place.glob("*.jsonl"))}


def _load_task(name: str, file: Path | None, folder: Path | None) -> Any:
    if file is not None:
        check_name("quality.tasks", name)
        check_questions(file)
        manager, wanted = _list_nothing(), _describe_file(name, file)
    else:
        manager = _list_tasks(None if folder is None else str(folder))
        wanted = name
        _check_known(name, manager, folder)
    try:
        (task,) = manager.load([wanted])["tasks"].values()
    except Exception as error:  # what a data set's own code and servers may raise
        raise SettingError(
            f"quality.tasks={name} cannot be loaded ({type(error).__name__}: {first_line(error)});"
            " without a network, give a file NAME.jsonl with quality.tasks_path=FOLDER"
        ) from error
    return task


def _check_known(name: str, manager: Any, folder: Path | None) -> None:
    if name in manager.all_subtasks:
        return
    if name in manager.all_groups or name in manager.all_tags:
        raise SettingError(
            f"quality.tasks={name} is a group of lm-eval's tasks; name those of it that are meant"
        )
    known = [*sorted(_list_files(folder)), *manager.all_subtasks]
    raise SettingError(_shorten(describe_unknown("quality.tasks", name, known)))


def _check_task(name: str, task: Any) -> None:
    """Raises SettingError for a task that cannot be asked here."""
    if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
        raise SettingError(
            f"quality.tasks={name} runs code that a model writes, or shows pictures; leave it out"
        )
    own = getattr(task.config, "process_results", None) is not None
    if not own and not set(METRICS) & set(task._metric_fn_list):
        raise SettingError(
            f"quality.tasks={name} does not say of each question whether its answer is right"
            f" ({', '.join(METRICS)}); leave it out"
        )


@cache
def _list_tasks(folder: str | None) -> Any:
    """lm-eval's list of tasks, which takes a while to read."""
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    return TaskManager(include_path=folder)


def _list_nothing() -> Any:
    """The same without lm-eval's own tasks."""
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    return TaskManager(include_defaults=False)


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
    text = read_text(file, setting="quality.tasks_path").removesuffix("\n")
    if not text:
        raise SettingError(f"{file} holds no questions")
    for number, line in enumerate(text.split("\n"), 1):
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
            isinstance(choices, list)
            and all(isinstance(text, str) and text for text in texts)
            and len(set(choices)) == len(choices) > 1
            and type(found["answer"]) is int
            and 0 <= found["answer"] < len(choices)
        )
    except (ValueError, TypeError, KeyError):
        return False


def _shorten(message: str) -> str:
    """lm-eval has thousands of tasks; the nearest one is said at the end."""
    if len(message) <= LONGEST_MESSAGE:
        return message
    listed, mark, hint = message.partition("; did you mean")
    return f"{listed[: LONGEST_MESSAGE - 60].rpartition(',')[0]}, and more{mark}{hint}"
