"""Which text a pruned model trains on, and which chooses its best weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import RecoverySettings
from prune_exp.text.corpus import documents_for
from prune_exp.text.documents import leave_out


@dataclass(frozen=True, kw_only=True)
class Split:
    """Calibration documents, dealt to training and validation; no document serves both."""

    training: tuple[str, ...]
    judging: tuple[str, ...]
    """Those that give the validation blocks."""


def split_documents(documents: Sequence[str], tokenizer: Any, recovery: RecoverySettings) -> Split:
    """Takes validation blocks from the last documents and leaves the others to training.

    The refit has read the first documents and knows them too well, so training comes to them last,
    and validation judges on text that it has not seen either, where there is more text than it
    reads.

    Raises:
        SettingError: there is too little text for the validation blocks and one step.
    """
    wanted = recovery.validation_blocks
    context = recovery.context_tokens
    taken = documents_for(reversed(documents), tokenizer, wanted * context) or len(documents)
    judging = tuple(documents[len(documents) - taken :])
    training = leave_out([*reversed(documents[: len(documents) - taken])], judging)
    if documents_for(training, tokenizer, context) is None:
        raise SettingError(
            f"the documents that calibrate are too few for {wanted} validation blocks of {context}"
            " tokens and training; use a longer text, a smaller recovery.context_tokens, or fewer"
            " recovery.validation_blocks"
        )
    return Split(training=training, judging=judging)
