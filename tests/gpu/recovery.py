"""How many tokens a second training after pruning takes in."""

from pathlib import Path
from typing import Any

import torch

from gpu.shapes import config_of, pruned_config, random_model
from prune_exp.machine.device import choose_dtype
from prune_exp.machine.stopwatch import Stopwatch
from prune_exp.model.architectures import head_of
from prune_exp.model.sources import ModelSource
from prune_exp.recovery.readings import read_alike
from prune_exp.recovery.teacher import Teacher
from prune_exp.recovery.training import Lessons, train
from prune_exp.settings.groups import RecoverySettings


def recover_shape(name: str, device: str, scratch: Path, report: Any) -> None:
    """Trains a random model of half the parameters towards a dense one, for some steps."""
    tiny = name == "tiny"
    blocks, context, steps = (6, 32, 3) if tiny else (64, 512, 40)
    dtype = choose_dtype(device)
    folder = scratch / "dense"
    dense = random_model(config_of(name), "cpu", "float32")
    dense.save_pretrained(folder)
    teacher = Teacher(
        source=ModelSource(folder=folder, digest=name),
        head=head_of(dense).weight.to(device=device, dtype=getattr(torch, dtype)),
        merged=None,
        dtype=dtype,
        cache_dir=scratch,
    )
    ids = torch.randint(
        2, dense.config.vocab_size, (blocks, context), generator=torch.Generator().manual_seed(0)
    )
    lessons = Lessons(
        training=read_alike(ids[2:]), validation=read_alike(ids[:2]), teacher=teacher, seed=0
    )
    del dense
    watch = Stopwatch(device)
    with watch.phase("teach"):
        teacher.states(lessons.training, list(range(len(lessons.training))))
    for batch in (1, 8):
        student = random_model(pruned_config(config_of(name), 0.5), device, "float32", seed=1)
        settings = RecoverySettings(
            name="distill",
            minutes=None,
            tokens=steps * batch * context,
            context_tokens=context,
            batch_blocks=batch,
            evaluate_every=10 * steps,
            dtype=dtype,
        )
        with watch.phase("train"):
            done = train(student.requires_grad_(True), lessons, settings, scratch / f"b{batch}")
        report(
            shape=name,
            batch_blocks=batch,
            dtype=dtype,
            steps=done.step,
            tokens_per_s=done.tokens / done.seconds,
            seconds=dict(watch.seconds),
            peak_mib=dict(watch.peak_mib),
        )
