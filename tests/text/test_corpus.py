"""Text is split by document, and its bytes are counted."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from prune_exp.model import loading
from prune_exp.settings.config_tree import conf_dir
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import DataSettings, QualitySettings
from prune_exp.text.corpus import load_corpus
from prune_exp.text.documents import deal_documents
from prune_exp.text.domains import list_judged_files
from prune_exp.text.records import FEWEST_DOCUMENTS
from prune_exp.trial.prepare import prepare_trial
from support.models import make_tiny
from support.settings import settings_for
from support.tokenizers import make_fallback_tokenizer


def test_corpus_splits_by_document_and_counts_bytes(tiny_folder: Path, text_file: Path) -> None:
    from prune_exp.model.loading import load_tokenizer

    tokenizer = load_tokenizer(tiny_folder)
    data = DataSettings(path=str(text_file), context_tokens=32, calibration_blocks=8)
    data.heldout_blocks = 8
    corpus = load_corpus(data, QualitySettings(), tokenizer, seed=0)
    assert corpus.calibration.ids.shape == (8, 32)
    # one token is one byte with this tokenizer
    assert corpus.heldout.bytes_scored == 8 * 31
    other = load_corpus(data, QualitySettings(), tokenizer, seed=1)
    assert other.heldout.digest == corpus.heldout.digest
    assert other.calibration.digest != corpus.calibration.digest


def test_blocks_know_the_document_of_every_token(tiny_folder: Path, tmp_path: Path) -> None:
    from prune_exp.model.loading import load_tokenizer

    sizes = [3, 40, 7, 100, 5, 60, 33]
    path = tmp_path / "t.txt"
    parts = [part for size in sizes for part in ["a" * size, "b" * 20, "c", "d", "e"]]
    path.write_text("\n\n".join(parts), encoding="utf-8")
    data = DataSettings(path=str(path), context_tokens=16, calibration_blocks=1, heldout_blocks=12)
    text = load_corpus(data, QualitySettings(), load_tokenizer(tiny_folder), seed=0).heldout
    expected = [number for number, size in enumerate(sizes) for _ in range(size + 2)]
    assert text.owners.flatten().tolist() == expected[: 12 * 16]
    predicted = torch.tensor(expected[: 12 * 16]).view(12, 16)[:, 1:].flatten()
    assert text.count_predicted().tolist() == predicted.bincount().tolist()
    assert text.documents_in([0, 1]) == [0, 1]
    assert text.documents_in([2]) == [1, 2]
    owners = text.owners.clone()
    owners[0, 0] = 6
    text = replace(text, documents=owners)
    assert 6 not in text.documents_in([0]), "nothing of it is predicted there"


@pytest.mark.parametrize("data", ["mixed", "wikipedia", "self"])
def test_the_texts_that_ship_give_a_verdict(data: str) -> None:
    """Every kind of text has documents enough, held out and reserved, also where it is only judged;
    a token is taken to be four characters."""
    given, quality = (
        yaml.safe_load((Path(conf_dir()) / name).read_text(encoding="utf-8"))
        for name in (f"data/{data}.yaml", "quality/default.yaml")
    )
    settings = DataSettings(**given)
    for judged in list_judged_files(settings, QualitySettings(**quality)):
        dealt = deal_documents(judged.file)
        for role in ("heldout", "reserved"):
            tokens = count = 0
            for text in getattr(dealt, role):
                count += 1
                tokens += len(text) // 4
                if tokens > settings.heldout_blocks * settings.context_tokens:
                    break
            print(f"{data}: {judged.file.name}, {role}: {count} documents")
            assert count >= FEWEST_DOCUMENTS


@pytest.mark.parametrize(("text", "words"), [("", "holds no text"), ("short", "blocks of 32")])
def test_too_little_text_is_refused(
    tiny_folder: Path, tmp_path: Path, text: str, words: str
) -> None:
    from prune_exp.model.loading import load_tokenizer

    path = tmp_path / "t.txt"
    path.write_text(text, encoding="utf-8")
    data = DataSettings(path=str(path), context_tokens=32)
    with pytest.raises(SettingError, match=words):
        load_corpus(data, QualitySettings(), load_tokenizer(tiny_folder), seed=0)


def test_blocks_of_a_model_that_wants_a_first_token_have_it(
    text_file: Path, tmp_path: Path
) -> None:
    """And its bytes do not count: all other tokens are predicted."""
    tokenizer = make_fallback_tokenizer("gemma")
    loading.save_model(
        make_tiny("gemma3_text", vocab=len(tokenizer)), tokenizer, tmp_path / "model"
    )
    settings = settings_for(tmp_path / "model", text_file, tmp_path, calibration="documents")
    corpus = prepare_trial(settings).dense.corpus
    for text in (corpus.calibration, corpus.heldout):
        assert set(text.ids[:, 0].tolist()) == {tokenizer.bos_token_id}
        assert (text.ids[:, 1:] != tokenizer.bos_token_id).all()
        read = "".join(tokenizer.batch_decode(text.ids[:, 1:]))
        assert text.bytes_scored == len(read.encode())
