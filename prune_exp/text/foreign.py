"""Text in a script that the tokenizer or the calibration text hardly knows: said, not refused."""

import unicodedata
from collections import Counter
from typing import Any

import torch

from prune_exp.text.corpus import Corpus, Domain, TokenBlocks
from prune_exp.text.scripts import NO_SCRIPT, script_in_words, script_of

LATIN = "LATIN"
MOST_BLOCKS = 16
"""Of a text that are looked at."""
MAIN_SHARE = 0.5
"""Of a text's letters, from which on it is written in a script."""
UNKNOWN_SHARE = 0.01
"""Of the calibration text's letters, below which it hardly has a script."""
SPELLED_BYTES = 2.0
"""Bytes of a token below which letters of two bytes or more are spelled."""


def describe_foreign_text(corpus: Corpus, tokenizer: Any) -> list[str]:
    """A sentence about every text whose script is hardly known; none where all are."""
    known = count_letters(_read_back(corpus.calibration.ids, tokenizer))
    sentences = []
    for domain, rows in corpus.heldout.spans():
        ids = corpus.heldout.ids[rows.start : rows.stop]
        script = main_script(count_letters(_read_back(ids, tokenizer)))
        if script in (None, LATIN):
            continue
        lead = f"{_name_of(domain, corpus.heldout)} is written in {script_in_words(str(script))}"
        if domain.bytes_scored < SPELLED_BYTES * ids[:, 1:].numel():
            sentences.append(
                f"{lead}, which the model's tokenizer hardly knows: it spells it in"
                f" {domain.bytes_scored / ids[:, 1:].numel():.1f} bytes a token, so what is found"
                " says little of text that the model was made for"
            )
        elif known and known[str(script)] < UNKNOWN_SHARE * known.total():
            sentences.append(
                f"{lead}, of which the calibration text has hardly any, so pruning does not heed it"
            )
    return sentences


def count_letters(text: str) -> Counter[str]:
    """How many letters of each script a text has."""
    counts = Counter(one for one in text if one.isalpha())
    found: Counter[str] = Counter()
    for letter, count in counts.items():
        found[script_of(letter)] += count
    del found[NO_SCRIPT]
    return found


def main_script(letters: Counter[str]) -> str | None:
    """The script that most letters have; None where none has so many."""
    if not letters:
        return None
    script, count = letters.most_common(1)[0]
    return script if count > MAIN_SHARE * letters.total() else None


def _read_back(ids: torch.Tensor, tokenizer: Any) -> str:
    """The text of the first blocks; bytes that are cut off mid-letter are no letters."""
    texts = tokenizer.batch_decode(ids[:MOST_BLOCKS].tolist(), skip_special_tokens=True)
    return unicodedata.normalize("NFC", " ".join(texts))


def _name_of(domain: Domain, text: TokenBlocks) -> str:
    return domain.name if text.domains else text.source
