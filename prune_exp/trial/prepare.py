"""What a trial starts from: found, checked, cheap to get."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prune_exp.machine.cache import digest_of
from prune_exp.machine.device import choose_device
from prune_exp.machine.packages import installed_version
from prune_exp.measurement.prompts import read_prompts, tokenize_prompt
from prune_exp.measurement.serving import check_serving, longest_request
from prune_exp.measurement.task_files import digest_tasks, load_tasks
from prune_exp.model import loading
from prune_exp.model.architectures import shape_of
from prune_exp.model.assembly import accepted_heads
from prune_exp.model.shape import ModelShape
from prune_exp.model.sources import locate_model
from prune_exp.pruning.allocation import allocate_budget, describe_fixed_heads
from prune_exp.pruning.inputs import Inputs, PruningRequest
from prune_exp.pruning.voters import check_voters
from prune_exp.pruning.weight_masks import check_masks
from prune_exp.recovery.split import split_documents
from prune_exp.settings.choices import LARGEST_KEPT
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import BenchmarkSettings
from prune_exp.settings.schema import Settings
from prune_exp.settings.surroundings import note_once
from prune_exp.text.corpus import Corpus, describe_few_documents, load_corpus
from prune_exp.text.foreign import describe_foreign_text
from prune_exp.text.generated_text import Author, complete_corpus
from prune_exp.text.tokenizer import count_removable_tokens
from prune_exp.trial.dense import check_memory
from prune_exp.trial.reach import check_reach

DECISIVE = ("torch", "transformers", "tokenizers", "numpy", "prune-exp")
"""Packages whose version may change what trials find."""
PROCESSES_MIB = 1024
MODELS = 4
BYTES_PER_PARAM = 4


@dataclass(frozen=True, kw_only=True)
class TrialInputs:
    """What a trial starts from, all of it checked."""

    dense: Inputs
    prompts: list[str]
    tasks: dict[str, Any] = field(default_factory=dict)
    """lm-eval's tasks, by name."""


def pruning_request(settings: Settings) -> PruningRequest:
    """What a trial asks of the pruning."""
    return PruningRequest(
        sparsity=settings.sparsity,
        vote_threshold=settings.vote_threshold,
        seed=settings.seed,
        pruning=settings.pruning,
        data=settings.data,
    )


def prepare_trial(settings: Settings, *, write: bool = True) -> TrialInputs:
    """Finds and checks everything a trial needs; writes nothing but caches.

    Without `write` a model that is to write its own calibration text does not do so yet.

    Raises:
        SettingError: something the user named is missing, or the request cannot be met.
    """
    device = choose_device(settings.device)
    prompts = read_prompts(settings.benchmark)
    cache_dir = Path(settings.cache_dir).expanduser()
    source = locate_model(settings.model, cache_dir)
    tokenizer = loading.load_tokenizer(source.folder)
    check_chat(settings, tokenizer)
    skeleton = loading.load_skeleton(source.folder)
    as_chat = settings.benchmark.chat
    asked = [tokenize_prompt(text, tokenizer, as_chat=as_chat) for text in prompts]
    check_lengths(settings.benchmark, skeleton.config)
    longest = longest_request(asked, settings.benchmark)
    check_room(settings, skeleton.config, longest)
    check_serving(settings.benchmark, skeleton.config, longest, device)
    shape = _shape_to_prune(skeleton, tokenizer)
    check_request(settings, shape)
    check_memory(settings, shape, device)
    dense = Inputs(
        source=source,
        tokenizer=tokenizer,
        corpus=load_corpus(settings.data, settings.quality, tokenizer, seed=settings.seed),
        shape=shape,
        cache_dir=cache_dir,
    )
    if settings.quality.enabled:
        _check_verdict(settings, dense.corpus)
    check_tokens(tokenizer, shape.vocab, dense.corpus, asked)
    check_recovery(settings, dense)
    if write:
        dense = _write_text(settings, dense, device)
    tasks = load_tasks(settings.quality) if settings.quality.enabled else {}
    return TrialInputs(dense=dense, prompts=prompts, tasks=tasks)


