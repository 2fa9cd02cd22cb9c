"""A shipped file is compared with the checkpoint, and kept only where it says the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prune_exp.settings.errors import SettingError
from prune_exp.shipping import comparison
from prune_exp.shipping.comparison import (
    CONTEXT_TOKENS,
    Reference,
    Shipment,
    ShippingError,
    compare_file,
)
from prune_exp.shipping.probe import ProbeRequest, answer_request
from prune_exp.text.corpus import all_blocks
from support.shipping import TEXT, reference_of, save_tiny


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe's process is this one."""

    def run(request: Path, _target: Path, _threads: int) -> Any:
        asked = ProbeRequest(**json.loads(request.read_text(encoding="utf-8")))
        answer, scores = answer_request(asked)
        return answer, torch.from_numpy(scores).double()

    monkeypatch.setattr(comparison, "_start_probe", run)


def compare(path: Path, reference: Reference, **how: Any) -> Shipment:
    asked = {"threads": 1, "limit": 1e-4} | how
    return compare_file("hf", path, "transformers", reference, **asked)


@pytest.mark.usefixtures("in_process")
def test_what_a_checkpoint_prefers_does_not_make_texts_differ(tmp_path: Path) -> None:
    """Runtimes are asked for the most likely token; so is the checkpoint."""
    checkpoint = save_tiny(tmp_path / "model")
    prefers = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "num_beams": 3}
    (checkpoint / "generation_config.json").write_text(json.dumps(prefers), encoding="utf-8")
    assert compare(checkpoint, reference_of(checkpoint)).same_texts == 5


def test_texts_are_of_as_many_documents_as_there_are(tmp_path: Path) -> None:
    checkpoint = save_tiny(tmp_path / "model")
    documents = tuple(f"{word} " * 300 for word in ("one", "two", "three"))
    for positions, owners in ((15, [0]), (45, [0, 1, 2]), (75, [0, 1, 2, 0, 1])):
        found = Reference(checkpoint=checkpoint, documents=documents, positions=positions)
        own = [all_blocks([one], found.tokenizer, CONTEXT_TOKENS) for one in documents]
        expected = [own[at][place // 3] for place, at in enumerate(owners)]
        assert torch.equal(found.texts, torch.stack(expected))
    short = Reference(checkpoint=checkpoint, documents=("a b c",) * 200, positions=30)
    together = all_blocks(short.documents, short.tokenizer, CONTEXT_TOKENS)
    assert torch.equal(short.texts, together[:2])


def test_a_runtime_that_never_answers_is_a_file_that_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "TIMEOUT_S", 0.01)
    checkpoint = save_tiny(tmp_path / "model")
    with pytest.raises(ShippingError, match="gave no answer within"):
        compare(checkpoint, reference_of(checkpoint))


@pytest.mark.usefixtures("in_process")
def test_the_checkpoint_itself_says_the_same(tmp_path: Path) -> None:
    checkpoint = save_tiny(tmp_path / "model")
    found = compare(checkpoint, reference_of(checkpoint))
    assert found.fault is None
    assert abs(found.kl_nats) < 1e-9
    assert found.perplexity_ratio_to_checkpoint == pytest.approx(1, abs=1e-5)
    assert found.positions == 30
    assert found.same_texts == 5
    assert found.same_tokens
    assert found.metrics["size_mib"] == pytest.approx(found.size_mib)
    assert "perplexity_ratio" not in found.metrics


@pytest.mark.usefixtures("in_process")
def test_other_weights_are_found_out(tmp_path: Path) -> None:
    """By hand: KL(p || q) of both models' softmax, and the ratio of what they expect."""
    checkpoint = save_tiny(tmp_path / "model")
    other = save_tiny(tmp_path / "other", seed=1)
    reference = reference_of(checkpoint)
    found = compare(other, reference)
    ours = reference.scores
    theirs = reference_of(other).scores
    kl = torch.nn.functional.kl_div(theirs, ours, log_target=True, reduction="sum") / len(ours)
    assert found.kl_nats == pytest.approx(float(kl), rel=1e-4)
    assert found.fault is not None
    assert "diverges from the checkpoint" in found.fault
    rows = torch.arange(len(ours))
    gap = ours[rows, reference.followers] - theirs[rows, reference.followers]
    assert found.perplexity_ratio_to_checkpoint == pytest.approx(float(gap.mean().exp()), rel=1e-4)


@pytest.mark.usefixtures("in_process")
def test_another_tokenizer_is_found_out(tmp_path: Path) -> None:
    from support.tokenizers import make_bpe_tokenizer

    checkpoint = save_tiny(tmp_path / "model")
    other = save_tiny(tmp_path / "other")
    tokenizer = make_bpe_tokenizer(290)
    tokenizer.save_pretrained(other)
    found = compare(other, reference_of(checkpoint))
    assert found.fault == "its tokenizer does not encode as the checkpoint's does"


def test_a_divergence_that_is_no_number_is_not_within_the_limit() -> None:
    from dataclasses import fields

    made_up: dict[str, Any] = {one.name: None for one in fields(Shipment)}
    made_up |= {"same_tokens": True, "same_chats": True, "kl_nats": float("nan"), "kl_limit": 1.0}
    assert Shipment(**made_up).fault is not None


def test_a_text_of_too_few_tokens_is_refused(tmp_path: Path) -> None:
    reference = Reference(checkpoint=save_tiny(tmp_path / "m"), documents=TEXT, positions=500)
    with pytest.raises(SettingError, match=r"positions=500 needs 34 texts .* longer text=FILE"):
        _ = reference.texts


@pytest.mark.slow
def test_what_its_runtime_cannot_open_is_said_in_a_line(tmp_path: Path) -> None:
    checkpoint = save_tiny(tmp_path / "model")
    reference = reference_of(checkpoint)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShippingError, match="its runtime ended with code 1: "):
        compare(tmp_path / "empty", reference)


