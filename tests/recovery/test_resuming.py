"""A training that was cut goes on to where it would have ended."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from prune_exp.model import loading, sources
from prune_exp.model.architectures import head_of, shape_of
from prune_exp.pruning.inputs import Inputs
from prune_exp.pruning.pruner import Pruned
from prune_exp.recovery import checkpoints, recover
from prune_exp.recovery.teacher import SHARD_BLOCKS
from prune_exp.recovery.training import (
    Lessons,
    train,
    validation_loss,
)
from prune_exp.settings.groups import DataSettings, QualitySettings, RecoverySettings
from prune_exp.settings.schema import Settings
from prune_exp.text.corpus import load_corpus
from prune_exp.trial.prepare import pruning_request
from support.cli import command, runs_in
from support.kills import start
from support.lessons import CONTEXT, make_lessons, make_settings, make_student
from support.models import count_loads
from support.plans import empty_plan


class Cut(Exception):
    """Stands in for a kill."""


def test_a_training_that_was_cut_ends_as_one_that_was_not(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lessons, chosen = make_lessons(tiny_folder, tmp_path / "cache"), make_settings()
    whole = make_student(tiny_folder)
    expected = train(whole, lessons, chosen, tmp_path / "whole")
    save = checkpoints.save_state

    def cut(folder: Path, facts: dict[str, Any], *rest: Any) -> None:
        save(folder, facts, *rest)
        if facts["step"] == 30:
            raise Cut

    student = make_student(tiny_folder)
    monkeypatch.setattr(checkpoints, "save_state", cut)
    with pytest.raises(Cut):
        train(student, lessons, chosen, tmp_path / "cut")
    monkeypatch.setattr(checkpoints, "save_state", save)
    (tmp_path / "cut" / ".partial-rest").mkdir()
    steps: list[int] = []
    batch = Lessons.choose_batch
    monkeypatch.setattr(
        Lessons,
        "choose_batch",
        lambda self, step, size: steps.append(step) or batch(self, step, size),
    )
    again = make_student(tiny_folder)
    found = train(again, lessons, chosen, tmp_path / "cut")
    assert steps == list(range(30, 60))
    assert (found.step, found.tokens, found.best_step) == (60, 60 * CONTEXT, expected.best_step)
    assert found.curve == expected.curve
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["step-00000060"]


def test_of_two_states_side_by_side_the_later_one_counts(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kill leaves them when a state is in place and the one before it not yet removed."""
    lessons, chosen = make_lessons(tiny_folder, tmp_path / "cache"), make_settings()
    expected = train(make_student(tiny_folder), lessons, chosen, tmp_path / "whole")
    folder = tmp_path / "cut"

    def die(*_: Any, **__: Any) -> None:
        if len(list(folder.glob("step-*"))) == 2:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "rmtree", die)
        with pytest.raises(Cut):
            train(make_student(tiny_folder), lessons, chosen, folder)
    older, later = sorted(folder.glob("step-*"))
    assert later.stat().st_mtime >= older.stat().st_mtime
    found = train(make_student(tiny_folder), lessons, chosen, folder)
    assert found.curve == expected.curve
    assert [path.name for path in folder.iterdir()] == ["step-00000060"]


def test_dense_states_are_computed_once(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prune_exp.recovery import teacher

    lessons, loads = make_lessons(tiny_folder, tmp_path), count_loads(monkeypatch, teacher)
    first = lessons.teacher.states(lessons.training, [SHARD_BLOCKS + 1, 0])
    again = lessons.teacher.states(lessons.training, [SHARD_BLOCKS + 1, 0])
    assert len(loads) == 2, "one for each shard"
    assert torch.equal(first, again)
    model = loading.load_model(tiny_folder)
    for states, index in zip(first, (SHARD_BLOCKS + 1, 0), strict=True):
        ids = lessons.training.ids[index][None]
        logits = states.float() @ head_of(model).weight.T
        assert torch.allclose(logits, model(ids).logits[0], atol=0.1)


def test_a_killed_training_goes_on_and_its_best_weights_are_exported(
    tiny_args: list[str], tiny_folder: Path, tmp_path: Path
) -> None:
    arguments = [
        *tiny_args,
        "benchmark=off",
        "tracking.log_models=none",
        "recovery=distill",
        "recovery.minutes=null",
        "recovery.tokens=640",
        "recovery.context_tokens=32",
        "recovery.validation_blocks=4",
        "recovery.evaluate_every=5",
        "recovery.learning_rate=3e-3",
    ]
    code, errors = start(
        arguments, tmp_path, "prune_exp.recovery.checkpoints:save_state", "self after"
    )
    assert code == 1, errors
    assert signal.SIGKILL.name in errors
    kept = list((tmp_path / "cache" / "recovery").glob("*/step-*"))
    assert [path.name for path in kept] == ["step-00000005"]
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "recovery goes on from step 5" in done.stderr
    assert not list((tmp_path / "cache" / "recovery").glob("*/step-*"))
    (run,) = [run for run in runs_in(tmp_path) if run.info.status == "FINISHED"]
    found = run.data.metrics
    assert (found["recovery/steps"], found["recovery/tokens"]) == (20, 640)
    assert found["recovery/validation_kl_after"] < found["recovery/validation_kl_before"]
    check_exported(tmp_path, tiny_folder, run, found["recovery/validation_kl_after"])
    from mlflow.tracking import MlflowClient

    history = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}").get_metric_history(
        run.info.run_id, "recovery/validation_loss"
    )
    assert sorted(one.step for one in history) == [5, 10, 15, 20]
    assert min(one.value for one in history) == found["recovery/validation_kl_after"]
    (page,) = (tmp_path / "mlruns" / "outputs").rglob("report.md")
    report = page.read_text(encoding="utf-8")
    assert "Quality is not that of pruning alone" in report
    assert "640 tokens (calibration text)" in report


def check_exported(folder: Path, dense: Path, run: Any, expected: float) -> None:
    """The validation loss of the checkpoint on disk is the record's."""
    exported = loading.load_model(folder / "mlruns" / run.data.tags["prune_exp.checkpoint"])
    data = DataSettings(
        path=run.data.params["data.path"],
        context_tokens=32,
        calibration_blocks=6,
        heldout_blocks=6,
    )
    tokenizer = loading.load_tokenizer(dense)
    corpus = load_corpus(data, QualitySettings(), tokenizer, seed=0)
    inputs = Inputs(
        source=sources.ModelSource(folder=dense, digest=run.data.tags["prune_exp.model_digest"]),
        tokenizer=tokenizer,
        corpus=corpus,
        shape=shape_of(exported),
        cache_dir=folder / "cache",
    )
    pruned = Pruned(
        model=exported, tokenizer=tokenizer, plan=empty_plan(), request=pruning_request(Settings())
    )
    chosen = RecoverySettings(
        name="distill", tokens=640, context_tokens=32, validation_blocks=4, evaluate_every=5
    )
    head = head_of(loading.load_model(dense)).weight
    lessons = recover.prepare_lessons(chosen, inputs, pruned, head)
    assert validation_loss(exported, lessons) == pytest.approx(expected, rel=1e-6)
