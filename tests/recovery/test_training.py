"""Training keeps its budget and the best weights."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_exp.model import loading
from prune_exp.recovery import checkpoints, training
from prune_exp.recovery.readings import read_alike
from prune_exp.recovery.training import (
    Diverged,
    Lessons,
    can_afford_step,
    share_of_rate,
    share_spent,
    train,
    validation_loss,
)
from support.lessons import CONTEXT, make_lessons, make_settings, make_student


def test_the_dense_model_has_nothing_to_learn(tiny_folder: Path, tmp_path: Path) -> None:
    lessons = make_lessons(tiny_folder, tmp_path)
    assert validation_loss(loading.load_model(tiny_folder), lessons) == pytest.approx(0, abs=1e-3)
    assert validation_loss(make_student(tiny_folder), lessons) > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_helps_on_text_that_it_does_not_see(
    dtype: str, tiny_folder: Path, tmp_path: Path
) -> None:
    lessons = make_lessons(tiny_folder, tmp_path / "cache", dtype=dtype)
    student = make_student(tiny_folder)
    done = train(student, lessons, make_settings(dtype=dtype), tmp_path / "state")
    assert done.best_loss < 0.9 * done.first_loss
    assert validation_loss(student, lessons) == pytest.approx(done.best_loss, rel=1e-5)
    assert [row[0] for row in done.curve] == [10, 20, 30, 40, 50, 60]


def test_what_does_not_help_leaves_the_model_as_it_was(tiny_folder: Path, tmp_path: Path) -> None:
    lessons, student = make_lessons(tiny_folder, tmp_path / "cache"), make_student(tiny_folder)
    before = checkpoints.copy_of(dict(student.named_parameters()))
    done = train(student, lessons, make_settings(learning_rate=0.3), tmp_path / "state")
    assert done.best_step == 0
    assert done.best_loss == done.first_loss
    assert all(torch.equal(value, before[name]) for name, value in student.named_parameters())


def untaught(blocks: int) -> Lessons:
    """Lessons of which only the order and the size matter."""
    nobody: Any = None
    return Lessons(
        training=read_alike(torch.zeros(blocks, CONTEXT, dtype=torch.long)),
        validation=read_alike(torch.zeros(1, 1, dtype=torch.long)),
        teacher=nobody,
        seed=0,
    )


@given(st.integers(1, 4), st.integers(4, 40))
@settings(max_examples=6, deadline=None)
def test_a_budget_of_tokens_is_used_up_and_never_passed(batch: int, blocks: int) -> None:
    chosen, progress = make_settings(tokens=blocks * CONTEXT, batch_blocks=batch), []
    lessons = untaught(3)
    now = training.Progress()
    while can_afford_step(now, lessons, chosen):
        now.tokens += batch * CONTEXT
        progress.append(share_spent(now, chosen))
    assert blocks * CONTEXT - batch * CONTEXT < now.tokens <= blocks * CONTEXT
    assert progress == sorted(progress)


def test_a_budget_of_minutes_ends_training_too(tiny_folder: Path, tmp_path: Path) -> None:
    lessons, student = make_lessons(tiny_folder, tmp_path / "cache"), make_student(tiny_folder)
    chosen = make_settings(tokens=None, minutes=1e-3)
    done = train(student, lessons, chosen, tmp_path / "state")
    assert done.step >= 1
    assert share_spent(done, chosen) >= 1


def test_the_learning_rate_rises_and_falls() -> None:
    assert share_of_rate(0.1, 0.2) == pytest.approx(0.5)
    assert share_of_rate(0.2, 0.2) == pytest.approx(1.0)
    assert share_of_rate(0.6, 0.2) == pytest.approx(0.5)
    assert share_of_rate(1.0, 0.2) == pytest.approx(0.0)
    assert share_of_rate(0.0, 0.0) == pytest.approx(1.0)


def test_embeddings_have_a_rate_of_their_own(tiny_folder: Path, tmp_path: Path) -> None:
    lessons = make_lessons(tiny_folder, tmp_path / "cache")
    moved = {}
    for rate in (0.0, 1e-3):
        student = make_student(tiny_folder)
        before = student.get_input_embeddings().weight.detach().clone()
        inner = student.model.layers[0].mlp.down_proj.weight.clone()
        chosen = make_settings(embedding_learning_rate=rate, tokens=10 * CONTEXT)
        train(student, lessons, chosen, tmp_path / f"state-{rate}")
        after = student.get_input_embeddings().weight.detach().clone()
        moved[rate] = float((after - before).abs().max())
        assert not torch.equal(inner, student.model.layers[0].mlp.down_proj.weight)
    assert moved[0.0] == 0
    assert 0 < moved[1e-3] <= 10 * 1e-3


def test_every_block_is_read_before_any_is_read_again() -> None:
    lessons = untaught(7)
    read = [block for step in range(7) for block in lessons.choose_batch(step, 3)]
    assert read[:7] == list(range(7))
    assert sorted(read[7:14]) == sorted(read[14:21]) == list(range(7))
    assert read[7:14] != read[14:21]


def test_a_training_that_is_through_takes_no_step_again(tiny_folder: Path, tmp_path: Path) -> None:
    """Killed between the training and the written model, nothing of it is lost."""
    lessons, chosen = (
        make_lessons(tiny_folder, tmp_path / "cache"),
        make_settings(evaluate_every=25),
    )
    student = make_student(tiny_folder)
    done = train(student, lessons, chosen, tmp_path / "state")
    other = make_student(tiny_folder)
    again = train(
        other, replace(lessons, training=lessons.training.first(0)), chosen, tmp_path / "state"
    )
    assert again == done
    for one, same in zip(student.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)


@pytest.mark.parametrize(
    "name", ["distillation_loss", "validation_loss"], ids=["training", "validation"]
)
def test_a_loss_that_is_no_number_fails_the_training(
    name: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lessons, student = make_lessons(tiny_folder, tmp_path / "cache"), make_student(tiny_folder)
    found = getattr(training, name)
    monkeypatch.setattr(training, name, lambda *args: found(*args) * float("nan"))
    with pytest.raises(Diverged, match="nan"):
        train(student, lessons, make_settings(), tmp_path / "state")


def test_states_that_were_left_long_ago_are_dropped(tmp_path: Path) -> None:
    old, new, used = (tmp_path / name / "step-00000005" for name in ("old", "new", "used"))
    for state in (old, new, used):
        state.mkdir(parents=True)
    for state in (old, used):
        os.utime(state, (0, 0))
    with FileLock(tmp_path / "used.lock"):
        checkpoints.drop_old_states(tmp_path)
    assert (old.exists(), new.exists(), used.exists()) == (False, True, True)
