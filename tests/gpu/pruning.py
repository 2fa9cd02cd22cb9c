"""How long pruning a model of some shape takes, and the memory it needs, by phase."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from gpu.shapes import config_of, random_model, widen
from prune_exp.machine.device import choose_dtype
from prune_exp.machine.stopwatch import Stopwatch
from prune_exp.model.architectures import shape_of
from prune_exp.pruning.calibration import Calibration, ReadingSettings, compute_statistics
from prune_exp.pruning.inputs import Inputs, PruningRequest
from prune_exp.pruning.pruner import vote_on_plan
from prune_exp.pruning.refit import refit_settings
from prune_exp.pruning.surgery import carry_out_plan
from prune_exp.settings.groups import DataSettings, PruningSettings

VOTERS = ["magnitude", "gradient", "wanda", "fluctuation", "obs", "similarity"]
SPARSITIES = (0.3, 0.5)


@dataclass(frozen=True, kw_only=True)
class _Text:
    """Random tokens [blocks, tokens], and how they are read."""

    ids: torch.Tensor
    reading: ReadingSettings


def prune_shape(name: str, device: str, scratch: Path, report: Any) -> None:
    """Prunes a random model as a trial does, but for its text; reports after each sparsity."""
    pruning = PruningSettings(voters=VOTERS)
    text = _random_text(config_of(name).vocab_size, device, tiny=name == "tiny")
    calibration = None
    for sparsity in SPARSITIES:
        watch = Stopwatch(device)
        with watch.phase("build"):
            model = widen(random_model(config_of(name), device))
        if calibration is None:
            with watch.phase("calibrate"):
                calibration = _calibrate(model, text, scratch)
        request = PruningRequest(
            sparsity=sparsity, vote_threshold=0.5, seed=0, pruning=pruning, data=DataSettings()
        )
        shape = shape_of(model)
        known: dict[str, Any] = {"source": None, "tokenizer": None, "corpus": None}
        inputs = Inputs(shape=shape, cache_dir=scratch, **known)
        with watch.phase("vote"):
            plan = vote_on_plan(request, inputs, calibration.statistics)
        how = refit_settings(pruning, device, request.seed)
        with watch.phase("prune"):
            smaller = carry_out_plan(
                model, plan, text.ids, how=how, dense_states_at=calibration.states_at
            )
        finite = bool(torch.isfinite(smaller(text.ids[:1].to(device)).logits).all())
        assert finite, "the pruned model gives logits"
        report(
            shape=name,
            sparsity=sparsity,
            tokens=text.ids.numel(),
            params_dense=shape.params_total,
            params_pruned=shape_of(smaller).params_total,
            seconds=watch.seconds,
            peak_mib=watch.peak_mib,
        )
        del model, smaller


def _random_text(vocab: int, device: str, *, tiny: bool) -> _Text:
    data = DataSettings()
    size = (8, 32) if tiny else (data.calibration_blocks, data.context_tokens)
    return _Text(
        ids=torch.randint(2, vocab, size, generator=torch.Generator().manual_seed(0)),
        reading=ReadingSettings(
            voting_blocks=min(data.voting_blocks, size[0] // 2),
            gradient_blocks=data.gradient_blocks,
            dtype=choose_dtype(device),
        ),
    )


def _calibrate(model: Any, text: _Text, folder: Path) -> Calibration:
    """As `calibrate_model`, which wants text: the stream goes to disk and is read from there."""

    def keep(index: int, hidden: torch.Tensor) -> None:
        save_file({"hidden": hidden.bfloat16()}, folder / f"{index}.safetensors")

    size = model.config.vocab_size
    frequency = torch.full((size,), 1 / size)
    statistics = compute_statistics(model, text.ids, frequency, text.reading, keep)
    tensors = {name: value.cpu() for name, value in vars(statistics).items() if value is not None}
    return Calibration(statistics=type(statistics)(**tensors), stream=folder)