def _check_verdict(settings: Settings, corpus: Corpus) -> None:
    """Says at once, and not after hours, that there can be no verdict on quality.

    Raises:
        SettingError: the trials are to find the largest cut that keeps it.
    """
    for why in describe_few_documents(corpus.heldout):
        if settings.search.sampler == LARGEST_KEPT:
            raise SettingError(f"search.sampler=largest_kept looks for kept quality, but {why}")
        note_once(why)


def note_foreign_text(inputs: TrialInputs) -> None:
    """Says which text is in a script that the model or its calibration hardly knows."""
    for sentence in describe_foreign_text(inputs.dense.corpus, inputs.dense.tokenizer):
        note_once(sentence)


def _shape_to_prune(skeleton: Any, tokenizer: Any) -> ModelShape:
    """A model's sizes, and what its tokenizer and its stock config can do without."""
    shape = shape_of(skeleton)
    return replace(
        shape,
        vocab_removable=count_removable_tokens(tokenizer, shape.vocab),
        accepted_heads=accepted_heads(skeleton.config),
    )


def _write_text(settings: Settings, dense: Inputs, device: str) -> Inputs:
    """The inputs with calibration text that the model wrote, where it is to."""
    author = Author(
        name=settings.model.name,
        source=dense.source,
        tokenizer=dense.tokenizer,
        device=device,
        seed=settings.seed,
        cache_dir=dense.cache_dir,
    )
    return replace(dense, corpus=complete_corpus(dense.corpus, settings.data, author))


def check_tokens(tokenizer: Any, rows: int, corpus: Corpus, prompts: list[list[int]]) -> None:
    """Raises SettingError where text has a token for which the model's embedding has no row."""
    read = [corpus.calibration.ids, corpus.heldout.ids]
    ids = {
        *(i for blocks in read for i in blocks.unique().tolist()),
        *(i for p in prompts for i in p),
    }
    if max(ids, default=0) >= rows:
        token = tokenizer.convert_ids_to_tokens(max(ids))
        raise SettingError(
            f"the text or a prompt holds {token}, token {max(ids)}, but the model's embedding has"
            f" {rows} rows; take it out of data.path, or resize the model's embedding"
        )


def check_chat(settings: Settings, tokenizer: Any) -> None:
    """Raises SettingError where messages are to be answered, and nothing says how they are read."""
    if settings.tracking.serve_as == "chat" and not tokenizer.chat_template:
        raise SettingError(
            f"tracking.serve_as=chat needs a chat template, and the tokenizer of"
            f" {settings.model.name} has none; use tracking.serve_as=completions"
        )


def check_lengths(benchmark: BenchmarkSettings, config: Any) -> None:
    """Raises SettingError for batches whose prompts and new tokens the model has no room for."""
    room = getattr(config, "max_position_embeddings", None)
    longest = max(benchmark.prompt_tokens, default=0)
    if benchmark.enabled and room is not None and longest + benchmark.new_tokens > room:
        raise SettingError(
            f"benchmark.prompt_tokens={longest} and benchmark.new_tokens={benchmark.new_tokens}"
            f" exceed the model's {room} positions; use benchmark.prompt_tokens=["
            f"{max(room - benchmark.new_tokens, 1)}] or less"
        )


def check_room(settings: Settings, config: Any, longest: int) -> None:
    """Raises SettingError for text that is longer than a model has positions.

    `longest` is the longest sequence that the benchmark asks for.
    """
    room = getattr(config, "max_position_embeddings", None)
    if room is None:
        return
    asked = {"data.context_tokens": settings.data.context_tokens}
    if settings.recovery.name != "none":
        asked["recovery.context_tokens"] = settings.recovery.context_tokens
    for name, tokens in asked.items():
        if tokens > room:
            raise SettingError(
                f"{name}={tokens} exceeds the model's {room} positions; use {name}={room} or less"
            )
    if settings.benchmark.enabled and longest > room:
        raise SettingError(
            f"a prompt and benchmark.new_tokens={settings.benchmark.new_tokens} come to {longest}"
            f" tokens, and the model has {room} positions; use fewer, or shorter prompts with"
            " benchmark.prompts_path"
        )


