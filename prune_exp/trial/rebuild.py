"""A trial's model again, from its stored plan and settings."""

from dataclasses import replace
from pathlib import Path

from prune_exp.machine.limits import fit_threads
from prune_exp.machine.packages import installed_version
from prune_exp.machine.staging import stage_beside
from prune_exp.model import loading
from prune_exp.model.export import choose_export_dtype, export_model, weights_sha256
from prune_exp.pruning.plan import PruningPlan
from prune_exp.pruning.pruner import repeat_pruning
from prune_exp.registry.origin import check_text, find_dense_model
from prune_exp.settings.command_schemas import RebuildSettings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.params import restore_settings
from prune_exp.settings.schema import Settings
from prune_exp.tracking import tags
from prune_exp.tracking.read import LATEST, TrackedTrial, find_latest, read_plan, read_trials
from prune_exp.tracking.runs import environment_tags
from prune_exp.tracking.store import use_store
from prune_exp.trial.dense import load_dense
from prune_exp.trial.prepare import prepare_trial, pruning_request

DECISIVE = ("torch", "transformers", "prune-exp")
"""Packages whose version may change the last bits of a weight."""


def rebuild_trial(wanted: RebuildSettings) -> int:
    """Writes the model to a folder, when its weights are those recorded; returns the exit code.

    Raises:
        SettingError: there is no such trial, its inputs changed, or the folder exists.
    """
    output = Path(wanted.output).expanduser().absolute()
    if output.exists():
        raise SettingError(f"output={output} exists; give a folder that does not")
    use_store(wanted.tracking)
    fit_threads()
    latest = wanted.run_id == LATEST
    run_id = find_latest(wanted.tracking, trial=True) if latest else wanted.run_id
    trial, plan = _read_trial(run_id)
    settings = replace(restore_settings(Settings, trial.params), cache_dir=wanted.cache_dir)
    settings.quality.tasks = []  # nothing is asked
    settings.benchmark.enabled = False  # nor served
    check_rebuildable(settings)
    cache_dir = Path(wanted.cache_dir).expanduser()
    source = find_dense_model(trial, cache_dir)
    check_text(trial, source, loading.load_tokenizer(source.folder), cache_dir)
    dense = prepare_trial(settings).dense
    dtype = choose_export_dtype(settings.model.export_dtype, source.folder)
    with stage_beside(output) as stage:
        made = stage / output.name
        model = load_dense(settings, source, made)
        pruned = repeat_pruning(pruning_request(settings), dense, model, plan)
        export_model(pruned.model, pruned.tokenizer, made, dtype, dense=source.folder)
        return _verify_weights(trial, made, output, keep=wanted.allow_different)


def _read_trial(run_id: str) -> tuple[TrackedTrial, PruningPlan]:
    trials = read_trials(run_id)
    plan = read_plan(run_id)
    if len(trials) != 1 or trials[0].run_id != run_id or plan is None:
        raise SettingError(
            f"run_id={run_id} has no plan; give the run of a finished trial, not of a sweep"
        )
    return trials[0], plan


def check_rebuildable(settings: Settings) -> None:
    if settings.recovery.name != "none":
        raise SettingError(
            f"the trial trained its model after pruning (recovery={settings.recovery.name}), which"
            " a plan does not hold; use the stored model (tracking.log_models=best or all)"
        )


def _verify_weights(trial: TrackedTrial, made: Path, output: Path, *, keep: bool) -> int:
    """Compares the weights in `made`, and moves them to `output` where they may be kept."""
    found = weights_sha256(made)
    recorded = trial.tags.get(tags.WEIGHTS_SHA256)
    if found == recorded or keep:
        made.rename(output)
    if found == recorded:
        print(f"{output}: bit-identical to the trial's weights (sha256 {found}).")
        return 0
    differ = _changed_versions(trial)
    raise SettingError(
        f"the weights rebuilt have sha256 {found}, the trial recorded {recorded}"
        f" ({'; '.join(differ) or 'same versions: another machine or number of threads'});"
        + (f" kept in {output}" if keep else " nothing is kept, allow_different=true keeps it")
    )


def _changed_versions(trial: TrackedTrial) -> list[str]:
    """Decisive packages whose version is not the trial's, and our own commit, then and now."""
    changed = []
    for name in DECISIVE:
        then = trial.tags.get(f"{tags.VERSION_PREFIX}{name}")
        now = installed_version(name) or "unknown"
        if then != now:
            changed.append(f"{name} {then}, now {now}")
    then, now = (found.get(tags.GIT_COMMIT) for found in (trial.tags, environment_tags()))
    if then != now:
        changed.append(f"commit {then}, now {now}")
    return changed
