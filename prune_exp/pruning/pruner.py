"""From a dense model to a pruned one, by the configured method."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from prune_exp.machine.device import choose_dtype
from prune_exp.machine.stopwatch import Stopwatch
from prune_exp.model.offload import is_on_disk
from prune_exp.pruning import surgery, weight_masks
from prune_exp.pruning.allocation import NOTHING, allocate_budget, can_meet, rehearses_layers
from prune_exp.pruning.calibration import Calibration, ReadingSettings, calibrate_model
from prune_exp.pruning.inputs import Inputs, PruningRequest
from prune_exp.pruning.plan import Allocation, PruningPlan, Reconstructed
from prune_exp.pruning.plan_choice import choose_elected, choose_rehearsed
from prune_exp.pruning.refit import refit_settings
from prune_exp.pruning.token_statistics import count_scripts, describe_tokens
from prune_exp.pruning.token_vote import TokenVote
from prune_exp.pruning.vote import vote_on_plan
from prune_exp.text.corpus import retokenize
from prune_exp.text.tokenizer import trim_tokenizer


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A pruned model with what belongs to it."""

    model: Any
    tokenizer: Any
    plan: PruningPlan
    request: PruningRequest
    """What was asked for."""
    kept: tuple[int, ...] | None = None
    """The dense model's ids of the tokens that are left, in order; None when all are."""


def prune_model(
    request: PruningRequest,
    inputs: Inputs,
    model: Any,
    watch: Stopwatch,
    *,
    approve: Callable[[Allocation], None] = lambda _: None,
) -> Pruned:
    """Prunes `model`, which is used up; phases are timed by `watch`.

    `approve` sees what is to go before anything is cut, and may raise.
    """
    if request.pruning.method != "structured":
        with watch.phase("prune"):
            return _mask_weights(request, inputs, model)
    with watch.phase("calibrate"):
        calibration = _calibrate_for_vote(request, inputs, model)
    decided: dict[int, TokenVote] = {}
    with watch.phase("vote"):
        plan = vote_on_plan(request, inputs, calibration.statistics, decided=decided)
    if _is_rehearsed(request, inputs, plan, model):
        with watch.phase("rehearse"):
            plan = choose_rehearsed(request, inputs, model, plan, calibration, decided)
    if request.pruning.elect and plan.allocation.channels:
        with watch.phase("elect"):
            plan = choose_elected(request, inputs, model, plan, calibration)
    if request.pruning.ballot == "adaptive":  # else it may be more or less than was asked for
        approve(plan.allocation)
    with watch.phase("prune"):
        plan = _note_scripts(plan, inputs)
        return _carry_out(request, inputs, model, plan, calibration)


def _is_rehearsed(request: PruningRequest, inputs: Inputs, voted: PruningPlan, model: Any) -> bool:
    """Whether plans are rehearsed: those that were asked for, or who chooses the layers that go."""
    pruning = request.pruning
    if pruning.rehearses_shares:
        return True
    blocks = len(inputs.corpus.calibration.ids)
    return rehearses_layers(pruning, voted.allocation, blocks, on_disk=is_on_disk(model))


def repeat_pruning(
    request: PruningRequest, inputs: Inputs, model: Any, plan: PruningPlan
) -> Pruned:
    """What `prune_model` made of the same inputs when it decided on `plan`; nobody votes."""
    if request.pruning.method != "structured":
        return _mask_weights(request, inputs, model)
    return _carry_out(request, inputs, model, plan, _calibrate_dense(request, inputs, model))


def _carry_out(
    request: PruningRequest, inputs: Inputs, model: Any, plan: PruningPlan, calibration: Calibration
) -> Pruned:
    tokenizer, kept, ids = _trim_vocabulary(request, inputs, plan)
    trained: list[Reconstructed] = []
    smaller = surgery.carry_out_plan(
        model,
        plan,
        ids,
        how=refit_settings(request.pruning, model.device, request.seed),
        dense_states_at=None if plan.tokens else calibration.states_at,
        note=trained.append,
    )
    plan = replace(plan, reconstructed=tuple(trained))
    return Pruned(model=smaller, tokenizer=tokenizer, plan=plan, request=request, kept=kept)


def _mask_weights(request: PruningRequest, inputs: Inputs, model: Any) -> Pruned:
    zeroed = weight_masks.zero_weights(
        model,
        inputs.corpus.calibration.ids[: request.data.gradient_blocks],
        request.pruning,
        sparsity=request.sparsity,
        vote_threshold=request.vote_threshold,
        seed=request.seed,
    )
    plan = PruningPlan(
        sparsity_requested=request.sparsity,
        vote_threshold=request.vote_threshold,
        ballot=request.pruning.ballot,
        allocation=NOTHING,
        layers=(),
        heads={},
        channels={},
        voters={"weights": tuple(sorted(request.pruning.voters))},
        weights_zeroed=zeroed,
    )
    return Pruned(model=model, tokenizer=inputs.tokenizer, plan=plan, request=request)


def _calibrate_dense(request: PruningRequest, inputs: Inputs, model: Any) -> Calibration:
    return calibrate_model(
        model,
        inputs.source.digest,
        inputs.corpus,
        inputs.tokenizer,
        ReadingSettings(
            voting_blocks=request.data.voting_blocks,
            gradient_blocks=request.data.gradient_blocks,
            dtype=choose_dtype(model.device, request.pruning.refit_dtype),
        ),
        cache_dir=inputs.cache_dir,
    )


def _calibrate_for_vote(request: PruningRequest, inputs: Inputs, model: Any) -> Calibration:
    """The calibration, with what is known of tokens where some of them are to go."""
    calibration = _calibrate_dense(request, inputs, model)
    pruning = request.pruning
    shares = (pruning.vocab_share, *pruning.rehearse_vocab)
    options = [replace(pruning, vocab_share=share) for share in shares]
    shape, sparsity = inputs.shape, request.sparsity
    reached = [one for one in options if can_meet(shape, sparsity, one)]
    if not any(allocate_budget(shape, sparsity, one).tokens for one in reached):
        return calibration
    tokens = describe_tokens(model, calibration, inputs.tokenizer)
    return replace(calibration, statistics=replace(calibration.statistics, tokens=tokens))


def _note_scripts(plan: PruningPlan, inputs: Inputs) -> PruningPlan:
    """The plan with what it leaves of each script, where tokens go."""
    if not plan.tokens:
        return plan
    scripts = count_scripts(inputs.tokenizer, plan.tokens, inputs.shape.vocab)
    return replace(plan, scripts=scripts)


def _trim_vocabulary(
    request: PruningRequest, inputs: Inputs, plan: PruningPlan
) -> tuple[Any, tuple[int, ...] | None, torch.Tensor | None]:
    """The pruned model's tokenizer, the tokens left, and the text to refit on in dense ids.

    The text is [blocks, tokens], and None where nothing is refit.
    """
    refit = request.pruning.refit and plan.changes_blocks
    ids = inputs.corpus.calibration.ids if refit else None
    if not plan.tokens:
        return inputs.tokenizer, None, ids
    trimmed, kept = trim_tokenizer(inputs.tokenizer, plan.tokens, inputs.shape.vocab)
    if ids is not None:
        ids = torch.tensor(kept)[retokenize(inputs.corpus, request.data, trimmed)]
    return trimmed, tuple(kept), ids
