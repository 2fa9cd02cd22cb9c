"""Training after pruning: exact losses, a kept budget, the best weights, and going on."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import command, count_loads, empty_plan, make_bpe_tokenizer, make_tiny, runs_in
from hypothesis import given, settings
from hypothesis import strategies as st
from test_search import start

from prune_exp.model import loading, sources
from prune_exp.model.architectures import head_of, shape_of
from prune_exp.model.next_tokens import NextTokens, sum_divergence
from prune_exp.pruning import surgery
from prune_exp.pruning.inputs import Inputs
from prune_exp.pruning.pruner import Pruned
from prune_exp.recovery import checkpoints, recover, training
from prune_exp.recovery.distillation import distillation_loss
from prune_exp.recovery.split import split_documents
from prune_exp.recovery.teacher import SHARD_BLOCKS, Teacher
from prune_exp.recovery.training import (
    Lessons,
    can_afford_step,
    learning_rate_at,
    share_spent,
    train,
    validation_loss,
)
from prune_exp.settings.checks import check_settings
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import RecoverySettings
from prune_exp.settings.schema import Settings
from prune_exp.text.corpus import DataSettings, all_blocks, load_corpus, split_into_documents
from prune_exp.text.generation import generate_blocks
from prune_exp.tracking.metrics import _make_up, flatten_result, metric_keys
from prune_exp.tracking.result import TrialResult
from prune_exp.trial.prepare import check_recovery, pruning_request

CONTEXT = 16


def sides(tokens: int, seed: int = 0) -> tuple[NextTokens, torch.Tensor, torch.Tensor]:
    """A dense side and a student's tensors, of different widths and the same vocabulary."""
    chance = torch.Generator().manual_seed(seed)
    dense = NextTokens(
        hidden=torch.randn(tokens, 6, generator=chance), head=torch.randn(11, 6, generator=chance)
    )
    hidden = torch.randn(tokens, 5, generator=chance, requires_grad=True)
    head = torch.randn(11, 5, generator=chance, requires_grad=True)
    return dense, hidden, head


def inputs_for(folder: Path, text_file: Path, tokenizer: Any, *, cache: Path) -> Inputs:
    data = DataSettings(path=str(text_file), context_tokens=32, heldout_blocks=6)
    return Inputs(
        source=sources.ModelSource(folder=folder, digest="d"),
        tokenizer=tokenizer,
        corpus=load_corpus(data, tokenizer, seed=0),
        shape=shape_of(loading.load_skeleton(folder)),
        cache_dir=cache,
    )


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_the_chunked_loss_is_the_whole_one_in_value_and_gradient(
    tokens: int, chunk: int, seed: int
) -> None:
    dense, hidden, head = sides(tokens, seed)
    loss = distillation_loss(dense, NextTokens(hidden=hidden, head=head), chunk=chunk)
    found = torch.autograd.grad(3 * loss, [hidden, head])
    ours, theirs = (hidden @ head.T).log_softmax(-1), (dense.hidden @ dense.head.T).log_softmax(-1)
    whole = torch.nn.functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")
    wanted = torch.autograd.grad(3 * whole, [hidden, head])
    assert loss.item() == pytest.approx(whole.item(), rel=1e-5, abs=1e-6)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    plain = NextTokens(hidden=hidden.detach(), head=head.detach())
    assert sum_divergence(dense, plain, chunk=chunk) / tokens == pytest.approx(
        loss.item(), rel=1e-4
    )


def test_a_head_that_is_not_trained_gets_no_gradient() -> None:
    dense, hidden, head = sides(4)
    loss = distillation_loss(dense, NextTokens(hidden=hidden, head=head.detach()))
    loss.backward()
    assert hidden.grad is not None
    assert head.grad is None


def make_lessons(folder: Path, cache: Path, *, dtype: str = "float32", blocks: int = 40) -> Lessons:
    ids = torch.randint(1, 257, (blocks + 4, CONTEXT), generator=torch.Generator().manual_seed(0))
    head = head_of(loading.load_model(folder)).weight.clone()
    teacher = Teacher(
        source=sources.ModelSource(folder=folder, digest="d"),
        head=head.to(getattr(torch, dtype)),
        kept=None,
        dtype=dtype,
        cache_dir=cache,
    )
    return Lessons(training=ids[4:], validation=ids[:4], teacher=teacher, seed=0)


def make_student(folder: Path) -> Any:
    """The checkpoint with a third of its MLP channels and a layer gone, all weights to train."""
    gone = tuple(range(16))
    plan = empty_plan(layers=(2,), channels={0: gone, 1: gone, 3: gone})
    return surgery.carry_out_plan(loading.load_model(folder), plan, None).requires_grad_(True)


