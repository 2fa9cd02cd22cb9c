"""Writes a stored model as the files that are asked for, and keeps those that say the same."""

import itertools
import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from prune_exp.machine.display import last_words
from prune_exp.machine.staging import stage_beside
from prune_exp.measurement.worker_client import MeasurementError
from prune_exp.model.export import OF_DENSE
from prune_exp.model.loading import silence_transformers
from prune_exp.registry.candidates import Candidate
from prune_exp.registry.origin import data_of, judged_on
from prune_exp.registry.shipments import describe_shipped, fetch_shipped, record_shipment
from prune_exp.settings.command_schemas import ShipSettings
from prune_exp.settings.errors import SettingError
from prune_exp.shipping.comparison import Reference, Shipment, ShippingError, compare_file
from prune_exp.shipping.dense_pair import NEW_TOKENS, find_dense, pair_with_dense
from prune_exp.shipping.hub import check_login, list_files, push_files
from prune_exp.shipping.rounds import Rounds
from prune_exp.shipping.targets import Target, choose_repositories, choose_targets, file_name
from prune_exp.text.corpus import spread_evenly
from prune_exp.text.documents import deal_documents
from prune_exp.text.domains import list_judged_files
from prune_exp.text.formats import read_documents

BESIDE = ("README.md", "LICENSE.txt")
"""What of the checkpoint lies beside all files."""
SMALLEST_KL = 1e-7
"""Nats; what lies below is rounding of float32."""


def ship_model(settings: ShipSettings) -> int:
    """Writes, compares and records; returns the exit code: 1 where a target was not kept.

    Raises:
        SettingError: nothing could be shipped; nothing was written.
    """
    targets = choose_targets(settings.to)
    repositories = choose_repositories(settings)
    output = check_output(settings.output)
    if settings.positions < 1:
        raise SettingError(f"positions={settings.positions} is too small; use 1 or more")
    if settings.rounds < 0 or settings.rounds == 1:
        raise SettingError(f"rounds={settings.rounds} gives no interval; use 0, or 2 or more")
    for repository in () if settings.dry_run else repositories:
        check_login(repository, private=settings.private)
    with tempfile.TemporaryDirectory(prefix="prune_exp-") as scratch:
        candidate = fetch_shipped(settings, Path(scratch))
        for target in targets.values():
            target.check(candidate.folder)
        reference = Reference(
            checkpoint=candidate.folder,
            documents=_heldout_documents(settings, candidate),
            positions=settings.positions,
        )
        _ = reference.texts
        print(f"{describe_shipped(candidate)}:")
        if settings.dry_run:
            _show_plan(targets, repositories, candidate, output)
            return 0
        made = _ship_all(settings, targets, candidate, reference, output)
        if made is None:
            return 1
        return _push_all(settings, repositories, candidate, made)


def check_output(wanted: str) -> Path:
    """The folder that is to be written; where a link is given, the one that it points to.

    Raises:
        SettingError: it holds something, or cannot be replaced.
    """
    given = Path(wanted).expanduser().absolute()
    output = given.resolve()
    if output.is_mount():
        raise SettingError(
            f"output={output} is the top of a volume, which cannot be replaced by what is made"
            f" beside it; give a folder in it, as output={output / 'shipped'}"
        )
    above = next(folder for folder in output.parents if folder.is_dir())
    if not os.access(above, os.W_OK):
        raise SettingError(f"output={output} cannot be made: {above} cannot be written to")
    if output.is_dir() and not any(output.iterdir()):
        return output
    if output.exists() or given.is_symlink():
        raise SettingError(
            f"output={given} is not empty; give an empty folder, or one that does not exist"
        )
    return output


def _heldout_documents(settings: ShipSettings, candidate: Candidate) -> tuple[str, ...]:
    """Text that did not calibrate: the user's own, or what the trial held out to judge on, of all
    texts to be kept in turns."""
    if settings.text is not None:
        path = Path(settings.text).expanduser()
        if not path.is_file():
            raise SettingError(f"text={path} is not a file; give UTF-8 text")
        return tuple(read_documents(path, setting="text"))
    trial = candidate.trial
    judged = list_judged_files(data_of(trial), judged_on(trial))
    kept = [deal_documents(one.file).heldout for one in judged if one.kept]
    order = spread_evenly([len(documents) for documents in kept])
    return tuple(kept[at][place] for at, place in order)


def _show_plan(
    targets: dict[str, Target], repositories: list[str], candidate: Candidate, output: Path
) -> None:
    for name, target in targets.items():
        print(f"  {name:12} {output / file_name(name, target, candidate.name)}")
    for repository in repositories:
        beside = [file_name(name, one, candidate.name) for name, one in targets.items()]
        top = sorted(path.name for path in candidate.folder.iterdir())
        print(f"  hub:{repository}: {', '.join([*top, *(one for one in beside if one != 'hf')])}")
    print("Dry run: nothing was written.")


def _ship_all(
    settings: ShipSettings,
    targets: dict[str, Target],
    candidate: Candidate,
    reference: Reference,
    output: Path,
) -> Path | None:
    """Where the files are; None where a target was not kept."""
    cache_dir = Path(settings.cache_dir).expanduser()
    dense = find_dense(candidate, cache_dir) if settings.rounds else None
    with stage_beside(output) as stage:
        made = stage / output.name
        made.mkdir()
        kept: list[Shipment] = []
        for name, target in targets.items():
            found = _ship_target(settings, name, target, candidate, reference, made, dense)
            if found is not None:
                kept.append(found)
        if kept:
            _add_papers(made, candidate)
            output = move_into_place(made, output)
    for one in kept:
        record_shipment(candidate, one.target, one.to_json(), one.metrics)
    print(f"{output} holds {', '.join(one.file for one in kept)}." if kept else "Nothing is kept.")
    return output if len(kept) == len(targets) else None


