"""Text in a script that nobody made the model for is named."""

from collections import Counter
from typing import Any

import pytest

from prune_exp.text.corpus import Corpus, Domain, TokenBlocks, all_blocks
from prune_exp.text.foreign import count_letters, describe_foreign_text, main_script
from support.tokenizers import make_tokenizer

RUSSIAN = "Река течёт под старым мостом. "
ENGLISH = "The river runs under the old bridge. "


class Words:
    """Stands in for a tokenizer whose tokens are words of a made-up list."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def batch_decode(self, rows: list[list[int]], **_: Any) -> list[str]:
        return [" ".join(self.words[i] for i in row) for row in rows]


def blocks_of(text: str, name: str) -> TokenBlocks:
    """Text of a tokenizer of bytes, as one domain."""
    ids = all_blocks([text * 20], make_tokenizer(), 32)
    scored = ids[:, 1:].numel()
    domain = Domain(name=name, blocks=len(ids), bytes_scored=scored, kept=True)
    return TokenBlocks(ids=ids, bytes_scored=scored, digest=name, source=name, domains=(domain,))


def test_a_script_that_is_spelled_in_bytes_is_named() -> None:
    corpus = Corpus(calibration=blocks_of(RUSSIAN, "ru"), heldout=blocks_of(RUSSIAN, "ru"))
    (said,) = describe_foreign_text(corpus, make_tokenizer())
    assert said.startswith("ru is written in Cyrillic, which the model's tokenizer hardly knows")
    assert "1.0 bytes a token" in said


def test_latin_text_is_nothing_to_speak_of() -> None:
    corpus = Corpus(calibration=blocks_of(ENGLISH, "en"), heldout=blocks_of(ENGLISH, "en"))
    assert not describe_foreign_text(corpus, make_tokenizer())


@pytest.mark.parametrize("same", [True, False])
def test_a_script_that_calibration_lacks_is_named(same: bool) -> None:
    import torch

    words = Words(["river", "bridge", "река", "мост"])
    ids = torch.full((3, 8), 2)
    domain = Domain(name="news", blocks=3, bytes_scored=3 * 7 * 8, kept=False)
    heldout = TokenBlocks(
        ids=ids, bytes_scored=3 * 7 * 8, digest="d", source="s", domains=(domain,)
    )
    own = torch.full((3, 8), 3 if same else 0)
    calibration = TokenBlocks(ids=own, bytes_scored=1, digest="c", source="c")
    said = describe_foreign_text(Corpus(calibration=calibration, heldout=heldout), words)
    assert bool(said) is not same
    if said:
        assert said == [
            "news is written in Cyrillic, of which the calibration text has hardly any, so pruning"
            " does not heed it"
        ]


def test_letters_are_counted_by_script() -> None:
    assert count_letters("abc 123 где 你好") == Counter(LATIN=3, CYRILLIC=3, CJK=2)
    assert main_script(count_letters("12 !")) is None
    assert main_script(Counter(LATIN=5, CYRILLIC=5)) is None
    assert main_script(Counter(LATIN=5, HANGUL=6)) == "HANGUL"
