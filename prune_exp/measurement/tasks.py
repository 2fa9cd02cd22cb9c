"""Questions with right answers, asked of both models by lm-eval."""

import inspect
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prune_exp.machine.cache import cached_folder, digest_of
from prune_exp.machine.device import cache_key
from prune_exp.machine.packages import installed_version
from prune_exp.machine.quiet import hush_loggers
from prune_exp.measurement.intervals import difference_of_shares
from prune_exp.measurement.records import TaskComparison
from prune_exp.measurement.task_files import LOUD, METRICS, digest_tasks
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import QualitySettings

VERSION = 1
BATCH = 8
SHOT_SEED = 0
"""Of the examples that a task puts before its questions: the same for both models."""
OF_ONE_PLACE = ("metadata", "dataset_kwargs")
"""What a task's description says of where its files lie."""


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


def ask_model(model: Any, tokenizer: Any, tasks: Mapping[str, Any], limit: int | None) -> Answers:
    """What a model answers to the first `limit` questions of each task, greedily.

    Raises:
        SettingError: a task has no metric that is right or wrong for each question.
    """
    from lm_eval import evaluator  # pyright: ignore[reportMissingImports]
    from lm_eval.models import huggingface  # pyright: ignore[reportMissingImports]

    evaluate: Any = evaluator.evaluate  # its types do not tell what it takes
    start: Any = huggingface.HFLM
    with hush_loggers(*LOUD):
        for task in tasks.values():
            task.set_fewshot_seed(SHOT_SEED)
        asked = start(
            pretrained=model,
            tokenizer=deepcopy(tokenizer),
            device=str(model.device),
            batch_size=BATCH,
        )
        given = {"tasks": dict(tasks)}
        found = evaluate(asked, given, limit=limit, bootstrap_iters=0, log_samples=True)
    return {name: _read_answers(name, tasks[name], found["samples"][name]) for name in tasks}


def _read_answers(name: str, task: Any, samples: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """A task's answers; of several ways to read an answer the first counts."""
    metric = next((one for one in METRICS if one in samples[0]["metrics"]), None)
    if metric is None or not {sample.get(metric) for sample in samples} <= {0, 1}:
        raise SettingError(
            f"quality.tasks={name} does not say of each question whether its answer is right"
            f" ({', '.join(METRICS)}); leave it out"
        )
    first = samples[0]["filter"]
    return [
        _read_answer(task, sample, metric)
        for sample in sorted(samples, key=lambda one: one["doc_id"])
        if sample["filter"] == first
    ]


def _read_answer(task: Any, sample: Mapping[str, Any], metric: str) -> Answer:
    """Of choices, what was said is the likeliest; `acc_norm` looks at likelihood by length."""
    asked = sample["arguments"]
    answers = sample["filtered_resps"]
    question, right = str(asked[0][0]), str(sample["target"])
    kind = getattr(task, "OUTPUT_TYPE", None)
    if kind == "loglikelihood":
        right = str(asked[0][1]).strip()
        said = right if answers[0][1] else "something else"
    elif kind == "multiple_choice":
        choices = [str(one) for one in task.doc_to_choice(sample["doc"])]
        likelihoods = [float(one[0]) for one in answers[: len(choices)]]
        if metric == "acc_norm":
            lengths = [max(len(one), 1) for one in choices]
            likelihoods = [a / b for a, b in zip(likelihoods, lengths, strict=True)]
        said = choices[likelihoods.index(max(likelihoods))]
        place = task.doc_to_text(sample["doc"]) if task.multiple_input else sample["target"]
        known = isinstance(place, int) and 0 <= place < len(choices)
        right = choices[place] if known else str(place)
        if task.multiple_input:
            question = f"… {str(asked[0][1]).strip()}"
    else:
        said = str(answers[0])
    return Answer(question=question, said=said, right=right, is_right=bool(sample[metric]))


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
    how = {name: _without_places(task.dump_config()) for name, task in tasks.items()}
    key = digest_of(
        VERSION,
        model_digest,
        digest_tasks(dict(tasks)),
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


def _without_places(described: Any) -> Any:
    """A task's description that is the same in every process: functions by their source."""
    if isinstance(described, Mapping):
        items = described.items()
        return {str(key): _without_places(one) for key, one in items if key not in OF_ONE_PLACE}
    if isinstance(described, list | tuple):
        return [_without_places(one) for one in described]
    if callable(described):
        try:
            return inspect.getsource(described)
        except (OSError, TypeError):
            return getattr(described, "__qualname__", type(described).__qualname__)
    return described


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
