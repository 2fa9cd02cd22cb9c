"""What a model is judged on is the text that its trial was kept from."""

from pathlib import Path

import pytest

from prune_exp.registry import origin
from prune_exp.registry.origin import check_judged_text
from prune_exp.settings.errors import SettingError
from prune_exp.settings.params import flatten_settings
from prune_exp.text.corpus import load_corpus, reserved_digest
from prune_exp.tracking import tags
from prune_exp.tracking.read import TrackedTrial
from support.made_up_runs import trial
from support.settings import settings_for
from support.tokenizers import make_tokenizer

HELD_OUT, RESERVED, CALIBRATION = 0, 1, 2
"""Places of documents, by what becomes of them."""


@pytest.fixture
def text(text_file: Path, tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(text_file.read_bytes())
    return path


def change(text: Path, place: int) -> None:
    parts = text.read_text(encoding="utf-8").split("\n\n")
    parts[place] = " ".join(reversed(parts[place].split()))
    text.write_text("\n\n".join(parts), encoding="utf-8")


def recorded(text: Path, monkeypatch: pytest.MonkeyPatch, *, calibration: str) -> TrackedTrial:
    """A trial that read the text."""
    settings = settings_for(Path("model"), text, Path("cache"), calibration=calibration)
    corpus = load_corpus(settings.data, settings.quality, make_tokenizer(), seed=settings.seed)
    digests = {"heldout": corpus.heldout.digest, "calibration": "the model's own"}
    monkeypatch.setattr(origin, "text_digests", lambda _: digests)
    one = trial(params=flatten_settings(settings))
    one.tags[tags.RESERVED_DIGEST] = reserved_digest(settings.data, settings.quality)
    return one


@pytest.mark.parametrize("calibration", ["documents", "generated"])
@pytest.mark.parametrize(
    ("place", "words"),
    [
        (HELD_OUT, "the heldout text from text.txt has digest"),
        (RESERVED, "the reserved text from text.txt has digest"),
        (CALIBRATION, ""),
    ],
)
def test_only_the_text_that_judges_must_be_the_same(
    place: int, words: str, calibration: str, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = recorded(text, monkeypatch, calibration=calibration)
    check_judged_text(one, make_tokenizer())
    change(text, place)
    if not words:
        check_judged_text(one, make_tokenizer())
        return
    with pytest.raises(SettingError, match=words):
        check_judged_text(one, make_tokenizer())


def test_a_run_that_recorded_no_reserved_text_is_known_by_its_held_out_text(
    text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = recorded(text, monkeypatch, calibration="documents")
    del one.tags[tags.RESERVED_DIGEST]
    change(text, RESERVED)
    check_judged_text(one, make_tokenizer())
    change(text, HELD_OUT)
    with pytest.raises(SettingError, match="the heldout text"):
        check_judged_text(one, make_tokenizer())
