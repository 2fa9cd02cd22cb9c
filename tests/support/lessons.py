"""A small model, its teacher and what it is taught."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from prune_exp.model import loading, sources
from prune_exp.model.architectures import head_of
from prune_exp.pruning import surgery
from prune_exp.recovery.readings import read_alike
from prune_exp.recovery.teacher import Teacher
from prune_exp.recovery.training import (
    Lessons,
)
from prune_exp.settings.groups import RecoverySettings
from support.plans import empty_plan

CONTEXT = 16


def make_lessons(folder: Path, cache: Path, *, dtype: str = "float32", blocks: int = 40) -> Lessons:
    ids = torch.randint(1, 257, (blocks + 4, CONTEXT), generator=torch.Generator().manual_seed(0))
    head = head_of(loading.load_model(folder)).weight.clone()
    teacher = Teacher(
        source=sources.ModelSource(folder=folder, digest="d"),
        head=head.to(getattr(torch, dtype)),
        merged=None,
        dtype=dtype,
        cache_dir=cache,
    )
    return Lessons(
        training=read_alike(ids[4:]), validation=read_alike(ids[:4]), teacher=teacher, seed=0
    )


def make_student(folder: Path) -> Any:
    """The checkpoint with a third of its MLP channels and a layer gone, all weights to train."""
    gone = tuple(range(16))
    plan = empty_plan(layers=(2,), channels={0: gone, 1: gone, 3: gone})
    return surgery.carry_out_plan(loading.load_model(folder), plan, None).requires_grad_(True)


def make_settings(**changes: Any) -> RecoverySettings:
    short = RecoverySettings(
        name="distill",
        tokens=60 * CONTEXT,
        context_tokens=CONTEXT,
        learning_rate=3e-3,
        evaluate_every=10,
        validation_blocks=4,
        dtype="float32",
    )
    return replace(short, **changes)