def make_settings(**changes: Any) -> RecoverySettings:
    short = RecoverySettings(
        name="distill",
        tokens=60 * CONTEXT,
        context_tokens=CONTEXT,
        learning_rate=3e-3,
        evaluate_every=10,
        validation_blocks=4,
        dtype="float32",
    )
    return replace(short, **changes)


def test_the_dense_model_has_nothing_to_learn(tiny_folder: Path, tmp_path: Path) -> None:
    lessons = make_lessons(tiny_folder, tmp_path)
    assert validation_loss(loading.load_model(tiny_folder), lessons) == pytest.approx(0, abs=1e-3)
    assert validation_loss(make_student(tiny_folder), lessons) > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_helps_on_text_that_it_does_not_see(
    dtype: str, tiny_folder: Path, tmp_path: Path
) -> None:
    lessons = make_lessons(tiny_folder, tmp_path / "cache", dtype=dtype)
    student = make_student(tiny_folder)
    done = train(student, lessons, make_settings(dtype=dtype), tmp_path / "state")
    assert done.best_loss < 0.9 * done.first_loss
    assert validation_loss(student, lessons) == pytest.approx(done.best_loss, rel=1e-5)
    assert [row[0] for row in done.curve] == [10, 20, 30, 40, 50, 60]


def test_what_does_not_help_leaves_the_model_as_it_was(tiny_folder: Path, tmp_path: Path) -> None:
    lessons, student = make_lessons(tiny_folder, tmp_path / "cache"), make_student(tiny_folder)
    before = checkpoints.copy_of(dict(student.named_parameters()))
    done = train(student, lessons, make_settings(learning_rate=50.0), tmp_path / "state")
    assert done.best_step == 0
    assert done.best_loss == done.first_loss
    assert all(torch.equal(value, before[name]) for name, value in student.named_parameters())


def untaught(blocks: int) -> Lessons:
    """Lessons of which only the order and the size matter."""
    nobody: Any = None
    return Lessons(
        training=torch.zeros(blocks, CONTEXT), validation=torch.zeros(1), teacher=nobody, seed=0
    )


@given(st.integers(1, 4), st.integers(4, 40))
@settings(max_examples=6, deadline=None)
def test_a_budget_of_tokens_is_used_up_and_never_passed(batch: int, blocks: int) -> None:
    chosen, progress = make_settings(tokens=blocks * CONTEXT, batch_blocks=batch), []
    lessons = untaught(3)
    now = training.Progress()
    while can_afford_step(now, lessons, chosen):
        now.tokens += batch * CONTEXT
        progress.append(share_spent(now, chosen))
    assert blocks * CONTEXT - batch * CONTEXT < now.tokens <= blocks * CONTEXT
    assert progress == sorted(progress)


def test_a_budget_of_minutes_ends_training_too(tiny_folder: Path, tmp_path: Path) -> None:
    lessons, student = make_lessons(tiny_folder, tmp_path / "cache"), make_student(tiny_folder)
    chosen = make_settings(tokens=None, minutes=1e-3)
    done = train(student, lessons, chosen, tmp_path / "state")
    assert done.step >= 1
    assert share_spent(done, chosen) >= 1


def test_the_learning_rate_rises_and_falls() -> None:
    chosen = make_settings(learning_rate=1.0, warmup_share=0.2)
    assert learning_rate_at(0.1, chosen) == pytest.approx(0.5)
    assert learning_rate_at(0.2, chosen) == pytest.approx(1.0)
    assert learning_rate_at(0.6, chosen) == pytest.approx(0.5)
    assert learning_rate_at(1.0, chosen) == pytest.approx(0.0)
    assert learning_rate_at(0.0, replace(chosen, warmup_share=0.0)) == pytest.approx(1.0)


def test_every_block_is_read_before_any_is_read_again() -> None:
    lessons = untaught(7)
    read = [block for step in range(7) for block in lessons.choose_batch(step, 3)]
    assert read[:7] == list(range(7))
    assert sorted(read[7:14]) == sorted(read[14:21]) == list(range(7))
    assert read[7:14] != read[14:21]


class Cut(Exception):
    """Stands in for a kill."""


