"""Every key of a tag that runs and registered versions carry, and what it says."""

import re
from collections.abc import Mapping

from prune_exp.settings.errors import SettingError
from prune_exp.settings.redaction import is_secret, redact

PREFIX = "prune_exp."

ROLE = f"{PREFIX}role"
"""sweep, trial, or dense: the row that they are compared with."""
DENSE = "dense"
PHASE = "phase"
"""How far a trial is."""
FOLDER = f"{PREFIX}folder"
"""Where the run's outputs lie on the machine that made them, from the local store's folder on."""
STUDY = f"{PREFIX}study"
"""Name of a sweep's Optuna study."""
OVERRIDES = f"{PREFIX}overrides"
"""What the command line gave, as a JSON list."""
TYPED_IN = f"{PREFIX}typed_in"
"""The folder that the command line was typed in."""
PROCESS = f"{PREFIX}process"
"""Host, process id and start of the process that a run belongs to."""
PLACE = f"{PREFIX}place"
"""Where that process id means something: this start of the machine and this container."""
BEAT = f"{PREFIX}beat"
"""When the process last said that it lives, in seconds since 1970."""
ERROR = f"{PREFIX}error"
"""Why a run failed."""
STOPPED = f"{PREFIX}stopped"
"""Of finished runs without a result: which constraint their trial could not meet."""
INTERRUPTED = f"{PREFIX}interrupted"
"""Of runs whose process was killed: cut off, not failed on their own account."""

BEST_RUN = f"{PREFIX}best_run"
"""Of a sweep: which trial its metrics are those of."""

MODEL_DIGEST = f"{PREFIX}model_digest"
"""Identifies the dense model's config and weights."""
WEIGHTS_SHA256 = f"{PREFIX}weights_sha256"
"""Digest of the pruned model's weights."""
CHECKPOINT = f"{PREFIX}checkpoint"
"""Where a trial left its checkpoint until the sweep ends, from the local store's folder on."""
MODEL_URI = f"{PREFIX}model_uri"
"""Of trials whose weights are stored with them."""
FILES_SHA256 = f"{PREFIX}files_sha256"
"""Of trials whose weights are stored: digest of all files of the stored checkpoint."""
WRAPPER_SHA256 = f"{PREFIX}wrapper_sha256"
"""The same of all files beside the checkpoint: what MLflow loads it by."""

RESERVED_DIGEST = f"{PREFIX}reserved_digest"
"""Identifies the documents that a trial did not see, for a last judgement."""

MEASUREMENT_FACTS = ("stopped_by", "processor", "cores", "threads", "governor", "dtype")
"""What a timing depends on; each is a tag after `PREFIX`."""

DEVICE = "device"
VISIBLE_GPUS = "visible_gpus"
"""Which of its machine's GPUs a trial was shown, where somebody chose them."""
GIT_COMMIT = "git_commit"
VERSION_PREFIX = "version."
"""Followed by a package's name, or by python."""

JOB_NAME = "hydra.job.name"
JOB_NUMBER = "hydra.job.num"
"""A trial's number in its sweep."""
OLD_JOB_NUMBER = "hydra.job_num"
"""Where earlier runs have it."""
HYDRA_OVERRIDES = "hydra.overrides"
RUN_DIR = "hydra.run.dir"
SWEEP_DIR = "hydra.sweep.dir"

GATE_PREFIX = "gate."
"""Followed by a gate's name: its verdict with its figures, as JSON."""
PROMOTION = "promotion"
"""passed while its alias is still to move, then promoted; refused, overtaken or rolled back."""
PROMOTION_GATES = "promotion.gates"
"""Which gates were asked the last time."""
PROMOTED_AT = "promotion.at"
PROMOTION_REASONS = "promotion.reasons"
"""Why a promotion was refused."""

REPLACES = "promotion.replaces"
"""Of a champion whose predecessor has not got its alias yet: which version that is."""
UNDOES = "promotion.undoes"
"""Of a champion that was put back, until the rollback is complete: the version that it replaces."""
JUDGED_SHA256 = "judged_sha256"
"""Of versions that were promoted: digest of all files of the model that the gates judged."""

SHIPPED_PREFIX = "shipped."
"""Followed by what a version was shipped as: the digest of that file or folder."""

PARENT_RUN = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
"""What MLflow's pages show as a run's or an experiment's description."""
TABLES = "mlflow.loggedArtifacts"
"""Of runs: which artifacts MLflow's pages show as tables side by side."""
EXTERNAL_MODEL = "mlflow.model.isExternal"
"""Of a logged model without files."""
SOURCE_NAME = "mlflow.source.name"
EXPERIMENT_KIND = "mlflow.experimentKind"
VIEW_NAME = "prune_exp"
"""What a page's address calls our view of an experiment."""
VIEW = f"mlflow.sharedViewState.{VIEW_NAME}"
"""Of an experiment: a view that MLflow's pages know, which columns there are and in what order."""
PRIMARY_METRIC = "mlflow.experiment.primaryMetric.name"
"""Of an experiment: what its charts show first."""
DATASET_ROLE = "mlflow.data.context"

LONGEST = 5000
"""Characters of a tag's value that are kept; MLflow cuts at 8000."""


WITHOUT_DOT = frozenset(
    value
    for name, value in tuple(globals().items())
    if name.isupper() and isinstance(value, str) and "." not in value
)
"""Keys of ours that a tag of the user's could be called by: all of this file without a dot."""


def check_tags(given: Mapping[str, str]) -> None:
    """Raises SettingError for tags of the user's that MLflow refuses, or that would be ours.

    All other keys of ours have a dot.
    """
    for key, value in given.items():
        if not re.fullmatch(r"[\w-]{1,100}", key):
            raise SettingError(
                f"tracking.tags has {key}, which is no name: letters, digits, dashes and"
                " underscores, at most 100; try tracking.tags.team=red"
            )
        if key in WITHOUT_DOT:
            raise SettingError(
                f"tracking.tags.{key} is a tag that runs have by themselves; try"
                f" tracking.tags.my_{key}={value}"
            )
        if is_secret(key):
            raise SettingError(
                f"tracking.tags.{key} looks like a secret by its name, and everybody can read tags;"
                " leave it out, or give it another name"
            )
        if len(value) > LONGEST:
            raise SettingError(
                f"tracking.tags.{key} has {len(value)} characters; use {LONGEST} or fewer"
            )


def tags_of_user(given: Mapping[str, str]) -> dict[str, str]:
    """Tags of the user's as they are stored, without anybody's password."""
    return {key: redact(value) for key, value in given.items()}


def job_number(tags: Mapping[str, str]) -> int:
    """A trial's number in its sweep; 0 where there is none."""
    number = tags.get(JOB_NUMBER, tags.get(OLD_JOB_NUMBER, "0"))
    return int(number) if number.isdigit() else 0