def _push_all(
    settings: ShipSettings, repositories: list[str], candidate: Candidate, output: Path
) -> int:
    for repository in repositories:
        message = describe_shipped(candidate)
        address = push_files(output, repository, private=settings.private, message=message)
        print(f"{len(list(list_files(output)))} files are at {address}")
    return 0


def _add_papers(made: Path, candidate: Candidate) -> None:
    papers = sorted(path.name for path in candidate.folder.glob(f"*{OF_DENSE}"))
    for name in (*BESIDE, *papers):
        if (candidate.folder / name).is_file():
            shutil.copy2(candidate.folder / name, made / name)


def move_into_place(made: Path, output: Path) -> Path:
    """Gives a finished folder its name; another one, which is said, where that was taken since."""
    try:
        if output.is_dir():
            output.rmdir()
        os.replace(made, output)
    except OSError as error:
        other = next(
            free
            for number in itertools.count(1)
            if not (free := output.with_name(f"{output.name}-{number}")).exists()
        )
        os.replace(made, other)
        why = error.strerror or error
        print(
            f"note: {output} could not be replaced any more ({why}); see {other}", file=sys.stderr
        )
        return other
    return output


def _ship_target(
    settings: ShipSettings,
    name: str,
    target: Target,
    candidate: Candidate,
    reference: Reference,
    folder: Path,
    dense: Path | None,
) -> Shipment | None:
    """Writes and compares one target; None, and nothing left of it, where it is not kept."""
    path = folder / file_name(name, target, candidate.name)
    try:
        with silence_transformers():
            target.write(candidate.folder, path, candidate.name)
        found = compare_file(
            name,
            path,
            target.runtime,
            reference,
            threads=settings.threads,
            limit=target.limit(settings),
        )
        note = target.describe(path)
        found = replace(found, note=note, chats_must_be_same=settings.same_chats)
    except Exception as error:  # whatever an exporter raises, other targets are as good as before
        return _drop(name, path, _say_why(error))
    trial_ratio = candidate.trial.metrics.get("perplexity_ratio")
    if trial_ratio is not None:
        whole = trial_ratio * found.perplexity_ratio_to_checkpoint
        found = replace(found, perplexity_ratio=whole)
    _show_figures(found)
    if found.fault is not None:
        return _drop(name, path, found.fault)
    if dense is not None:
        found = _time_beside(settings, found, path, dense, target, reference)
    beside = path.with_name(f"{path.name}.json")
    beside.write_text(json.dumps(found.to_json(), indent=2), encoding="utf-8")
    return found


def _time_beside(
    settings: ShipSettings,
    found: Shipment,
    path: Path,
    dense: Path,
    target: Target,
    reference: Reference,
) -> Shipment:
    """What was found out, and what the file gains over the dense model's of the same kind."""
    how = Rounds(rounds=settings.rounds, new_tokens=NEW_TOKENS, threads=settings.threads)
    try:
        with tempfile.TemporaryDirectory(prefix="prune_exp-") as scratch:
            pair = pair_with_dense(path, dense, found.target, target, reference, how, Path(scratch))
    except Exception as error:  # the file itself is sound
        print(f"  {'':12} not timed beside the dense model: {_say_why(error)}", flush=True)
        return found
    speed, memory = pair.text_speedup, pair.memory_ratio
    print(
        f"  {'':12} beside the dense model's {pair.dense_size_mib:.1f} MiB: the same text"
        f" {speed.value:.2f} times as fast [{speed.low:.2f}, {speed.high:.2f}], peak memory"
        f" {memory.value:.2f} times [{memory.low:.2f}, {memory.high:.2f}]",
        flush=True,
    )
    return replace(found, beside_dense=pair)


def _say_why(error: Exception) -> str:
    """An error's words, and its kind where it was not raised for users to read."""
    meant = isinstance(error, ShippingError | SettingError | MeasurementError)
    words = last_words(error)
    return words if meant else ": ".join(filter(None, [type(error).__name__, words]))


def _drop(name: str, path: Path, reason: str) -> None:
    """Removes what was written of a target and says why."""
    print(f"  {name:12} not kept: {reason}", flush=True)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def show_kl(nats: float) -> str:
    """A divergence, which sums of float32 can put a little below 0."""
    return f"{nats:.2g}" if nats >= SMALLEST_KL else f"below {SMALLEST_KL:.0e}"


def _show_figures(found: Shipment) -> None:
    speed = "" if found.tokens_per_s is None else f", {found.tokens_per_s:.1f} tokens/s"
    print(
        f"  {found.target:12} {found.size_mib:.1f} MiB, KL {show_kl(found.kl_nats)} nats,"
        f" perplexity {found.perplexity_ratio_to_checkpoint:.4f} times the checkpoint's, opens in"
        f" {found.load_s:.1f} s{speed}, {found.same_texts} of {len(found.texts)} texts the same"
        f"{'' if found.note is None else f' ({found.note})'}"
        f"{'' if found.same_chats else ', chats are encoded in another way'}",
        flush=True,
    )