@pytest.mark.usefixtures("in_process")
def test_a_tokenizer_that_reads_chats_otherwise_is_found_out(tmp_path: Path) -> None:
    """Plain text is the same to both; only a special token takes the space after it."""
    from tokenizers import AddedToken

    from support.tokenizers import make_bpe_tokenizer

    folders = []
    for rstrip in (False, True):
        tokenizer = make_bpe_tokenizer(290)
        tokenizer.add_tokens([AddedToken("<|user|>", special=True, rstrip=rstrip)])
        tokenizer.chat_template = "{% for one in messages %}<|user|> {{ one.content }}{% endfor %}"
        folders.append(save_tiny(tmp_path / str(rstrip), tokenizer=tokenizer))
    checkpoint, other = folders
    reference = reference_of(checkpoint)
    assert len(reference.chats) == 2
    assert compare(checkpoint, reference).fault is None
    found = compare(other, reference)
    assert found.same_tokens
    assert "does not encode the chat template as the checkpoint's does" in str(found.fault)
    assert replace(found, chats_must_be_same=False).fault is None


def test_the_end_of_a_text_is_read_over_what_came_before(tmp_path: Path) -> None:
    """A file whose cache is wrong would otherwise say the same in one pass."""
    import numpy as np

    from prune_exp.shipping.runtimes import ONE_BY_ONE, _opened_by_steps

    checkpoint = save_tiny(tmp_path / "model")

    def step(ids: Any, past: int) -> tuple[Any, int]:
        seen = past + np.arange(ids.shape[1])
        return np.eye(99)[seen], past + ids.shape[1]

    ids = list(range(20))
    sound = _opened_by_steps(lambda _: [], lambda _: "", step, lambda: 0, checkpoint)
    assert sound.score(ids, ids).argmax(-1).tolist() == ids
    forgets = _opened_by_steps(
        lambda _: [], lambda _: "", lambda ids, _: step(ids, 0), lambda: 0, checkpoint
    )
    assert forgets.score(ids, ids).argmax(-1).tolist() == [*ids[:-ONE_BY_ONE], *[0] * ONE_BY_ONE]