def test_a_training_that_was_cut_ends_as_one_that_was_not(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lessons, chosen = make_lessons(tiny_folder, tmp_path / "cache"), make_settings()
    whole = make_student(tiny_folder)
    expected = train(whole, lessons, chosen, tmp_path / "whole")
    save = checkpoints.save_state

    def cut(folder: Path, facts: dict[str, Any], *rest: Any) -> None:
        save(folder, facts, *rest)
        if facts["step"] == 30:
            raise Cut

    student = make_student(tiny_folder)
    monkeypatch.setattr(checkpoints, "save_state", cut)
    with pytest.raises(Cut):
        train(student, lessons, chosen, tmp_path / "cut")
    monkeypatch.setattr(checkpoints, "save_state", save)
    (tmp_path / "cut" / ".partial-rest").mkdir()
    steps: list[int] = []
    batch = Lessons.choose_batch
    monkeypatch.setattr(
        Lessons,
        "choose_batch",
        lambda self, step, size: steps.append(step) or batch(self, step, size),
    )
    again = make_student(tiny_folder)
    found = train(again, lessons, chosen, tmp_path / "cut")
    assert steps == list(range(30, 60))
    assert (found.step, found.tokens, found.best_step) == (60, 60 * CONTEXT, expected.best_step)
    assert found.curve == expected.curve
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["step-00000060"]


def test_dense_states_are_computed_once(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prune_exp.recovery import teacher

    lessons, loads = make_lessons(tiny_folder, tmp_path), count_loads(monkeypatch, teacher)
    first = lessons.teacher.states(lessons.training, [SHARD_BLOCKS + 1, 0])
    again = lessons.teacher.states(lessons.training, [SHARD_BLOCKS + 1, 0])
    assert len(loads) == 2, "one for each shard"
    assert torch.equal(first, again)
    model = loading.load_model(tiny_folder)
    for states, index in zip(first, (SHARD_BLOCKS + 1, 0), strict=True):
        ids = lessons.training[index][None]
        logits = states.float() @ head_of(model).weight.T
        assert torch.allclose(logits, model(ids).logits[0], atol=0.1)


def test_generated_text_is_seeded_and_starts_from_its_prompts(
    tiny_folder: Path, tmp_path: Path
) -> None:
    source = sources.ModelSource(folder=tiny_folder, digest="d")
    prompts = torch.randint(1, 257, (3, 4), generator=torch.Generator().manual_seed(0))

    def sample(seed: int, cache: str) -> torch.Tensor:
        return generate_blocks(
            source, prompts, tokens=12, temperature=1.0, seed=seed, cache_dir=tmp_path / cache
        )

    first = sample(0, "a")
    assert first.shape == (3, 12)
    assert torch.equal(first[:, :4], prompts)
    assert torch.equal(first, sample(0, "b"))
    assert not torch.equal(first, sample(1, "a"))


def test_held_out_documents_are_never_trained_on(text_file: Path, tiny_folder: Path) -> None:
    tokenizer, chosen = loading.load_tokenizer(tiny_folder), make_settings()
    data = DataSettings(path=str(text_file), context_tokens=32, heldout_blocks=6)
    corpus = load_corpus(data, tokenizer, seed=0)
    split = split_documents(corpus.documents, tokenizer, chosen)
    heldout = set(split_into_documents(text_file.read_text(encoding="utf-8"))[::5])
    judged = tokenizer.decode(split.validation.flatten())
    assert heldout
    assert not heldout & {*corpus.documents, *split.training}
    assert not any(text in judged for text in (*heldout, *split.training))
    assert len(split.validation) == chosen.validation_blocks
    begin = tokenizer.decode(corpus.calibration.ids.flatten())
    assert judged[:50] not in begin


@pytest.mark.parametrize("text", ["calibration", "generated", "both"])
def test_a_trimmed_vocabulary_is_taught_on_the_tokens_left(
    text: str, text_file: Path, tmp_path: Path
) -> None:
    folder, tokenizer = tmp_path / "dense", make_bpe_tokenizer()
    loading.save_model(make_tiny("llama"), tokenizer, folder)
    dense, gone = loading.load_model(folder), tuple(range(270, 300))
    head = head_of(dense).weight.clone()
    from prune_exp.text.tokenizer import trim_tokenizer

    trimmed, kept = trim_tokenizer(tokenizer, gone)
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
    assert int(lessons.training.max()) < len(trimmed)
    assert lessons.teacher.head.shape[0] == len(trimmed)
    assert validation_loss(student, lessons) == pytest.approx(0, abs=1e-3)
    if text == "calibration":
        parts = split_documents(inputs.corpus.documents, trimmed, chosen).training
        assert torch.equal(lessons.training, all_blocks(parts, trimmed, CONTEXT))
    done = recover.recover(chosen, inputs, pruned, head)
    assert done.record.steps == 60


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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "distil"}, "did you mean distill?"),
        ({"tokens": None}, "needs a budget"),
        ({"tokens": CONTEXT - 1}, "less than one step"),
        ({"text": "all"}, "recovery.text=all is unknown"),
        ({"dtype": "float16"}, "did you mean bfloat16?"),
        ({"warmup_share": 1.0}, "not in [0, 1)"),
        ({"learning_rate": 0.0}, "recovery.learning_rate=0 is too small"),
        ({"minutes": 0.0}, "recovery.minutes=0 is too small"),
        ({"lora_rank": -1}, "recovery.lora_rank=-1 is too small"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], words: str, tiny_folder: Path) -> None:
    whole = Settings(recovery=make_settings(**changes))
    whole.model.path = str(tiny_folder)
    whole.data.path, whole.pruning.voters = "text.txt", ["wanda"]
    with pytest.raises(SettingError) as refusal:
        check_settings(whole)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
    check_settings(replace(whole, recovery=make_settings()))


