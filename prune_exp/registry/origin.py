"""What a tracked trial started from, found again and checked: the dense model and the text."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prune_exp.machine.device import choose_device
from prune_exp.model.sources import ModelSource, digest_of_all, locate_model
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import DataSettings, ModelSettings, QualitySettings
from prune_exp.settings.params import restore_settings
from prune_exp.text.corpus import load_corpus, reserved_digest
from prune_exp.text.generated_text import Author, complete_corpus
from prune_exp.tracking import tags
from prune_exp.tracking.read import TrackedTrial, text_digests


def find_dense_model(trial: TrackedTrial, cache_dir: Path) -> ModelSource:
    """The dense model of a trial.

    Raises:
        SettingError: it is missing, or not the one that the trial pruned.
    """
    source = locate_model(restore_settings(ModelSettings, trial.params, "model"), cache_dir)
    recorded = trial.tags.get(tags.MODEL_DIGEST)
    if source.digest != recorded and digest_of_all(source.folder, cache_dir) != recorded:
        raise SettingError(
            f"the dense model in {source.folder} has digest {source.digest}, the trial pruned"
            f" {recorded}; put the same model there"
        )
    return source


def data_of(trial: TrackedTrial) -> DataSettings:
    """Which text a trial read."""
    return restore_settings(DataSettings, trial.params, "data")


def judged_on(trial: TrackedTrial) -> QualitySettings:
    """Which kinds of text a trial was judged on, and how much it may have lost."""
    return restore_settings(QualitySettings, trial.params, "quality")


def check_judged_text(trial: TrackedTrial, tokenizer: Any) -> None:
    """Raises SettingError unless the text has the documents that a trial was kept from.

    Calibration plays no part in a judgement, so its text is neither needed nor made again. Runs
    that did not record these documents are known by their held-out blocks alone.
    """
    data = data_of(trial)
    quality = judged_on(trial)
    corpus = load_corpus(replace(data, calibration="generated"), quality, tokenizer, seed=0)
    found = {"heldout": corpus.heldout.digest}
    recorded = {"heldout": text_digests(trial.run_id).get("heldout")}
    if trial.tags.get(tags.RESERVED_DIGEST):
        found["reserved"] = reserved_digest(data, quality)
        recorded["reserved"] = trial.tags[tags.RESERVED_DIGEST]
    _compare_digests(trial, corpus.heldout.source, found, recorded)


def check_text(trial: TrackedTrial, source: ModelSource, tokenizer: Any, cache_dir: Path) -> None:
    """Raises SettingError unless the text gives the blocks that a trial recorded."""
    data = data_of(trial)
    seed = int(trial.params.get("seed", "0"))
    author = Author(
        name=restore_settings(ModelSettings, trial.params, "model").name,
        source=source,
        tokenizer=tokenizer,
        device=choose_device(trial.params.get("device", "cpu")),
        seed=seed,
        cache_dir=cache_dir,
    )
    corpus = load_corpus(data, judged_on(trial), tokenizer, seed=seed)
    corpus = complete_corpus(corpus, data, author)
    found = {"calibration": corpus.calibration.digest, "heldout": corpus.heldout.digest}
    _compare_digests(trial, corpus.calibration.source, found, text_digests(trial.run_id))


def _compare_digests(
    trial: TrackedTrial, source: str, found: Mapping[str, str], recorded: Mapping[str, Any]
) -> None:
    commit = trial.tags.get(tags.GIT_COMMIT, "none")
    version = "" if commit == "none" else f" (commit {commit})"
    for role, digest in found.items():
        if recorded.get(role) != digest:
            raise SettingError(
                f"the {role} text from {source} has digest {digest}, the"
                f" trial used {recorded.get(role)}; put the same text there, or, where it is the"
                f" same, use the version that the trial ran with{version}"
            )
