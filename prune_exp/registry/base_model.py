"""One name in the registry is about one dense model and the texts that its champion keeps."""

from contextlib import suppress

from mlflow.tracking import MlflowClient

from prune_exp.registry.candidates import Candidate
from prune_exp.registry.origin import data_of
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import ModelSettings
from prune_exp.settings.params import restore_settings
from prune_exp.tracking import tags
from prune_exp.tracking.domains import join_words, list_kept
from prune_exp.tracking.read import TrackedTrial, read_run


def base_model_of(trial: TrackedTrial) -> str:
    """What a trial's dense model is called."""
    model = restore_settings(ModelSettings, trial.params, "model")
    return model.base_model or model.hub_id or model.name


def check_base_model(candidate: Candidate, champion: Candidate | None) -> None:
    """Raises SettingError where a model would follow one that was made from another dense model.

    Without a champion the first registered version says what the name is about.
    """
    earlier = champion.trial if champion is not None else _first_trial(candidate.name)
    base = candidate.trial.tags.get(tags.MODEL_DIGEST)
    theirs = None if earlier is None else earlier.tags.get(tags.MODEL_DIGEST)
    if earlier is None or None in (base, theirs) or base == theirs:
        return
    ours = base_model_of(candidate.trial)
    name = base_model_of(earlier)
    raise SettingError(
        f"run_id={candidate.trial.run_id} pruned {ours}, and {candidate.name} is about"
        f" {name if name != ours else 'other weights of that name'}; give it a"
        " tracking.registered_model=NAME of its own, or other_base_model=true"
    )


def check_kept_text(candidate: Candidate, champion: Candidate | None) -> None:
    """Raises SettingError where a model need not keep a text that the champion keeps.

    The gates judge on the texts that the candidate's trial had to keep. A model for one narrow text
    keeps more of that at a larger cut, and would replace one for many.
    """
    if champion is None:
        return
    ours, theirs = (list_kept(one.trial.metrics) for one in (candidate, champion))
    missing = [name for name in theirs if name not in ours]
    if ours == theirs and not _have_one_text(candidate.trial, champion.trial):
        missing = [f"another {name}" for name in theirs]
    if ours and missing:
        raise SettingError(
            f"version {champion.version} of {candidate.name}, the champion, keeps quality on"
            f" {join_words(missing)}, and run_id={candidate.trial.run_id} was judged on"
            f" {join_words(ours)} alone; give it a tracking.registered_model=NAME of its own, or"
            " other_text=true"
        )


def _have_one_text(one: TrackedTrial, other: TrackedTrial) -> bool:
    """Whether texts of the same names are the same, by where they lie or by their documents.

    A folder may have moved, and another version may reserve other documents; where both differ it
    is another text.
    """
    digests = [each.tags.get(tags.RESERVED_DIGEST) for each in (one, other)]
    places = [(data.package, data.path, data.mix) for data in map(data_of, (one, other))]
    return digests[0] == digests[1] or places[0] == places[1]


def _first_trial(name: str) -> TrackedTrial | None:
    """The trial of the first registered version, where its run is still known."""
    found = MlflowClient().search_model_versions(f"name = '{name}'")
    for one in sorted(found, key=lambda version: int(version.version))[:1]:
        with suppress(SettingError):
            return read_run(str(one.run_id))
    return None
