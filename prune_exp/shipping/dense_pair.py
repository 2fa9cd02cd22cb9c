"""A shipped file beside the dense model, written and opened in the same way."""

import sys
from pathlib import Path

from prune_exp.measurement.intervals import middle_ratio, multiply, token_ratio
from prune_exp.measurement.records import Interval
from prune_exp.model import loading
from prune_exp.registry.candidates import Candidate
from prune_exp.registry.origin import find_dense_model
from prune_exp.settings.errors import SettingError
from prune_exp.shipping.comparison import DensePair, Reference, size_mib
from prune_exp.shipping.probe import ProbeAnswer
from prune_exp.shipping.rounds import Rounds, TimedFile, time_files
from prune_exp.shipping.targets import Target, file_name

NEW_TOKENS = 32
DOCUMENTS = 200
"""Most documents that tell how many tokens a text needs."""
RESAMPLES = 2000


def find_dense(candidate: Candidate, cache_dir: Path) -> Path | None:
    """The dense model, or None where it is not here, which is said."""
    try:
        return find_dense_model(candidate.trial, cache_dir).folder
    except SettingError as error:
        print(f"note: files are not timed beside the dense model: {error}", file=sys.stderr)
        return None


def pair_with_dense(
    path: Path,
    dense: Path,
    name: str,
    target: Target,
    reference: Reference,
    how: Rounds,
    scratch: Path,
) -> DensePair:
    """Writes the dense model as the same target and times both in turns.

    Raises:
        ShippingError: a runtime could not write or open it.
        SettingError: the target does not know such models.
    """
    beside = scratch / file_name(name, target, "dense")
    target.check(dense)
    with loading.silence_transformers():
        target.write(dense, beside, "dense")
    files = {
        "own": TimedFile(name=name, path=path, runtime=target.runtime),
        "dense": TimedFile(name=f"{name}, dense", path=beside, runtime=target.runtime),
    }
    answers = time_files(files, how)
    return DensePair(
        text_speedup=multiply(_compare(answers, "tokens_per_s"), _count_tokens(reference, dense)),
        memory_ratio=_compare(answers, "peak_memory_mib"),
        dense_size_mib=size_mib(beside),
        dense_tokens_per_s=[float(one.tokens_per_s or 0) for one in answers["dense"]],
        tokens_per_s=[float(one.tokens_per_s or 0) for one in answers["own"]],
    )


def _compare(answers: dict[str, list[ProbeAnswer]], figure: str) -> Interval:
    own, dense = ([getattr(one, figure) for one in answers[side]] for side in ("own", "dense"))
    return middle_ratio(own, dense, resamples=RESAMPLES)


def _count_tokens(reference: Reference, dense: Path) -> Interval:
    """How many tokens the dense model needs for one of the checkpoint's."""
    tokenizer = loading.load_tokenizer(dense)
    texts = [text for text in reference.documents[:DOCUMENTS] if text.strip()]
    theirs, ours = (
        [len(one(text)["input_ids"]) for text in texts] for one in (tokenizer, reference.tokenizer)
    )
    return token_ratio(theirs, ours)
