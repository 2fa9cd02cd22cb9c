"""Questions are asked as lm-eval asks them, and both models are compared question by question."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prune_exp.measurement import task_files
from prune_exp.measurement import tasks as module
from prune_exp.measurement.intervals import difference_of_shares
from prune_exp.measurement.task_files import OWN, check_questions, digest_tasks, load_tasks
from prune_exp.measurement.tasks import Answer, ask_dense, ask_model, compare_answers
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import QualitySettings
from support.models import make_tiny
from support.tokenizers import make_tokenizer

QUESTIONS = [
    {"question": "the river", "choices": ["flows", "stone light", "red"], "answer": 0},
    {"question": "a stone", "choices": ["light", "red"], "answer": 1},
    {"question": "old red", "choices": ["river", "stone", "flows light", "the"], "answer": 2},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a task of three questions."""
    lines = [json.dumps(one) for one in QUESTIONS]
    (tmp_path / "words.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def settings(folder: Path | None, *names: str, **others: Any) -> QualitySettings:
    path = None if folder is None else str(folder)
    return QualitySettings(tasks=[*names], tasks_path=path, **others)


def likeliest(model: Any, tokenizer: Any, question: dict[str, Any]) -> str:
    """The choice whose tokens are likeliest after the question, by the model's own logits."""
    scores = []
    for choice in question["choices"]:
        before = tokenizer(question["question"])["input_ids"]
        whole = tokenizer(f"{question['question']} {choice}")["input_ids"]
        logs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        places = range(len(before), len(whole))
        scores.append(sum(float(logs[place - 1, whole[place]]) for place in places))
    return question["choices"][max(range(len(scores)), key=scores.__getitem__)]


def test_the_likeliest_choice_is_the_answer(folder: Path) -> None:
    model, tokenizer = make_tiny("llama"), make_tokenizer()
    loaded = load_tasks(settings(folder, "words"))
    with torch.no_grad():
        found = ask_model(model, tokenizer, loaded, None)["words"]
        expected = [likeliest(model, tokenizer, one) for one in QUESTIONS]
    assert [one.said for one in found] == expected
    assert [one.right for one in found] == ["flows", "red", "flows light"]
    assert [one.is_right for one in found] == [one.said == one.right for one in found]
    assert [one.question for one in found] == ["the river", "a stone", "old red"]
    assert len(ask_model(model, tokenizer, loaded, 2)["words"]) == 2


def test_the_dense_model_is_asked_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = make_tiny("llama"), make_tokenizer()
    chosen = settings(folder, "words")
    loaded = load_tasks(chosen)
    how: dict[str, Any] = {"cache_dir": tmp_path / "cache"}
    first = ask_dense(model, "digest", tokenizer, loaded, chosen, **how)
    monkeypatch.setattr(module, "ask_model", None)
    assert ask_dense(model, "digest", tokenizer, loaded, chosen, **how) == first
    with pytest.raises(TypeError):
        ask_dense(model, "another", tokenizer, loaded, chosen, **how)


def test_what_ships_is_a_hundred_questions_and_more() -> None:
    file = OWN / "plain_facts.jsonl"
    check_questions(file)
    asked = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len({one["question"] for one in asked}) == len(asked) >= 100
    assert {one["answer"] for one in asked} == {0, 1, 2, 3}
    assert len(load_tasks(settings(None, "plain_facts"))["plain_facts"].eval_docs) == len(asked)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "the capital of France",
        "[]",
        '{"question": "a", "choices": ["b", "c"]}',
        '{"question": "", "choices": ["b", "c"], "answer": 0}',
        '{"question": "a", "choices": ["b", "b"], "answer": 0}',
        '{"question": "a", "choices": ["b"], "answer": 0}',
        '{"question": "a", "choices": ["b", "c"], "answer": 2}',
        '{"question": "a", "choices": ["b", "c"], "answer": "b"}',
        '{"question": "a", "choices": "bc", "answer": 1, "more": 1}',
    ],
)
def test_a_line_that_is_no_question_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(f"{json.dumps(QUESTIONS[0])}\n{line}\n", encoding="utf-8")
    with pytest.raises(SettingError, match=r"bad\.jsonl, line 2, is no question") as error:
        load_tasks(settings(tmp_path, "bad"))
    assert "\n" not in str(error.value)


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes('{"question": "ä"}'.encode("cp1252"))
    with pytest.raises(SettingError, match=r"bad\.jsonl is not UTF-8 text"):
        load_tasks(settings(tmp_path, "bad"))
    (tmp_path / "none.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(SettingError, match="holds no questions"):
        load_tasks(settings(tmp_path, "none"))


def test_a_task_that_nobody_knows_is_refused_with_the_nearest(folder: Path) -> None:
    with pytest.raises(SettingError, match="did you mean words") as error:
        load_tasks(settings(folder, "wordz"))
    assert len(str(error.value)) < 500
    with pytest.raises(SettingError, match="is a group of lm-eval's tasks"):
        load_tasks(settings(folder, "mmlu"))
    with pytest.raises(SettingError, match="is no folder"):
        load_tasks(settings(folder / "nowhere", "words"))


def test_without_lm_eval_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_files, "find_spec", lambda _: None)
    assert load_tasks(QualitySettings()) == {}
    with pytest.raises(SettingError, match=r"prune-exp\[tasks\]"):
        load_tasks(settings(None, "plain_facts"))


