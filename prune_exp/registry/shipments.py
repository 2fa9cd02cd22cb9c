"""Which stored model is shipped, whether its files hold, and what the store keeps of it."""

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlflow.tracking import MlflowClient

from prune_exp.registry.candidates import (
    CHAMPION,
    Candidate,
    at_version,
    choose_candidate,
    only_model,
    version_at,
)
from prune_exp.registry.verification import check_files
from prune_exp.settings.command_schemas import PromoteSettings, ShipSettings
from prune_exp.settings.errors import SettingError
from prune_exp.tracking import tags
from prune_exp.tracking.read import CANDIDATE
from prune_exp.tracking.runs import log_file
from prune_exp.tracking.store import use_store


def fetch_shipped(settings: ShipSettings, scratch: Path) -> Candidate:
    """The model that is to be shipped, its files fetched and checked.

    Raises:
        SettingError: there is no such model, or its files are not those that were stored.
    """
    use_store(settings.tracking)
    candidate = _choose_shipped(settings, scratch)
    for verdict in check_files(candidate, candidate.version, None):
        if not verdict.passed:
            raise SettingError(
                f"{describe_shipped(candidate)} is not used: {verdict.name}: {verdict.sentence}"
            )
    return candidate


def _choose_shipped(settings: ShipSettings, scratch: Path) -> Candidate:
    if settings.run_id is not None or settings.version is not None:
        asked = PromoteSettings(
            run_id=settings.run_id, version=settings.version, tracking=settings.tracking
        )
        return choose_candidate(asked, scratch)
    name = settings.tracking.registered_model or only_model()
    version = version_at(name, CHAMPION)
    if version is None:
        version = version_at(name, CANDIDATE)
        if version is None:
            raise SettingError(
                f"{name} has neither a champion nor a candidate; say which version with"
                " version=NUMBER, or for rivals versions=[NUMBER]"
            )
        print(f"note: {name} has no champion, so its candidate is taken", file=sys.stderr)
    return at_version(name, version, scratch)


def describe_shipped(candidate: Candidate) -> str:
    """Its name, and its version or its run."""
    if candidate.version is None:
        return f"{candidate.name}, run {candidate.trial.run_id}"
    return f"{candidate.name} version {candidate.version}"


def record_shipment(
    candidate: Candidate, target: str, facts: Mapping[str, object], metrics: Mapping[str, float]
) -> None:
    """Keeps with the model's run what was found out about a shipped file, and its digest."""
    client = MlflowClient()
    run_id = candidate.trial.run_id
    name = target.replace(":", "_").replace("/", "_")
    for key, value in metrics.items():
        client.log_metric(run_id, f"shipped/{name}/{key}", value)
    with tempfile.TemporaryDirectory(prefix="prune_exp-") as scratch:
        file = Path(scratch) / f"{name}.json"
        file.write_text(json.dumps(facts, indent=2), encoding="utf-8")
        log_file(run_id, file, "shipped")
    if candidate.version is not None:
        client.set_model_version_tag(
            candidate.name, candidate.version, f"{tags.SHIPPED_PREFIX}{name}", str(facts["sha256"])
        )
