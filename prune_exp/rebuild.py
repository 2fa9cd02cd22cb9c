"""`python -m prune_exp.rebuild`: a trial's model again, from its stored plan and settings."""

import shutil
from dataclasses import replace
from pathlib import Path

from prune_exp import models
from prune_exp.commands import RebuildSettings, command
from prune_exp.device import device_of
from prune_exp.evidence import check_text, dense_source
from prune_exp.export import export, weights_sha256
from prune_exp.inputs import prepare
from prune_exp.packaged import installed_version
from prune_exp.params import unflatten
from prune_exp.pruner import rebuild_model
from prune_exp.records import PruningPlan
from prune_exp.settings import SettingError, Settings
from prune_exp.store import use_store
from prune_exp.tracked import PREFIX, TrackedTrial, read_plan, read_trials

DECISIVE = ("torch", "transformers", "prune-exp")
"""Packages whose version may change the last bits of a weight."""


def rebuild(wanted: RebuildSettings) -> int:
    """Writes the model to a folder, when its weights are those recorded; returns the exit code.

    Raises:
        SettingError: there is no such trial, its inputs changed, or the folder exists.
    """
    output = Path(wanted.output).expanduser().absolute()
    if output.exists():
        raise SettingError(f"output={output} exists; give a folder that does not")
    use_store(wanted.tracking)
    trial, plan = _trial(wanted.run_id)
    settings = replace(unflatten(trial.params), cache_dir=wanted.cache_dir)
    _check_recovery(settings)
    cache_dir = Path(wanted.cache_dir).expanduser()
    source = dense_source(settings, trial.tags, cache_dir)
    tokenizer = models.load_tokenizer(source.folder)
    check_text(settings, source, tokenizer, cache_dir, trial.run_id)
    inputs = prepare(settings)
    model = models.load(source.folder, device=device_of(settings.device))
    done = rebuild_model(settings, inputs, model, plan)
    output.parent.mkdir(parents=True, exist_ok=True)
    export(done.model, done.tokenizer, output)
    return _verify(trial, output, keep=wanted.allow_different)


def _trial(run_id: str) -> tuple[TrackedTrial, PruningPlan]:
    trials = read_trials(run_id)
    plan = read_plan(run_id)
    if len(trials) != 1 or trials[0].run_id != run_id or plan is None:
        raise SettingError(
            f"run_id={run_id} has no plan; give the run of a finished trial, not of a sweep"
        )
    return trials[0], plan


def _check_recovery(settings: Settings) -> None:
    if settings.recovery.name != "none":
        raise SettingError(
            f"the trial trained its model after pruning (recovery={settings.recovery.name}), which"
            " a plan does not hold; use the stored model (tracking.log_models=best or all)"
        )


def _verify(trial: TrackedTrial, output: Path, *, keep: bool) -> int:
    found, recorded = weights_sha256(output), trial.tags.get(f"{PREFIX}weights_sha256")
    if found == recorded:
        print(f"{output}: bit-identical to the trial's weights (sha256 {found}).")
        return 0
    if not keep:
        shutil.rmtree(output)
    differ = [
        f"{name} {then}, now {now}"
        for name in DECISIVE
        if (then := trial.tags.get(f"version.{name}"))
        != (now := installed_version(name) or "unknown")
    ]
    raise SettingError(
        f"the weights rebuilt have sha256 {found}, the trial recorded {recorded}"
        f" ({'; '.join(differ) or 'same versions: another machine or number of threads'});"
        + (f" kept in {output}" if keep else " nothing is kept, allow_different=true keeps it")
    )


if __name__ == "__main__":
    command("rebuild", RebuildSettings, rebuild)
