"""The tasks of a trial: asked of the dense model before it is used up, of the pruned one after."""

from dataclasses import dataclass, field
from typing import Any

from prune_exp.machine.stopwatch import Stopwatch
from prune_exp.measurement.records import TaskComparison
from prune_exp.measurement.tasks import Answers, ask_dense, ask_model, compare_answers
from prune_exp.settings.schema import Settings
from prune_exp.trial.prepare import TrialInputs


@dataclass(kw_only=True)
class JudgedTasks:
    """What both models have answered so far; nothing where there are no tasks."""

    settings: Settings
    inputs: TrialInputs
    watch: Stopwatch
    dense: Answers = field(default_factory=dict)
    pruned: Answers = field(default_factory=dict)

    def ask_dense(self, model: Any) -> None:
        """Has the dense model answer, or looks up what it did."""
        if not self.inputs.tasks:
            return
        dense = self.inputs.dense
        with self.watch.phase("dense_tasks"):
            self.dense = ask_dense(
                model,
                dense.source.digest,
                dense.tokenizer,
                self.inputs.tasks,
                self.settings.quality,
                cache_dir=dense.cache_dir,
            )

    def ask_pruned(self, model: Any, tokenizer: Any) -> None:
        """Has the pruned model answer."""
        if not self.inputs.tasks:
            return
        limit = self.settings.quality.task_questions
        with self.watch.phase("tasks"):
            self.pruned = ask_model(model, tokenizer, self.inputs.tasks, limit)

    def compare(self) -> dict[str, TaskComparison]:
        """Both models, by the name of the task."""
        return compare_answers(self.dense, self.pruned)
