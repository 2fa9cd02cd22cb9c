"""Would plain quantization not do better at this size? Every model, as every kind of file."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from prune_exp.machine.packages import installed_version
from prune_exp.machine.staging import stage_beside
from prune_exp.measurement.quality import losses_by_document
from prune_exp.model import loading
from prune_exp.registry.candidates import Candidate
from prune_exp.registry.origin import (
    check_judged_text,
    data_of,
    find_dense_model,
    judged_on,
)
from prune_exp.registry.shipments import fetch_shipped
from prune_exp.settings.choices import check_one_of
from prune_exp.settings.command_schemas import RivalSettings, ShipSettings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import ModelSettings
from prune_exp.settings.params import restore_settings
from prune_exp.shipping.comparison import PROMPTS, ShippingError
from prune_exp.shipping.gguf_file import check_gguf, write_gguf
from prune_exp.shipping.probe import ProbeAnswer
from prune_exp.shipping.quantization import CHOICES
from prune_exp.shipping.quantized_weights import quantize_weights
from prune_exp.shipping.rival_table import Rival, Rivals, list_verdicts, write_rivals
from prune_exp.shipping.rounds import Rounds, TimedFile, time_files
from prune_exp.shipping.ship import check_output, move_into_place
from prune_exp.shipping.targets import choose_targets
from prune_exp.text.corpus import TokenBlocks, load_corpus
from prune_exp.text.token_bytes import make_reencoder
from prune_exp.tracking.runs import log_file

DENSE = "dense"


def compare_rivals(settings: RivalSettings) -> int:
    """Writes the table and the plot, and keeps them with the runs; returns the exit code.

    Raises:
        SettingError: nothing could be compared; nothing was written.
    """
    output = check_output(settings.output)
    _check_settings(settings)
    with tempfile.TemporaryDirectory(prefix="prune_exp-") as scratch, stage_beside(output) as stage:
        candidates = _fetch_candidates(settings, Path(scratch))
        found = _compare(settings, candidates, Path(scratch))
        made = stage / output.name
        made.mkdir()
        write_rivals(found, settings.sizes_mib, made)
        output = move_into_place(made, output)
    for sentence in list_verdicts(found):
        print(sentence)
    print(f"{output} has the table and the plot.")
    for one in candidates:
        for path in sorted(output.iterdir()):
            log_file(one.trial.run_id, path, "rivals")
    return 0


def _compare(settings: RivalSettings, candidates: Sequence[Candidate], scratch: Path) -> Rivals:
    dense = _find_dense(candidates, Path(settings.cache_dir).expanduser())
    folders = {DENSE: dense} | {_name(one): one.folder for one in candidates}
    _check_folders(folders)
    text = _heldout_text(candidates, dense, settings.blocks)
    files = _write_files(folders, settings.kinds, scratch / "files")
    measured = _time_files(files, settings)
    return Rivals(
        text=text,
        rivals=[
            _judge_file(name, kind, folders[name], dense, text, files, measured)
            for name, kind in files
        ],
        runtime=_describe_runtime(settings),
        was_quantized=any(_came_quantized(one) for one in candidates),
    )


def _came_quantized(candidate: Candidate) -> bool:
    """Whether its dense model comes from a package, which carry GGUF files."""
    return restore_settings(ModelSettings, candidate.trial.params, "model").package is not None


def _check_folders(folders: dict[str, Path]) -> None:
    """Raises SettingError where a model cannot be written as GGUF."""
    for name, folder in folders.items():
        try:
            check_gguf(folder)
        except SettingError as error:
            raise SettingError(f"{name} cannot be compared: {error}") from None


def _check_settings(settings: RivalSettings) -> None:
    """Raises SettingError for what can be known before anything is fetched."""
    if not settings.kinds:
        raise SettingError(f"kinds is empty; give one or more of {', '.join(CHOICES)}")
    for kind in settings.kinds:
        check_one_of("kinds", kind, tuple(CHOICES))
    choose_targets([f"gguf:{kind}" for kind in settings.kinds])
    least = {"rounds": 2, "new_tokens": 2, "threads": 1, "blocks": 1}
    for name, value in least.items():
        if getattr(settings, name) < value:
            given = getattr(settings, name)
            raise SettingError(f"{name}={given} is too small; use {value} or more")


def _fetch_candidates(settings: RivalSettings, scratch: Path) -> list[Candidate]:
    """The models that compete, each once, their files checked."""
    plain = ShipSettings(tracking=settings.tracking)
    wanted = [replace(plain, version=one) for one in dict.fromkeys(settings.versions)]
    wanted += [replace(plain, run_id=one) for one in dict.fromkeys(settings.run_ids)]
    found: dict[str, Candidate] = {}
    for number, one in enumerate(wanted or [plain]):
        folder = scratch / str(number)
        folder.mkdir()
        candidate = fetch_shipped(one, folder)
        found.setdefault(candidate.trial.run_id, candidate)
    return [*found.values()]


def _find_dense(candidates: Sequence[Candidate], cache_dir: Path) -> Path:
    """The dense model of all of them.

    Raises:
        SettingError: it is missing, or they have not one and the same.
    """
    found = {
        source.digest: source.folder
        for source in (find_dense_model(one.trial, cache_dir) for one in candidates)
    }
    if len(found) > 1:
        raise SettingError(
            f"the models that are to be compared come from {len(found)} dense models; give versions"
            " and run_ids of one"
        )
    return next(iter(found.values()))


def _name(candidate: Candidate) -> str:
    gone = candidate.trial.metrics.get("params_pruned_pct", 0.0)
    run = candidate.trial.run_id[:8]
    which = f"version {candidate.version}" if candidate.version else f"run {run}"
    return f"{candidate.name} {which}, {gone:.1f} % less"


def _heldout_text(candidates: Sequence[Candidate], dense: Path, blocks: int) -> TokenBlocks:
    """The blocks that all of their trials were judged on, at most so many of each kind of text.

    Raises:
        SettingError: these are not there any more, or others for each.
    """
    tokenizer = loading.load_tokenizer(dense)
    found: dict[tuple[Any, ...], TokenBlocks] = {}
    for trial in (one.trial for one in candidates):
        check_judged_text(trial, tokenizer)
        data = replace(data_of(trial), calibration="generated")  # which plays no part here
        data.heldout_blocks = min(blocks, data.heldout_blocks)
        text = load_corpus(data, judged_on(trial), tokenizer, seed=0).heldout
        found[text.digest, tuple((one.name, one.kept) for one in text.domains)] = text
    if len(found) > 1:
        raise SettingError(
            f"the models that are to be compared were judged on {len(found)} different texts; give"
            " versions and run_ids of one"
        )
    return next(iter(found.values()))


Files = dict[tuple[str, str], Path]
"""GGUF files by the model's name and the kind."""


