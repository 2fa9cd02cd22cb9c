"""Whether a stored model's files are those that its trial recorded."""

from prune_exp.machine.cache import folder_sha256
from prune_exp.model.loading import foreign_parts
from prune_exp.registry.candidates import Candidate
from prune_exp.registry.wrapper import foreign_wrapper, wrapper_sha256
from prune_exp.tracking import tags


def find_file_fault(candidate: Candidate, weights: str) -> str | None:
    """What is wrong with a stored model's files beside what the trial recorded; None if nothing.

    `weights` is the digest of the weights that are there.
    """
    recorded = candidate.trial.tags
    folder = candidate.folder
    files = recorded.get(tags.FILES_SHA256)
    beside = recorded.get(tags.WRAPPER_SHA256)
    if foreign := [*foreign_parts(folder), *foreign_wrapper(candidate.root)]:
        return f"the stored model holds what no stock checkpoint needs: {', '.join(foreign)}"
    if weights != recorded[tags.WEIGHTS_SHA256]:
        return "the stored weights are not those that the trial recorded"
    if files is not None and folder_sha256(folder) != files:
        return "a stored file other than the weights is not the one that was stored"
    if beside is not None and wrapper_sha256(candidate.root) != beside:
        return "a file beside the checkpoint is not the one that was stored"
    return None
