"""From a dense model to a pruned one, by the configured method."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from prune_exp import masks, surgery
from prune_exp.allocation import NOTHING, allocate
from prune_exp.calibration import Calibration, Reading, Statistics, calibrate
from prune_exp.consensus import make_plan
from prune_exp.corpus import retokenized
from prune_exp.device import bfloat16_on
from prune_exp.inputs import Inputs
from prune_exp.records import PruningPlan
from prune_exp.rehearsal import BLOCKS, best_rehearsed, closest_run
from prune_exp.settings import UNITS, Settings
from prune_exp.stopwatch import Stopwatch
from prune_exp.vocabulary import order_scores, read_vocabulary, trim
from prune_exp.voters import score

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A pruned model with what belongs to it."""

    model: Any
    tokenizer: Any
    plan: PruningPlan
    kept: tuple[int, ...] | None = None
    """The dense model's ids of the tokens that are left, in order; None when all are."""


def prune_model(settings: Settings, inputs: Inputs, model: Any, watch: Stopwatch) -> Pruned:
    """Prunes `model`, which is used up; phases are timed by `watch`."""
    if settings.pruning.method != "structured":
        with watch.phase("prune"):
            return _masked(settings, inputs, model)
    with watch.phase("calibrate"):
        calibration = _calibrate(settings, inputs, model)
    with watch.phase("vote"):
        plan = vote(settings, inputs, calibration.statistics)
    if settings.pruning.rehearse:
        with watch.phase("rehearse"):
            plan = _rehearse(settings, inputs, model, plan, calibration)
    with watch.phase("prune"):
        return _carry_out(settings, inputs, model, plan, calibration)


def rebuild_model(settings: Settings, inputs: Inputs, model: Any, plan: PruningPlan) -> Pruned:
    """What `prune_model` made of the same inputs when it decided on `plan`; nobody votes."""
    if settings.pruning.method != "structured":
        return _masked(settings, inputs, model)
    return _carry_out(settings, inputs, model, plan, _calibrate(settings, inputs, model))


def _carry_out(
    settings: Settings, inputs: Inputs, model: Any, plan: PruningPlan, calibration: Calibration
) -> Pruned:
    tokenizer, kept, ids = _vocabulary(settings, inputs, plan)
    smaller = surgery.prune(
        model,
        plan,
        ids,
        damping=settings.pruning.refit_damping,
        towards_dense=settings.pruning.refit_towards_dense,
        known=None if plan.tokens else calibration.states,
        bfloat16=bfloat16_on(model.device, settings.pruning.refit_dtype),
    )
    return Pruned(model=smaller, tokenizer=tokenizer, plan=plan, kept=kept)


def _masked(settings: Settings, inputs: Inputs, model: Any) -> Pruned:
    zeroed = masks.zero_weights(
        model,
        inputs.corpus.calibration.ids[: settings.data.gradient_blocks],
        settings.pruning,
        sparsity=settings.sparsity,
        vote_threshold=settings.vote_threshold,
        seed=settings.seed,
    )
    plan = PruningPlan(
        sparsity_requested=settings.sparsity,
        vote_threshold=settings.vote_threshold,
        ballot=settings.pruning.ballot,
        allocation=NOTHING,
        layers=(),
        heads={},
        channels={},
        voters={"weights": tuple(sorted(settings.pruning.voters))},
        weights_zeroed=zeroed,
    )
    return Pruned(model=model, tokenizer=inputs.tokenizer, plan=plan)


def _calibrate(settings: Settings, inputs: Inputs, model: Any) -> Calibration:
    return calibrate(
        model,
        inputs.source.digest,
        inputs.corpus,
        inputs.tokenizer,
        Reading(
            voting_blocks=settings.data.voting_blocks,
            gradient_blocks=settings.data.gradient_blocks,
            bfloat16=bfloat16_on(model.device, settings.pruning.refit_dtype),
        ),
        cache_dir=inputs.cache_dir,
    )


def _rehearse(
    settings: Settings, inputs: Inputs, model: Any, voted: PruningPlan, calibration: Calibration
) -> PruningPlan:
    """The best of the voted plan, and of others at each depth share that is to be rehearsed."""
    states, pruning = partial(calibration.states, blocks=2 * BLOCKS), settings.pruning
    plans = {voted.layers: voted}
    for share in (pruning.depth_share, *pruning.rehearse):
        chosen = replace(settings, pruning=replace(pruning, depth_share=share))
        plan = voted
        if share != pruning.depth_share:
            plan = vote(chosen, inputs, calibration.statistics)
        plans.setdefault(plan.layers, plan)
        run = closest_run(states, inputs.shape.layers, plan.allocation.layers)
        if run not in plans:
            plans[run] = vote(chosen, inputs, calibration.statistics, run)
    ids = inputs.corpus.calibration.ids
    return best_rehearsed(model, list(plans.values()), ids, states, pruning)


def vote(
    settings: Settings,
    inputs: Inputs,
    statistics: Statistics,
    layers: tuple[int, ...] | None = None,
) -> PruningPlan:
    """Scores every unit and lets the voters decide, but not on `layers` where those are given."""
    pruning, shape = settings.pruning, inputs.shape
    allocation = allocate(shape, settings.sparsity, pruning)
    kinds = [kind for kind in UNITS if kind != "vocab" or allocation.tokens]
    scores = {
        kind: score(
            pruning.voters, statistics, kind, head_unit=pruning.head_unit, seed=settings.seed
        )
        for kind in kinds
    }
    if allocation.tokens:
        vocabulary = read_vocabulary(inputs.tokenizer)
        scores["vocab"] = {
            name: order_scores(values[0], vocabulary)[None]
            for name, values in scores["vocab"].items()
        }
    return make_plan(
        scores,
        shape,
        allocation,
        sparsity=settings.sparsity,
        vote_threshold=settings.vote_threshold,
        pruning=pruning,
        layers=layers,
    )


def _vocabulary(
    settings: Settings, inputs: Inputs, plan: PruningPlan
) -> tuple[Any, tuple[int, ...] | None, "torch.Tensor | None"]:
    """The pruned model's tokenizer, the tokens left, and the text to refit on in dense ids."""
    import torch

    refit = settings.pruning.refit and plan.changes_blocks
    ids = inputs.corpus.calibration.ids if refit else None
    if not plan.tokens:
        return inputs.tokenizer, None, ids
    trimmed, kept = trim(inputs.tokenizer, plan.tokens)
    if ids is not None:
        ids = torch.tensor(kept)[retokenized(inputs.corpus, settings.data, trimmed)]
    return trimmed, tuple(kept), ids