def _write_files(folders: dict[str, Path], kinds: Sequence[str], target: Path) -> Files:
    target.mkdir()
    found: Files = {}
    for number, (name, folder) in enumerate(folders.items()):
        for kind in dict.fromkeys(kinds):
            path = target / f"{number}-{kind}.gguf"
            with loading.silence_transformers():
                write_gguf(folder, path, kind, name)
            found[name, kind] = path
    return found


def _time_files(files: Files, settings: RivalSettings) -> dict[tuple[str, str], list[ProbeAnswer]]:
    """What llama.cpp says of every file, by round."""
    timed = {
        key: TimedFile(name=" ".join(key), path=path, runtime="llama.cpp")
        for key, path in files.items()
    }
    how = Rounds(rounds=settings.rounds, new_tokens=settings.new_tokens, threads=settings.threads)
    try:
        return time_files(timed, how)
    except ShippingError as error:
        raise SettingError(str(error)) from error


def _judge_file(
    name: str,
    kind: str,
    folder: Path,
    dense: Path,
    text: TokenBlocks,
    files: Files,
    measured: dict[tuple[str, str], list[ProbeAnswer]],
) -> Rival:
    """A file's size, times, and what its weights make of the text, in float32."""
    model = loading.load_model(folder)
    with torch.no_grad():
        quantize_weights(model, kind)
    own, theirs = (loading.load_tokenizer(one) for one in (folder, dense))
    trimmed = own.get_vocab() != theirs.get_vocab()
    judged = losses_by_document(model, text, make_reencoder(theirs, own) if trimmed else None)
    answers = measured[name, kind]
    return Rival(
        model=name,
        kind=kind,
        is_dense=name == DENSE,
        size_mib=files[name, kind].stat().st_size / 2**20,
        peak_memory_mib=median(one.peak_memory_mib for one in answers),
        tokens_per_s=[float(one.tokens_per_s or 0) for one in answers],
        losses=judged.losses,
        own_tokens=judged.own_tokens,
    )


def _describe_runtime(settings: RivalSettings) -> str:
    threads = f"{settings.threads} thread{'s' if settings.threads > 1 else ''}"
    return (
        f"llama.cpp (xllamacpp {installed_version('xllamacpp')}), {threads},"
        f" {settings.rounds} rounds of {PROMPTS} prompts and {settings.new_tokens} tokens"
    )
