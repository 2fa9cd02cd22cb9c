"""How long a trial may take and what memory it needs, before it is started.

By runs of this store that did the same work on the same model; where there are none, by sizes and
by how fast this machine computes and reads, which is only roughly right.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from prune_exp.machine.device import choose_device, choose_dtype, wait_for_device
from prune_exp.machine.limits import MIB, available_memory_mib, fit_threads
from prune_exp.measurement.bandwidth import ROW, SQUARES, best_rate
from prune_exp.model.shape import ModelShape
from prune_exp.pruning.allocation import NOTHING, allocate_budget, rehearses_layers, shape_after
from prune_exp.pruning.plan import Allocation
from prune_exp.search.forecast import Forecast
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.settings.params import flatten_settings
from prune_exp.settings.schema import Settings
from prune_exp.tracking.read import TrackedTrial, recent_trials
from prune_exp.tracking.store import use_store
from prune_exp.trial.prepare import TrialInputs, prepare_points, trial_memory_mib

ALIKE = ("model.", "data.", "benchmark.", "quality.", "recovery.", "device")
"""How settings begin on which the work depends."""
ALIKE_PRUNING = (
    *("method", "refit", "reconstruct_epochs", "rehearse", "rehearse_vocab", "rehearse_layers"),
    *("elect", "units", "voters", "masks"),
)
AS_BEFORE = ("None", "[]", "False", "0")
"""Values of settings under which nothing is done that earlier versions did not do."""
OTHERWISE = ("quality.max_perplexity_ratio", "model.name", "model.license", "model.base_model")
"""Settings that begin so and change no work."""
NEWEST = 10
"""Runs that are asked."""
REACHED = 0.5
"""Share of a machine's rates that whole models reach, in computing as in reading."""
READ_MIB = 512
LOOKS = 3
PROCESS_S = 10.0
"""To start a process and load a model."""
REFIT_PASSES = 3
MORE_JUDGED = 16
"""Blocks that judge besides where the number of tokens is asked."""
ELECTION_BLOCKS = 400
"""Blocks that an election refits and judges on, all candidates, rounds and the jury together."""
LAYER_CHOICES = 5
"""Of a depth share: the vote's, two voters', a run of layers, and what a search finds."""
SEARCH_SHARE = 0.25
"""Of a rehearsal that a search's question is: half of the layers, on half of the text."""
QUESTIONS = 2
"""Of a search, for each layer that goes."""
BATCH_COSTS = 2.0
"""A step of a batch, in steps of a single sequence."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What whole models reach on a machine."""

    flop_per_s: float
    """In matrix products, in the precision in which text is read to prune."""
    judging_flop_per_s: float
    """In float32, in which quality is judged."""
    bytes_per_s: float
    """Of weights that decoding reads."""


NO_RATES = Rates(flop_per_s=math.nan, judging_flop_per_s=math.nan, bytes_per_s=math.nan)
"""Where earlier runs say all."""


def forecast_points(points: Sequence[Settings]) -> list[Forecast]:
    """A forecast for each point.

    Raises:
        SettingError: as `prepare_trial` does.
    """
    past = _past_trials(points[0].tracking)
    inputs = prepare_points(points)
    rates = NO_RATES
    if not all(_runs_alike(one, past) for one in points):
        rates = measure_reached(choose_device(points[0].device))
    return [
        forecast_trial(one, found, past, rates) for one, found in zip(points, inputs, strict=True)
    ]


