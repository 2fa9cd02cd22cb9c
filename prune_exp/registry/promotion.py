"""Gates, then the alias `champion` moves, or back again."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from prune_exp.machine.cache import digest_of, folder_sha256
from prune_exp.registry.base_model import base_model_of, check_base_model, check_kept_text
from prune_exp.registry.candidates import (
    CHAMPION,
    PREVIOUS,
    Candidate,
    at_version,
    check_is_ours,
    choose_candidate,
    only_model,
    version_at,
)
from prune_exp.registry.evidence import Evidence
from prune_exp.registry.gates import (
    GATES,
    Verdict,
    asked_by_default,
    judge_candidate,
    show_verdicts,
)
from prune_exp.registry.stored_models import ensure_version, known_version
from prune_exp.settings.choices import check_one_of
from prune_exp.settings.command_schemas import PromoteSettings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import TrackingSettings
from prune_exp.settings.redaction import redact
from prune_exp.text.corpus import FEWEST_BLOCKS
from prune_exp.tracking import tags
from prune_exp.tracking.read import ABSENT, LATEST, store_uri
from prune_exp.tracking.store import use_store

LOCK_TIMEOUT_S = 60
ROLLED_BACK = "rolled back"
PASSED = "passed"
"""What a version is tagged with from the verdicts until its alias has moved."""


def promote_model(settings: PromoteSettings, *, unattended: bool = False) -> int:
    """Judges a stored model and makes it the champion; returns the exit code.

    `unattended` says that nobody has named it, whatever the settings have.

    Raises:
        SettingError: nothing could be judged, or the champion changed meanwhile.
    """
    _check_wanted(settings)
    use_store(settings.tracking)
    if settings.rollback:
        return _roll_back(settings)
    with tempfile.TemporaryDirectory(prefix="prune_exp-") as scratch:
        candidate = choose_candidate(settings, Path(scratch))
        holder = version_at(candidate.name, CHAMPION)
        if holder is not None and holder == candidate.version:
            return _audit_champion(settings, candidate)
        present = at_version(candidate.name, holder, Path(scratch)) if holder else None
        if unattended or not _is_named(settings):
            check_not_rolled_back(candidate)
        if not settings.other_base_model:
            check_base_model(candidate, present)
        if not settings.other_text:
            check_kept_text(candidate, present)
        asked = settings.gates or asked_by_default(settings.limits)
        verdicts = judge_candidate(_evidence_of(settings, candidate, present), asked)
        judged = folder_sha256(candidate.root)
    return _act_on_verdicts(settings, candidate, holder, verdicts, judged)


def _evidence_of(
    settings: PromoteSettings, candidate: Candidate, present: Candidate | None
) -> Evidence:
    return Evidence(
        candidate=candidate,
        champion=present,
        limits=settings.limits,
        cache_dir=Path(settings.cache_dir).expanduser(),
    )


def _is_named(settings: PromoteSettings) -> bool:
    """Whether somebody asks for this very model."""
    return settings.version is not None or settings.run_id not in (None, LATEST)


def check_not_rolled_back(candidate: Candidate) -> None:
    """Raises SettingError for a version that somebody put out of office."""
    if candidate.version is None:
        return
    found = MlflowClient().get_model_version(candidate.name, candidate.version).tags
    if found.get(tags.PROMOTION) == ROLLED_BACK:
        raise SettingError(
            f"version {candidate.version} of {candidate.name} was the champion and was rolled back;"
            f" name it with version={candidate.version} to have it judged again"
        )


def _audit_champion(settings: PromoteSettings, candidate: Candidate) -> int:
    """Judges the champion again where that is asked for; nothing moves.

    What a kill kept its promotion from writing is written first, unless nothing may be.
    """
    left = "" if settings.dry_run else _complete_promotion(settings, candidate)
    if not (settings.dry_run or settings.gates):
        print(
            f"{candidate.name} version {candidate.version} is the champion already; nothing"
            f" moves{left} (dry_run=true judges it again)."
        )
        return 0
    asked = settings.gates or asked_by_default(settings.limits)
    others = [name for name in asked if name != "champion"]
    if not others:
        raise SettingError("gates=champion has no other model to compare the champion with")
    verdicts = judge_candidate(_evidence_of(settings, candidate, None), others)
    passed = all(verdict.passed for verdict in verdicts)
    print(f"{_describe_candidate(candidate)}, the champion:")
    show_verdicts(verdicts)
    print(f"It {'still passes' if passed else 'no longer passes'}; nothing moves{left}.")
    return 0 if passed else 1


def _complete_promotion(settings: PromoteSettings, candidate: Candidate) -> str:
    """Finishes what a kill left undone of the champion's promotion; what to say of that."""
    with lock_aliases(settings.tracking):
        finished = _finish_move(candidate.name)
    return "; its promotion, which had been cut off, is complete now" if finished else ""