def check_points(points: list[Settings]) -> tuple[dict[str, str], float]:
    """Checks everything the trials of a sweep need; what they share, once.

    Returns what tells these inputs from others behind the same settings, and the memory that the
    largest trial may take, MiB.

    Raises:
        SettingError: as `prepare_trial` does.
    """
    found = prepare_points(points)
    for point, inputs in zip(points, found, strict=True):
        check_request(point, inputs.dense.shape)
        check_memory(point, inputs.dense.shape, choose_device(point.device))
        check_recovery(point, inputs.dense)
    check_reach(
        [
            (point, one.dense.shape, one.dense.source)
            for point, one in zip(points, found, strict=True)
        ]
    )
    shared = list({id(one): one for one in found}.values())
    return identify_inputs(shared), max(trial_memory_mib(one.dense.shape) for one in shared)


def prepare_points(points: Sequence[Settings]) -> list[TrialInputs]:
    """What the trials of a sweep start from, a point each; what they share is the same object.

    Raises:
        SettingError: as `prepare_trial` does.
    """
    known: dict[str, TrialInputs] = {}
    found: list[TrialInputs] = []
    for point in points:
        shared = [
            asdict(group) for group in (point.model, point.data, point.quality, point.benchmark)
        ]
        key = digest_of(*shared, point.seed, point.cache_dir, point.device)
        if key not in known:
            known[key] = prepare_trial(point, write=False)
            note_foreign_text(known[key])
        found.append(known[key])
    return found


def trial_memory_mib(shape: ModelShape) -> float:
    """About what a trial takes at its peak: its processes, and both models several times over.

    SmolLM2-135M (513 MiB of fp32 weights) took up to 3 GB.
    """
    return PROCESSES_MIB + MODELS * BYTES_PER_PARAM * shape.params_total / 2**20


def identify_inputs(inputs: list[TrialInputs]) -> dict[str, str]:
    """Digests of the dense models, texts and prompts, and the versions that decide on results."""
    models = {one.dense.source.digest for one in inputs}
    texts = {
        digest_of(one.dense.corpus.documents, one.dense.corpus.heldout.digest) for one in inputs
    }
    prompts = {digest_of(one.prompts) for one in inputs}
    questions = {digest_tasks(one.tasks) for one in inputs if one.tasks}
    found = {"dense model": models, "text": texts, "prompts": prompts}
    decisive = [*DECISIVE]
    if questions:
        found["questions"] = questions
        decisive.append("lm_eval")
    digests = {f"digest of the {name}": ",".join(sorted(one)) for name, one in found.items()}
    return digests | {
        f"version of {name}": installed_version(name) or "unknown" for name in decisive
    }


def check_recovery(settings: Settings, inputs: Inputs) -> None:
    """Raises SettingError unless training has its text and its packages."""
    recovery = settings.recovery
    if recovery.name == "none":
        return
    if settings.data.calibration == "generated":
        _check_written(settings)
    else:
        split_documents(inputs.corpus.documents, inputs.tokenizer, recovery)
    if recovery.lora_rank and find_spec("peft") is None:
        raise SettingError(
            f"recovery.lora_rank={recovery.lora_rank} needs peft; type pip install"
            " 'prune-exp[lora]', or recovery.lora_rank=0 to train all weights"
        )


def _check_written(settings: Settings) -> None:
    """Raises SettingError when what the model will write is too little to train and judge on.

    A tenth is left for what tokens lose when they are text in between.
    """
    data = settings.data
    recovery = settings.recovery
    needed = 1.1 * (recovery.validation_blocks + 1) * recovery.context_tokens
    least = math.ceil(needed / data.context_tokens)
    if data.calibration_blocks < least:
        raise SettingError(
            f"data.calibration_blocks={data.calibration_blocks} is too little text of the model's"
            f" own for {recovery.validation_blocks} validation blocks and training; use"
            f" data.calibration_blocks={least} or more, or fewer recovery.validation_blocks"
        )


def check_request(settings: Settings, shape: ModelShape) -> None:
    """Raises SettingError unless the voters exist and the sparsity can be reached."""
    pruning = settings.pruning
    if pruning.method == "structured":
        check_voters(pruning.voters)
        if fixed := describe_fixed_heads(shape, pruning):
            note_once(fixed)
        allocate_budget(shape, settings.sparsity, pruning)
    else:
        in_blocks = shape.layers * shape.params_layer / shape.params_total
        check_masks(pruning, settings.sparsity, in_blocks)