def test_masks_are_not_trained_over(tiny_folder: Path) -> None:
    whole = Settings(recovery=make_settings())
    whole.model.path, whole.data.path = str(tiny_folder), "text.txt"
    whole.pruning.voters, whole.pruning.method = ["wanda"], "weight_masks"
    with pytest.raises(SettingError, match="would fill the zeros"):
        check_settings(whole)


def test_too_little_text_is_one_line(tiny_args: list[str], tmp_path: Path) -> None:
    arguments = ["recovery=distill", "recovery.validation_blocks=1000", "benchmark=off"]
    done = command(*tiny_args, *arguments, cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 1
    assert len(lines) == 1, done.stderr
    assert "fewer recovery.validation_blocks" in lines[0]
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


def test_metric_keys_are_those_of_a_trained_trial() -> None:
    result = _make_up(TrialResult)
    assert {f"recovery/{key}" for key in ("steps", "tokens", "best_step")} <= set(
        metric_keys(speed=False, quality=True, recovery=True)
    )
    assert "seconds/recover" in metric_keys(speed=False, quality=True, recovery=True)
    assert not [key for key in metric_keys(speed=True, quality=True) if "recover" in key]
    assert "recovery/curve" not in flatten_result(
        replace(result, dense_shape=replace(result.dense_shape, params_total=2))
    )


def test_a_killed_training_goes_on_and_its_best_weights_are_exported(
    tiny_args: list[str], tiny_folder: Path, tmp_path: Path
) -> None:
    arguments = [
        *tiny_args,
        "benchmark=off",
        "tracking.log_models=none",
        "recovery=distill",
        "recovery.minutes=null",
        "recovery.tokens=640",
        "recovery.context_tokens=32",
        "recovery.validation_blocks=4",
        "recovery.evaluate_every=5",
        "recovery.learning_rate=3e-3",
    ]
    code, errors = start(
        arguments, tmp_path, "prune_exp.recovery.checkpoints:save_state", "self after"
    )
    assert code == 1, errors
    assert signal.SIGKILL.name in errors
    kept = list((tmp_path / "cache" / "recovery").glob("*/step-*"))
    assert [path.name for path in kept] == ["step-00000005"]
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "recovery goes on from step 5" in done.stderr
    assert not list((tmp_path / "cache" / "recovery").glob("*/step-*"))
    (run,) = [run for run in runs_in(tmp_path) if run.info.status == "FINISHED"]
    found = run.data.metrics
    assert (found["recovery/steps"], found["recovery/tokens"]) == (20, 640)
    assert found["recovery/validation_kl_after"] < found["recovery/validation_kl_before"]
    check_exported(tmp_path, tiny_folder, run, found["recovery/validation_kl_after"])
    from mlflow.tracking import MlflowClient

    history = MlflowClient(f"sqlite:///{tmp_path / 'mlruns' / 'mlflow.db'}").get_metric_history(
        run.info.run_id, "recovery/validation_loss"
    )
    assert sorted(one.step for one in history) == [5, 10, 15, 20]
    assert min(one.value for one in history) == found["recovery/validation_kl_after"]
    (page,) = (tmp_path / "mlruns" / "outputs").rglob("report.md")
    report = page.read_text(encoding="utf-8")
    assert "Quality is not that of pruning alone" in report
    assert "640 tokens (calibration text)" in report


def check_exported(folder: Path, dense: Path, run: Any, expected: float) -> None:
    """The validation loss of the checkpoint on disk is the record's."""
    exported = loading.load_model(Path(run.data.tags["prune_exp.checkpoint"]))
    data = DataSettings(
        path=run.data.params["data.path"],
        context_tokens=32,
        calibration_blocks=6,
        heldout_blocks=6,
    )
    tokenizer = loading.load_tokenizer(dense)
    corpus = load_corpus(data, tokenizer, seed=0)
    inputs = Inputs(
        source=sources.ModelSource(folder=dense, digest=run.data.tags["prune_exp.model_digest"]),
        tokenizer=tokenizer,
        corpus=corpus,
        shape=shape_of(exported),
        cache_dir=folder / "cache",
    )
    pruned = Pruned(
        model=exported, tokenizer=tokenizer, plan=empty_plan(), request=pruning_request(Settings())
    )
    chosen = RecoverySettings(
        name="distill", tokens=640, context_tokens=32, validation_blocks=4, evaluate_every=5
    )
    head = head_of(loading.load_model(dense)).weight
    lessons = recover.prepare_lessons(chosen, inputs, pruned, head)
    assert validation_loss(exported, lessons) == pytest.approx(expected, rel=1e-6)