def _check_wanted(settings: PromoteSettings) -> None:
    given = [name for name in ("run_id", "version", "gates") if getattr(settings, name)]
    if settings.rollback and given:
        raise SettingError(
            f"rollback=true puts the version with the alias {PREVIOUS} back and knows no"
            f" {' and no '.join(given)}; leave {'it' if len(given) == 1 else 'them'} out"
        )
    for gate in settings.gates:
        check_one_of("gates", gate, tuple(GATES))
    limits = settings.limits
    for name, given, least in (
        ("blocks", limits.blocks, FEWEST_BLOCKS),
        ("resamples", limits.resamples, 100),
        ("pairs", limits.pairs, 2),
        ("new_tokens", limits.new_tokens, 2),
        ("champion_pairs", limits.champion_pairs, 2),
        ("champion_new_tokens", limits.champion_new_tokens, 2),
    ):
        if given is not None and given < least:
            raise SettingError(f"limits.{name}={given} is too small; use {least} or more")


def _describe_candidate(candidate: Candidate) -> str:
    """Which stored model it is, of which run, dense model and day."""
    version = f" version {candidate.version}" if candidate.version else ""
    ended = MlflowClient().get_run(candidate.trial.run_id).info.start_time
    day = datetime.fromtimestamp(ended / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"{candidate.name}{version}, run {candidate.trial.run_id} of {day}, pruned from"
        f" {base_model_of(candidate.trial)}"
    )


def _act_on_verdicts(
    settings: PromoteSettings,
    candidate: Candidate,
    holder: str | None,
    verdicts: list[Verdict],
    judged: str,
) -> int:
    """Shows the verdicts, records them, and moves the alias when all passed.

    `judged` is the digest of the files that they are about; whoever loads them can check it.
    """
    passed = all(verdict.passed for verdict in verdicts)
    print(f"{_describe_candidate(candidate)}:")
    show_verdicts(verdicts)
    if settings.dry_run:
        print(f"Dry run: it {'would become the champion' if passed else 'would be refused'}.")
        return 0 if passed else 1
    with lock_aliases(settings.tracking):
        version = candidate.version or known_version(candidate.trial, candidate.name)
        if version is not None and version == version_at(candidate.name, CHAMPION):
            print(
                f"Version {version} has become the champion meanwhile; its verdicts of then stay."
            )
            return 0 if passed else 1
        if not passed:
            _record_verdicts(candidate, candidate.version, verdicts, "refused")
            print("Refused; nothing moves.")
            return 1
        version = _promote_passed(candidate, holder, verdicts, judged)
    print(f"Version {version} is the champion now; before: {holder or 'none'}.")
    return 0


def _promote_passed(
    candidate: Candidate, holder: str | None, verdicts: list[Verdict], judged: str
) -> str:
    """Records the verdicts with the version, made where there is none, and moves the alias.

    Raises:
        SettingError: the champion is no longer the one judged against, which is recorded.
    """
    version = candidate.version or ensure_version(
        candidate.trial, candidate.trial.tags[tags.MODEL_URI], candidate.name
    )
    MlflowClient().set_model_version_tag(candidate.name, version, tags.JUDGED_SHA256, judged)
    _record_verdicts(candidate, version, verdicts, PASSED)
    try:
        _move_champion(candidate.name, version, holder)
    except SettingError:
        _record_verdicts(candidate, version, verdicts, "overtaken")
        raise
    return version


def _record_verdicts(
    candidate: Candidate, version: str | None, verdicts: list[Verdict], outcome: str
) -> None:
    """Tags the version with every verdict, or the run while there is no version."""
    client = MlflowClient()
    reasons = "; ".join(f"{v.name}: {v.sentence}" for v in verdicts if not v.passed)
    found = {
        f"{tags.GATE_PREFIX}{v.name}": json.dumps(
            {"passed": v.passed, "sentence": redact(v.sentence), "figures": v.figures}
        )
        for v in verdicts
    }
    found |= {
        tags.PROMOTION: outcome,
        tags.PROMOTION_GATES: ", ".join(v.name for v in verdicts),
        tags.PROMOTED_AT: datetime.now(UTC).isoformat(timespec="seconds"),
        tags.PROMOTION_REASONS: redact(reasons)[: tags.LONGEST],
    }
    if version is not None:
        known = client.get_model_version(candidate.name, version).tags
        for key in (key for key in known if key.startswith(tags.GATE_PREFIX) and key not in found):
            client.delete_model_version_tag(candidate.name, version, key)
    for key, value in found.items():
        if version is None:
            client.set_tag(candidate.trial.run_id, f"{tags.PREFIX}{key}", value)
        else:
            client.set_model_version_tag(candidate.name, version, key, value)