def measure_reached(device: str) -> Rates:
    """What a model may reach on a device, by a product and by reading.

    So briefly that another command's measurement, whose turn it may be, is hardly disturbed.
    """
    import torch

    fit_threads()
    side = SQUARES[device]
    square = torch.rand(side, side, device=device)
    short = square.to(getattr(torch, choose_dtype(device)))
    read_mib = min(READ_MIB, available_memory_mib() / 4)
    matrix = torch.ones(max(1, int(read_mib * MIB) // 4 // ROW), ROW, device=device)
    vector = torch.ones(ROW, device=device)

    def rate(work: Callable[[], object], amount: float) -> float:
        return REACHED * best_rate(lambda: (work(), wait_for_device(device)), amount, LOOKS)

    with torch.inference_mode():
        return Rates(
            flop_per_s=rate(lambda: torch.mm(short, short), 2 * side**3),
            judging_flop_per_s=rate(lambda: torch.mm(square, square), 2 * side**3),
            bytes_per_s=rate(lambda: torch.mv(matrix, vector), 4 * matrix.numel()),
        )


def _past_trials(tracking: TrackingSettings) -> list[TrackedTrial]:
    try:
        use_store(tracking)
    except SettingError:
        return []
    return recent_trials(tracking.experiment)


def forecast_trial(
    settings: Settings, inputs: TrialInputs, past: Sequence[TrackedTrial], rates: Rates
) -> Forecast:
    """By the newest of the past trials that did the same work, else by sizes and the rates."""
    alike = _runs_alike(settings, past)
    steps = describe_steps(settings, inputs)
    if not alike:
        return _forecast_by_sizes(settings, inputs, steps, rates)
    return Forecast(
        steps=steps,
        seconds=PROCESS_S + median(_seconds_of(one.metrics) for one in alike),
        memory_mib=max(_memory_of(one.metrics) for one in alike),
        runs=len(alike),
    )


def _runs_alike(settings: Settings, past: Sequence[TrackedTrial]) -> list[TrackedTrial]:
    wanted = _work_of(flatten_settings(settings))
    return [one for one in past if _work_of(one.params) == wanted][:NEWEST]


def _work_of(params: Mapping[str, str]) -> dict[str, str]:
    pruning = {f"pruning.{name}" for name in ALIKE_PRUNING}
    return {
        key: value
        for key, value in params.items()
        if value not in AS_BEFORE
        and (key in pruning or (key.startswith(ALIKE) and key not in OTHERWISE))
    }


def _seconds_of(metrics: Mapping[str, float]) -> float:
    return sum(value for key, value in metrics.items() if key.startswith("seconds/"))


def _memory_of(metrics: Mapping[str, float]) -> float:
    """The largest phase's, or both measured processes'."""
    phases = [value for key, value in metrics.items() if key.startswith("peak_memory_mib/")]
    served = [metrics.get(f"{side}/peak_memory_mib", 0.0) for side in ("dense", "pruned")]
    return max([sum(served), *phases])


def describe_steps(settings: Settings, inputs: TrialInputs) -> tuple[str, ...]:
    """What a trial will do, in words."""
    pruning = settings.pruning
    blocks = len(inputs.dense.corpus.heldout.ids)
    steps = ["prune"] if pruning.method == "structured" else ["zero weights"]
    if pruning.rehearses_shares or _rehearses_layers(settings, inputs):
        steps.insert(0, "rehearse plans")
    if pruning.elect:
        steps.insert(len(steps) - 1, "elect voters")
    if settings.recovery.name != "none":
        minutes = settings.recovery.minutes
        limit = f"{minutes:g} min" if minutes else f"{settings.recovery.tokens} tokens"
        steps.append(f"train for {limit}")
    if settings.quality.enabled:
        steps.append(f"judge {blocks} blocks")
        if settings.quality.tasks:
            steps.append(f"ask {', '.join(settings.quality.tasks)}")
    if settings.benchmark.enabled:
        steps.append(f"time {settings.benchmark.prompts} prompts")
    return tuple(steps)


def _forecast_by_sizes(
    settings: Settings, inputs: TrialInputs, steps: tuple[str, ...], rates: Rates
) -> Forecast:
    dense = inputs.dense.shape
    left = shape_after(dense, _allocate(settings, dense))
    speed = 2 / rates.flop_per_s
    data = settings.data
    read = data.calibration_blocks * data.context_tokens
    judged = inputs.dense.corpus.heldout.ids.numel() if settings.quality.enabled else 0
    backward = 3 * data.gradient_blocks * data.context_tokens
    refit = REFIT_PASSES * read if settings.pruning.refit else 0
    blocks = _rehearsals(settings, inputs) * _rehearsed_blocks(settings)
    blocks += REFIT_PASSES * ELECTION_BLOCKS * settings.pruning.elect
    tried = blocks * data.context_tokens
    seconds = speed * dense.params_total * (refit + tried)
    judging = 2 * judged / rates.judging_flop_per_s
    return Forecast(
        steps=steps,
        seconds=2 * PROCESS_S
        + seconds
        + judging * left.params_total
        + _reconstruction_s(settings, dense, left, speed * read)
        + _training_s(settings, left, speed)
        + _clocks_s(settings, dense, left, rates),
        memory_mib=trial_memory_mib(dense),
        shared_s=dense.params_total * (speed * (read + backward) + judging),
    )


def _allocate(settings: Settings, dense: ModelShape) -> Allocation:
    """What goes by the request; rehearsals may change that."""
    if settings.pruning.method != "structured":
        return NOTHING
    return allocate_budget(dense, settings.sparsity, settings.pruning)


def _rehearses_layers(settings: Settings, inputs: TrialInputs) -> bool:
    gone = _allocate(settings, inputs.dense.shape)
    blocks = settings.data.calibration_blocks  # a model may yet have to write them
    return rehearses_layers(settings.pruning, gone, blocks, on_disk=settings.model.offload)


def _rehearsed_blocks(settings: Settings) -> int:
    """Blocks of text that one plan's rehearsal takes through the model."""
    return 8 * REFIT_PASSES + (MORE_JUDGED if settings.pruning.rehearse_vocab else 0)


def _rehearsals(settings: Settings, inputs: TrialInputs) -> float:
    """How many plans are refit on a few blocks, a search for layers counted as so many."""
    pruning = settings.pruning
    shares = 1 + len(pruning.rehearse)
    plans = len(pruning.rehearse_vocab) + 2.0 * bool(pruning.rehearse_vocab)
    if _rehearses_layers(settings, inputs):
        gone = _allocate(settings, inputs.dense.shape)
        searched = QUESTIONS * gone.layers * SEARCH_SHARE
        return plans + shares * (LAYER_CHOICES + searched)
    return plans + 2 * shares * bool(pruning.rehearse)


def _reconstruction_s(
    settings: Settings, dense: ModelShape, left: ModelShape, text_s: float
) -> float:
    """Of a layer that is to do what removed ones did; `text_s` is one parameter's on the text."""
    pruning = settings.pruning
    if not pruning.refit or left.layers == dense.layers:
        return 0.0
    return 3 * pruning.reconstruct_epochs * left.params_layer * text_s


def _training_s(settings: Settings, left: ModelShape, speed: float) -> float:
    recovery = settings.recovery
    if recovery.name == "none":
        return 0.0
    by_tokens = 3 * speed * left.params_total * recovery.tokens if recovery.tokens else None
    by_minutes = 60 * recovery.minutes if recovery.minutes else None
    return min(one for one in (by_tokens, by_minutes) if one is not None)


def _clocks_s(settings: Settings, dense: ModelShape, left: ModelShape, rates: Rates) -> float:
    benchmark = settings.benchmark
    if not benchmark.enabled:
        return 0.0
    token = 4 * (dense.params_total + left.params_total) / rates.bytes_per_s
    request = token * benchmark.new_tokens
    asked = request * (benchmark.prompts * benchmark.max_rounds + benchmark.warmup_requests)
    if benchmark.budget_s is not None:
        asked = min(asked, benchmark.budget_s)
    batches = len(benchmark.batches) * benchmark.batch_rounds * BATCH_COSTS * request
    return asked + batches + 2 * benchmark.memory_rounds * PROCESS_S
