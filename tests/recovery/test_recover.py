"""What is trained, on which text, towards which tokens."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prune_exp.model import loading, sources
from prune_exp.model.architectures import head_of, shape_of
from prune_exp.pruning import surgery
from prune_exp.pruning.inputs import Inputs
from prune_exp.pruning.plan import PruningPlan, Rehearsed
from prune_exp.pruning.pruner import Pruned
from prune_exp.recovery import recover
from prune_exp.recovery.split import split_documents
from prune_exp.recovery.training import (
    validation_loss,
)
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import DataSettings, QualitySettings
from prune_exp.settings.schema import Settings
from prune_exp.text.corpus import all_blocks, load_corpus
from prune_exp.text.formats import split_into_documents
from prune_exp.trial.prepare import check_recovery, pruning_request
from support.cli import command
from support.lessons import CONTEXT, make_lessons, make_settings, make_student
from support.models import make_tiny
from support.plans import empty_plan
from support.tokenizers import make_bpe_tokenizer


def inputs_for(folder: Path, text_file: Path, tokenizer: Any, *, cache: Path) -> Inputs:
    data = DataSettings(path=str(text_file), context_tokens=32, heldout_blocks=6)
    return Inputs(
        source=sources.ModelSource(folder=folder, digest="d"),
        tokenizer=tokenizer,
        corpus=load_corpus(data, QualitySettings(), tokenizer, seed=0),
        shape=shape_of(loading.load_skeleton(folder)),
        cache_dir=cache,
    )


def test_held_out_documents_are_never_trained_on(text_file: Path, tiny_folder: Path) -> None:
    tokenizer, chosen = loading.load_tokenizer(tiny_folder), make_settings()
    data = DataSettings(path=str(text_file), context_tokens=32, heldout_blocks=6)
    corpus = load_corpus(data, QualitySettings(), tokenizer, seed=0)
    split = split_documents(corpus.documents, tokenizer, chosen)
    heldout = set(split_into_documents(text_file.read_text(encoding="utf-8"))[::5])
    validation = all_blocks(split.judging, tokenizer, CONTEXT)
    judged = tokenizer.decode(validation[: chosen.validation_blocks].flatten())
    assert heldout
    assert not heldout & {*corpus.documents, *split.training}
    assert not any(text in judged for text in (*heldout, *split.training))
    assert len(validation) >= chosen.validation_blocks
    begin = tokenizer.decode(corpus.calibration.ids.flatten())
    assert judged[:50] not in begin


@pytest.mark.parametrize("text", ["calibration", "generated", "both"])
def test_a_trimmed_vocabulary_is_taught_on_the_tokens_left(
    text: str, text_file: Path, tmp_path: Path
) -> None:
    folder, tokenizer = tmp_path / "dense", make_bpe_tokenizer()
    loading.save_model(make_tiny("llama"), tokenizer, folder)
    dense, gone = loading.load_model(folder), tuple(range(270, 300))
    dense_model = loading.load_model(folder)
    head = head_of(dense).weight.clone()
    from prune_exp.text.tokenizer import trim_tokenizer

    trimmed, kept = trim_tokenizer(tokenizer, gone, len(tokenizer))
    student = surgery.carry_out_plan(dense, empty_plan(tokens=gone), None)
    inputs = inputs_for(folder, text_file, tokenizer, cache=tmp_path)
    pruned = Pruned(
        model=student,
        tokenizer=trimmed,
        plan=empty_plan(tokens=gone),
        request=pruning_request(Settings()),
        kept=tuple(kept),
    )
    chosen = make_settings(text=text, generated_blocks=5)
    lessons = recover.prepare_lessons(chosen, inputs, pruned, head)
    assert int(lessons.training.ids.max()) < len(trimmed)
    assert lessons.teacher.merged is not None
    assert lessons.teacher.merged.count == len(trimmed)
    read = lessons.validation.dense[0]
    assert set(read) & set(gone), "the dense model reads whole tokens"
    after = dense_model(torch.tensor([read])).logits[0].softmax(-1).double()
    after = after[lessons.validation.places[0]]
    wanted = after[:, kept].clone()
    for token in gone:
        first = trimmed(tokenizer.decode([token]), add_special_tokens=False)["input_ids"][0]
        wanted[:, first] += after[:, token]
    states = lessons.teacher.states(lessons.validation, [0])[0]
    found = lessons.teacher.expect(states, None).log_probs(slice(CONTEXT)).double().exp()
    assert torch.allclose(found, wanted, rtol=2e-2)  # states are kept in bfloat16
    if text == "calibration":
        parts = split_documents(inputs.corpus.documents, trimmed, chosen).training
        assert chosen.tokens is not None
        assert lessons.training.ids.numel() >= chosen.tokens
        every = all_blocks(parts, trimmed, CONTEXT)
        assert torch.equal(lessons.training.ids, every[: len(lessons.training)])
        assert len(lessons.training) < len(every), "what there is no budget for is not read"
    done = recover.recover(chosen, inputs, pruned, head)
    assert done.record.steps == 60


def test_a_training_is_known_by_what_goes_and_not_by_what_decided_it(
    text_file: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """Losses differ in their last digits where another number of threads works them out."""
    tokenizer = loading.load_tokenizer(tiny_folder)
    inputs = inputs_for(tiny_folder, text_file, tokenizer, cache=tmp_path)

    def identity(plan: PruningPlan) -> Any:
        pruned = Pruned(
            model=None, tokenizer=tokenizer, plan=plan, request=pruning_request(Settings())
        )
        return recover.identify_training(make_settings(), inputs, pruned)

    tried = Rehearsed(layers=(2,), channels=0, loss_nats=2.5)
    plan = empty_plan(layers=(2,), rehearsed=(tried,))
    again = replace(plan, rehearsed=(replace(tried, loss_nats=2.5 + 1e-15),))
    assert identity(plan) == identity(again)
    assert identity(plan) != identity(replace(plan, layers=(3,)))


@pytest.mark.parametrize("text", ["calibration", "generated", "both"])
def test_the_store_is_told_what_was_trained_on(
    text: str, text_file: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    tokenizer = loading.load_tokenizer(tiny_folder)
    inputs = inputs_for(tiny_folder, text_file, tokenizer, cache=tmp_path)
    used = recover._texts_used(
        make_settings(text=text), inputs, make_lessons(tiny_folder, tmp_path / "lessons")
    )
    sources = {one.role: one.source for one in used}
    assert sources["validation"] == text_file.name
    assert (text_file.name == sources["training"]) == (text == "calibration")
    assert ("written by the dense model" in sources["training"]) == (text != "calibration")


def test_adapters_are_merged_into_a_stock_model(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    lessons, student = make_lessons(tiny_folder, tmp_path / "cache"), make_student(tiny_folder)
    names = [name for name, _ in student.named_parameters()]
    student.requires_grad_(False)
    embedding = student.get_input_embeddings().weight.clone()
    chosen = make_settings(lora_rank=4, learning_rate=1e-2)
    done = recover.train_weights(student, lessons, chosen, tmp_path / "state")
    assert done.best_loss < 0.95 * done.first_loss
    assert [name for name, _ in student.named_parameters()] == names
    assert torch.equal(student.get_input_embeddings().weight, embedding)
    loading.save_model(student, loading.load_tokenizer(tiny_folder), tmp_path / "model")
    saved = loading.load_model(tmp_path / "model")
    assert validation_loss(saved, lessons) == pytest.approx(done.best_loss, rel=1e-4)


@pytest.mark.parametrize("trained", [True, False])
def test_embeddings_are_trained_when_wanted(
    trained: bool, tiny_folder: Path, tmp_path: Path
) -> None:
    lessons, student = make_lessons(tiny_folder, tmp_path / "cache"), make_student(tiny_folder)
    student.requires_grad_(False)
    before = student.get_input_embeddings().weight.clone()
    inner = student.model.layers[0].mlp.down_proj.weight.clone()
    chosen = make_settings(train_embeddings=trained, tokens=10 * CONTEXT)
    done = recover.train_weights(student, lessons, chosen, tmp_path / "state")
    assert done.best_step == 10
    assert torch.equal(before, student.get_input_embeddings().weight) != trained
    assert not torch.equal(inner, student.model.layers[0].mlp.down_proj.weight)
    assert not any(p.requires_grad for p in student.parameters())


def test_adapters_without_their_package_are_refused(
    text_file: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prune_exp.trial import prepare

    tokenizer = loading.load_tokenizer(tiny_folder)
    inputs = inputs_for(tiny_folder, text_file, tokenizer, cache=tiny_folder)
    monkeypatch.setattr(prepare, "find_spec", lambda _name: None)
    check_recovery(Settings(recovery=make_settings()), inputs)
    with pytest.raises(SettingError, match=r"pip install 'prune-exp\[lora\]'"):
        check_recovery(Settings(recovery=make_settings(lora_rank=2)), inputs)


def test_too_little_text_is_one_line(tiny_args: list[str], tmp_path: Path) -> None:
    arguments = ["recovery=distill", "recovery.validation_blocks=1000", "benchmark=off"]
    arguments.append("recovery.context_tokens=32")
    done = command(*tiny_args, *arguments, cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 1
    assert len(lines) == 1, done.stderr
    assert "fewer recovery.validation_blocks" in lines[0]
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()