def _move_champion(name: str, version: str, expected: str | None) -> None:
    """Makes a version the champion, unless the champion is no longer the one judged against.

    The new champion is marked with the version that it replaces until that one has its second
    alias, so that a kill in between loses neither, nor an older `previous`.
    """
    _finish_move(name)
    present = version_at(name, CHAMPION)
    if present != expected:
        raise SettingError(
            f"another promotion made version {present} of {name} the champion meanwhile; nothing"
            " moved, promote again to be judged against it"
        )
    client = MlflowClient()
    _forget_mark(name, version, tags.UNDOES)
    if present is not None:
        client.set_model_version_tag(name, version, tags.REPLACES, present)
    client.set_registered_model_alias(name, CHAMPION, version)
    _finish_move(name)


def _finish_move(name: str) -> bool:
    """Does what a kill left undone of the champion's promotion or return; whether there was any."""
    present = version_at(name, CHAMPION)
    if present is None:
        return False
    client = MlflowClient()
    found = client.get_model_version(name, present).tags
    if tags.REPLACES in found:
        if _is_there(name, found[tags.REPLACES]):
            client.set_registered_model_alias(name, PREVIOUS, found[tags.REPLACES])
        _forget_mark(name, present, tags.REPLACES)
    if tags.UNDOES in found:
        if _is_there(name, found[tags.UNDOES]):
            client.set_model_version_tag(name, found[tags.UNDOES], tags.PROMOTION, ROLLED_BACK)
        client.delete_registered_model_alias(name, PREVIOUS)
        _forget_mark(name, present, tags.UNDOES)
    if found.get(tags.PROMOTION) == PASSED:
        client.set_model_version_tag(name, present, tags.PROMOTION, "promoted")
    return bool({tags.REPLACES, tags.UNDOES} & found.keys()) or found.get(tags.PROMOTION) == PASSED


def _is_there(name: str, version: str) -> bool:
    """Whether a version is in the registry still; it may have been deleted by hand."""
    try:
        MlflowClient().get_model_version(name, version)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return False
    return True


def _forget_mark(name: str, version: str, key: str) -> None:
    client = MlflowClient()
    if key in client.get_model_version(name, version).tags:
        client.delete_model_version_tag(name, version, key)


def _roll_back(settings: PromoteSettings) -> int:
    name = settings.tracking.registered_model or only_model()
    client = MlflowClient()
    with lock_aliases(settings.tracking):
        undone = _undone_by(name)
        if not settings.dry_run:
            _finish_move(name)
        if undone is not None:
            return _say_champion(name, str(version_at(name, CHAMPION)), undone)
        present, previous = (version_at(name, alias) for alias in (CHAMPION, PREVIOUS))
        if previous is None or previous == present:
            raise SettingError(f"{name} has no previous champion to put back; nothing moves")
        for version in filter(None, (present, previous)):
            check_is_ours(name, version)
        if settings.dry_run:
            print(f"Dry run: version {previous} would be the champion again, not {present}.")
            return 0
        _forget_mark(name, previous, tags.REPLACES)
        if present is not None:
            client.set_model_version_tag(name, previous, tags.UNDOES, present)
        client.set_registered_model_alias(name, CHAMPION, previous)
        _finish_move(name)
    return _say_champion(name, previous, present)


def _undone_by(name: str) -> str | None:
    """The version that a rollback put out of office, where a kill cut that off."""
    present = version_at(name, CHAMPION)
    if present is None:
        return None
    return MlflowClient().get_model_version(name, present).tags.get(tags.UNDOES)


def _say_champion(name: str, version: str, before: str | None) -> int:
    print(f"Version {version} of {name} is the champion again; before: {before or 'none'}.")
    return 0


@contextmanager
def lock_aliases(tracking: TrackingSettings) -> Iterator[None]:
    """One promotion at a time moves aliases, on this machine; a re-read guards against others."""
    uri = store_uri(tracking)
    file = Path(tempfile.gettempdir()) / f"prune_exp-promote-{digest_of(uri)}.lock"
    try:
        with FileLock(file, timeout=LOCK_TIMEOUT_S, mode=0o666):
            yield
    except Timeout:
        raise SettingError(
            f"another promotion holds {file}; wait until it is done and promote again"
        ) from None
