"""Paired measurement: the dense and the pruned model, each in a fresh process, in turns."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prune_exp.machine.cache import digest_of, keep_note
from prune_exp.machine.limits import available_threads
from prune_exp.machine.progress import hush, let_pass, say_figures
from prune_exp.measurement.backends import BACKENDS
from prune_exp.measurement.backends.protocol import ServeSpec
from prune_exp.measurement.bandwidth import measure_bandwidth
from prune_exp.measurement.comparison import SIDES, Measured, compare_speed, latency_ratio
from prune_exp.measurement.conditions import describe_machine, load_at_start
from prune_exp.measurement.prompts import Prompts, batch_of, batch_shapes_of
from prune_exp.measurement.records import Interval, SpeedComparison
from prune_exp.measurement.serving import serve_both
from prune_exp.measurement.stopping import Pair, StopRule, collect_pairs
from prune_exp.measurement.turns import name_turn, take_turn
from prune_exp.measurement.worker_client import ModelProcess
from prune_exp.settings.groups import BenchmarkSettings

Workers = dict[str, ModelProcess]
Servings = dict[str, ServeSpec]
Answer = dict[str, Any]
MEMORY_NOTE = 2
"""Raised when memory rounds are measured in another way, so that older notes are not read."""
SETTLE_S = 0.01
"""GNU OpenMP's threads spin for some milliseconds after their work and then sleep."""


def measure_pair(
    dense: Path,
    pruned: Path,
    prompts: Prompts,
    settings: BenchmarkSettings,
    *,
    cache: Path | None = None,
    device: str = "cpu",
) -> SpeedComparison:
    """Measures two checkpoints on tokenized prompts, taking turns so that noise hits both.

    By default request by request, the order alternates. Memory is measured in
    fresh processes after the warm-up, because a process's peak never falls. Under `cache`, a
    folder that belongs to the dense model, its further memory rounds and its export are kept:
    later trials then export it no more and start its process once.

    Raises:
        MeasurementError: a measured process died or did not answer.
    """
    threads = settings.threads or available_threads()
    checkpoints: dict[str, Path] = dict(zip(SIDES, (dense, pruned), strict=True))
    kept = {} if cache is None else {"dense": cache}
    with serve_both(checkpoints, prompts, settings, threads, kept, device) as served:
        measured = _measure_samples(served, prompts, settings, cache)
    return compare_speed(measured, settings, batch_shapes_of(prompts, settings))


def _measure_samples(
    served: Servings, prompts: Prompts, settings: BenchmarkSettings, cache: Path | None
) -> Measured:
    """All samples; one measurement at a time on a processor or a GPU."""
    threads = served["dense"].threads
    with take_turn(name_turn(served["dense"].device)), hush():
        load = load_at_start()
        how = served["dense"]
        roof = measure_bandwidth(threads, settings.timeout_s, how.device, how.dtype)
        with ExitStack() as stack:
            workers, starts = _start_in_turn(stack, served, settings)
            first = {
                side: _last_answer(worker, _start_warm_up(worker, prompts[side], settings))
                for side, worker in workers.items()
            }
            start = time.perf_counter()
            pairs, stopped_by = _measure_requests(workers, prompts, settings)
            measured_s = time.perf_counter() - start
            batches = _measure_batches(workers, prompts, settings)
        load["load_average_end"] = os.getloadavg()[0]
    return Measured(
        pairs=pairs,
        stopped_by=stopped_by,
        measured_s=measured_s,
        batches=batches,
        memory=_measure_memory(served, first, prompts, settings, cache),
        startup_s={side: start["startup_s"] for side, start in starts.items()},
        roof=roof,
        load=load,
        facts=_describe_machine(served["dense"])
        | {"backend": settings.backend, "runtime": asdict(settings.runtime)}
        | {"dtype": served["dense"].dtype},
    )


def _describe_machine(serving: ServeSpec) -> dict[str, Any]:
    packages = BACKENDS[serving.backend].packages
    return describe_machine(serving.threads, serving.device, packages)


def _start_in_turn(
    stack: ExitStack, served: Servings, settings: BenchmarkSettings
) -> tuple[Workers, dict[str, Answer]]:
    """Starts a process for each model and waits until it has loaded before the next one starts.

    So the start-up times are not those of two processes that want the same disk and cores.
    """
    workers: Workers = {}
    starts: dict[str, Answer] = {}
    for side, one in served.items():
        workers[side] = stack.enter_context(ModelProcess(one, settings.timeout_s))
        starts[side] = workers[side].receive()
    return workers, starts


def _start_warm_up(
    worker: ModelProcess, prompts: list[list[int]], settings: BenchmarkSettings
) -> int:
    """Asks for requests and batches that no clock counts, then for the memory they took.

    Returns the number of answers to come, the last of which is the memory.
    """
    batches = [batch_of(prompts, *shape) for shape in settings.batches.values()]
    for ids in [[prompts[0]]] * settings.warmup_requests + batches:
        worker.send(do="generate", ids=ids, new_tokens=settings.new_tokens)
    worker.send(do="memory")
    return settings.warmup_requests + len(batches) + 1


def _last_answer(worker: ModelProcess, count: int) -> Answer:
    return [worker.receive() for _ in range(count)][-1]