def test_lm_eval_is_as_loud_afterwards_as_before(folder: Path) -> None:
    level = logging.getLogger("lm_eval").level
    load_tasks(settings(folder, "words"))
    assert logging.getLogger("lm_eval").level == level


def test_both_models_see_the_same_examples_before_a_question(tmp_path: Path) -> None:
    """A task of lm-eval's own kind, from a YAML file, with two examples that are drawn."""
    lines = [json.dumps(one) for one in QUESTIONS * 4]
    pool = tmp_path / "pool.json"
    pool.write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "shots.yaml").write_text(
        "task: shots\ndataset_path: json\noutput_type: multiple_choice\nnum_fewshot: 2\n"
        f"dataset_kwargs: {{data_files: {{test: {pool}, train: {pool}}}}}\n"
        "test_split: test\nfewshot_split: train\ndoc_to_text: question\ndoc_to_choice: choices\n"
        "doc_to_target: answer\nmetric_list: [{metric: acc, aggregation: mean}]\n",
        encoding="utf-8",
    )
    model, tokenizer = make_tiny("llama"), make_tokenizer()
    first, again = (
        ask_model(model, tokenizer, load_tasks(settings(tmp_path, "shots")), 3)["shots"]
        for _ in range(2)
    )
    assert [one.question for one in first] == [one.question for one in again]
    assert first[0].question.count("\n") >= 2


def test_questions_that_change_are_other_questions(folder: Path) -> None:
    before = digest_tasks(load_tasks(settings(folder, "words")))
    assert digest_tasks(load_tasks(settings(folder, "words"))) == before
    with (folder / "words.jsonl").open("a", encoding="utf-8") as stream:
        stream.write("\n" + json.dumps(QUESTIONS[0] | {"answer": 1}))
    assert digest_tasks(load_tasks(settings(folder, "words"))) != before


def answers(*right: bool) -> list[Answer]:
    return [
        Answer(question=f"q{number}", said=str(one), right="True", is_right=one)
        for number, one in enumerate(right)
    ]


def test_flipped_questions_by_hand() -> None:
    dense = answers(True, True, True, True, False, False, True, True, False, True)
    pruned = answers(False, False, False, True, True, False, True, True, False, True)
    (found,) = compare_answers({"t": dense}, {"t": pruned}).values()
    assert (found.questions, found.dense_accuracy_pct, found.pruned_accuracy_pct) == (10, 70, 50)
    assert found.mcnemar_p_value == pytest.approx(10 / 16)  # 3 or 4 of 4 to one side, both ways
    half = 1.959964 * math.sqrt((6 / 12 - (2 / 12) ** 2) / 12)
    assert found.accuracy_change.value == pytest.approx(-0.2)
    assert found.accuracy_change.ends == pytest.approx((-2 / 12 - half, -2 / 12 + half))
    assert [one["question"] for one in found.flipped] == ["q0", "q1", "q2", "q4"]
    assert [one["change"] for one in found.flipped] == ["lost", "lost", "lost", "won"]
    flat = found.metrics("t")
    assert flat["task/t/accuracy_change_points"] == pytest.approx(-20)
    assert flat["task/t/accuracy_change_points_ci95_low"] == pytest.approx(100 * (-2 / 12 - half))


def test_nothing_flipped_is_not_nothing_in_doubt() -> None:
    (found,) = compare_answers({"t": answers(*[True] * 20)}, {"t": answers(*[True] * 20)}).values()
    assert found.mcnemar_p_value == 1.0
    assert found.accuracy_change.low < 0 < found.accuracy_change.high


@pytest.mark.parametrize("questions", [40, 130, 500])
@pytest.mark.parametrize(("lost", "won"), [(0.2, 0.1), (0.05, 0.05), (0.02, 0.0)])
def test_the_interval_of_a_change_holds_the_truth(questions: int, lost: float, won: float) -> None:
    chance = np.random.default_rng(2)
    drawn = chance.multinomial(questions, [won, lost, 1 - won - lost], size=2000)
    found = [difference_of_shares(int(w), int(one), questions) for w, one, _ in drawn]
    held = 100 * np.mean([one.low <= won - lost <= one.high for one in found])
    print(f"{questions} questions, {lost:g} lost, {won:g} won: {held:.1f} %")
    assert held >= 93