def _order_of_sides(number: int) -> tuple[str, ...]:
    """Who goes first alternates: A B, B A, A B, ..."""
    return SIDES if number % 2 == 0 else SIDES[::-1]


def _ask_pair(
    workers: Workers, ids: dict[str, list[list[int]]], settings: BenchmarkSettings, number: int
) -> Pair:
    """One request of each side: one right after the other, or token by token in turns.

    Turns by token (A B, B A, ...) put what is compared a token's time apart, so that a load that
    comes and goes slows both alike; time spent waiting for the turn does not count. Before its turn
    a process is left alone for `SETTLE_S`, until the other's threads have stopped spinning.
    """
    new_tokens = settings.new_tokens
    answers = Pair()
    if settings.turns == "request":
        for side in _order_of_sides(number):
            answers[side] = workers[side].ask(do="generate", ids=ids[side], new_tokens=new_tokens)
        return answers
    for step in range(new_tokens):
        for side in _order_of_sides(number + step):
            time.sleep(SETTLE_S)
            if step == 0:
                workers[side].send(
                    do="generate", ids=ids[side], new_tokens=new_tokens, by_token=True
                )
            else:
                workers[side].send(do="go")
            answers[side] = workers[side].receive()
    return answers


def _measure_requests(
    workers: Workers, prompts: Prompts, settings: BenchmarkSettings
) -> tuple[list[Pair], str]:
    """Pairs of requests, and what ended them."""
    count = len(prompts["dense"])

    def one(round_number: int, number: int) -> Pair:
        ids = {side: [prompts[side][number]] for side in SIDES}
        pair = _ask_pair(workers, ids, settings, number + round_number)
        return {
            side: {
                "prompt": number,
                "round": round_number,
                "model": side,
                "prompt_tokens": len(ids[side][0]),
            }
            | answer
            for side, answer in pair.items()
        }

    def planned() -> Iterator[Callable[[], Pair]]:
        for index in tqdm(range(count * settings.max_rounds), "latency", unit="pair"):
            yield partial(one, *divmod(index, count))

    rule = StopRule(
        target_ci_pct=settings.target_ci_pct,
        budget_s=settings.budget_s,
        min_pairs=settings.min_pairs,
    )
    pairs, why = collect_pairs(planned(), lambda done: _say_ratio(done, settings), rule)
    _say_ratio(pairs, settings)
    return pairs, why


def _say_ratio(done: list[Pair], settings: BenchmarkSettings) -> Interval:
    """The ratio of latencies so far, which is told between two pairs, when no clock runs."""
    found = latency_ratio(done, settings)
    say_figures(len(done), latency_ratio_width_pct=found.width_pct)
    let_pass()
    return found


def _measure_batches(
    workers: Workers, prompts: Prompts, settings: BenchmarkSettings
) -> dict[str, list[Pair]]:
    """Pairs of batch requests of every kind, by label."""
    found: dict[str, list[Pair]] = {}
    for label, shape in settings.batches.items():
        ids = {side: batch_of(prompts[side], *shape) for side in SIDES}
        rounds = tqdm(range(settings.batch_rounds), f"throughput {label}", unit="pair")
        found[label] = [_ask_pair(workers, ids, settings, number) for number in rounds]
    return found


def _measure_memory(
    served: Servings,
    first: dict[str, Answer],
    prompts: Prompts,
    settings: BenchmarkSettings,
    cache: Path | None,
) -> dict[str, list[Answer]]:
    """Both models' memory after the warm-up, in the timed processes and in further fresh ones.

    The dense model's further rounds are read from the cache where an earlier trial left them.
    """
    rounds = settings.memory_rounds - 1
    note = None
    if cache is not None:
        note = cache / _memory_note_name(served["dense"], prompts["dense"], settings)
    found: dict[str, list[Answer]] = {side: [] for side in SIDES}
    if note is not None and note.is_file():
        found["dense"] = json.loads(note.read_text(encoding="ascii"))
    for _ in tqdm(range(rounds), "memory", unit="round"):
        wanted = {side: served[side] for side in SIDES if len(found[side]) < rounds}
        for side, answer in _measure_memory_once(wanted, prompts, settings).items():
            found[side].append(answer)
    if note is not None:
        keep_note(note, json.dumps(found["dense"]).encode())
    return {side: [first[side], *found[side]] for side in SIDES}


def _memory_note_name(
    spec: ServeSpec, prompts: list[list[int]], settings: BenchmarkSettings
) -> str:
    """Name of the file with a model's memory rounds, by everything that they depend on."""
    how = asdict(replace(spec, folder=""))
    rounds = settings.memory_rounds - 1
    key = digest_of(MEMORY_NOTE, prompts, settings.batches, settings.new_tokens, rounds, how)
    return f"memory-{key}-{digest_of(_describe_machine(spec))}.json"


def _measure_memory_once(
    served: Servings, prompts: Prompts, settings: BenchmarkSettings
) -> dict[str, Answer]:
    """The memory of some of the models in fresh processes, served as the timed ones are.

    One after the other: with as many threads at the same time they would wait for each other, and
    with fewer they would need other buffers than the round that they are paired with.
    """
    found: dict[str, Answer] = {}
    for side, spec in served.items():
        with ModelProcess(spec, settings.timeout_s) as worker:
            count = _start_warm_up(worker, prompts[side], settings) + 1
            found[side] = _last_answer(worker, count)
    return found
