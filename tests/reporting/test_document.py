"""What the report says follows from what was measured."""

import json
import re
import shlex
from dataclasses import replace
from typing import Any

import pytest

from prune_exp.pruning.plan import Elected, Reconstructed, Rehearsed, Settled
from prune_exp.reporting.document.content import compose_document
from prune_exp.reporting.document.elements import Cards, Paragraph
from prune_exp.reporting.document.note import sweep_note
from prune_exp.tracking import tags as keys
from prune_exp.tracking.read import Choice
from support import made_up_runs as made_up
from support.made_up_runs import findings, trial
from support.pages import DRAWN, section


def test_a_card_is_good_or_bad_only_where_its_interval_says_so() -> None:
    found = findings()
    found.metrics.update(made_up.interval("speedup", 1.02, 0.05))
    found.metrics.update(made_up.interval("memory_reduction_pct", -4, 1))
    cards = compose_document(found, DRAWN).sections[1].elements[0]
    assert isinstance(cards, Cards)
    tones = {card.label: card.tone for card in cards.cards}
    assert tones["Speedup"] == "plain"
    assert tones["Memory saved"] == "bad"
    assert tones["Latency reduction"] == "good"
    assert tones["Perplexity ratio"] == "bad"


def test_what_was_not_measured_takes_no_room() -> None:
    untimed = findings([trial(number, metrics=made_up.figures(speed=False)) for number in (0, 1)])
    cards, missing = compose_document(untimed, DRAWN).sections[1].elements
    assert isinstance(cards, Cards)
    assert [card.label for card in cards.cards] == ["Perplexity ratio"]
    assert isinstance(missing, Paragraph)
    assert missing.text.startswith("Not measured: speedup, latency reduction, memory saved")
    table = section(untimed, "All trials")
    assert "| Trial | Status | Pruned | Bits per byte | Perplexity ratio | Quality main" in table
    assert "Holm" in table
    nothing = findings([trial(0, metrics=made_up.figures(speed=False, quality=False))])
    (said,) = compose_document(nothing, DRAWN).sections[1].elements
    assert isinstance(said, Paragraph)
    assert "| Trial | Status | Pruned |\n" in section(nothing, "All trials")
    assert "Holm" not in section(nothing, "All trials")
    assert "Not measured" not in section(findings(), "Key performance indicators")


def test_why_trials_failed_stands_below_the_table_in_the_report_and_in_the_note() -> None:
    why = "TrialDied: the trial's process was killed, perhaps for its memory"
    died = trial(1, status="FAILED", metrics={}, tags={keys.ERROR: why}, name="s=0.70")
    found = findings([trial(0), died])
    for text in (section(found, "All trials"), sweep_note(found.trials, found.best)):
        (row,) = [line for line in text.splitlines() if line.startswith("| s=0.70")]
        assert set(row.split(" | ")[2:]) <= {"-", "- |"}
        assert f"- s=0.70: {why}" in text


def test_a_model_that_wrote_nothing_is_said_to_have_written_nothing() -> None:
    told = section(findings(samples=made_up.samples([" \n"])), "Sample outputs")
    assert "(nothing to see:" in told
    assert "(nothing to see:" not in section(findings(), "Sample outputs")


def test_a_small_share_of_the_bandwidth_is_not_nothing() -> None:
    found = findings()
    found.metrics.update({"dense/share_of_bandwidth": 0.37, "pruned/share_of_bandwidth": 0.0042})
    assert "| Share of the bandwidth | 37 % | 0.42 % |" in section(found, "The limit")


@pytest.mark.parametrize(
    ("p_value", "row", "said"),
    [
        (0.001, "| yes |", "also with Holm's correction"),
        (0.02, "| by itself |", "does not count as"),
    ],
)
def test_a_verdict_says_whether_it_is_corrected(p_value: float, row: str, said: str) -> None:
    trials = [trial(number) for number in range(4)]
    for one in trials:
        one.metrics.update({"quality_maintained": 0.0, "quality_p_value": 0.9})
    trials[0].metrics.update({"quality_maintained": 1.0, "quality_p_value": p_value})
    found = findings(trials)
    for name in ("Executive summary", "Conclusion"):
        assert said in section(found, name)
    assert row in section(found, "All trials").replace("**", "")
    alone = section(findings(trials[:1]), "Conclusion")
    assert "is maintained" in alone
    assert "Holm" not in alone


def test_too_few_documents_are_said_in_place_of_a_verdict() -> None:
    one = trial()
    one.metrics.update(made_up.interval("perplexity_ratio", 1.02, 0.01))
    one.metrics.update(made_up.on_text("wiki", 1.02, kept=True))
    one.metrics.update({"quality_maintained": 0.0, "domain/wiki/documents": 9.0})
    found = findings([one])
    why = "a verdict needs 12 held-out documents, and there are fewer of wiki (9)."
    for name in ("Executive summary", "Conclusion"):
        assert why in section(found, name)
    assert "not shown to be maintained" in section(found, "Executive summary")
    assert "no verdict: 9 documents" in section(found, "Quality by kind of text")
    assert "no verdict: too few documents" in section(found, "All trials")


HOW = "How it was measured"


def document_row(text: str, document: int, dense: float | None, pruned: float | None) -> dict:
    return {
        "text": text,
        "document": document,
        "tokens": 100,
        "dense_loss_nats": dense,
        "pruned_loss_nats": pruned,
        "perplexity_ratio": 1.5,
    }


def test_the_documents_that_a_loss_rests_on_are_named() -> None:
    one = trial()
    one.metrics.update(made_up.on_text("wiki", 1.2, kept=True))
    one.metrics.update(made_up.on_text("code", 3.0, kept=False))
    rows = [
        document_row("wiki", 1, 100, 101),
        document_row("wiki", 6, 100, 106),
        document_row("wiki", 11, 100, 90),
        document_row("wiki", 16, 100, 103),
        document_row("code", 26, 100, 300),
    ]
    shown = section(replace(findings([one]), documents=rows), "Quality by kind of text")
    table = shown.partition("documents.json lists all")[2]
    found = re.findall(r"\| wiki \| no\. (\d+) \| 100 \| 1\.50x \| (\d+) % \|", table)
    assert found == [("6", "60"), ("16", "30")]
    broken = [*rows, document_row("wiki", 21, None, 5) | {"perplexity_ratio": None}]
    worst = section(replace(findings([one]), documents=broken), "Quality by kind of text")
    assert "| wiki | no. 21 | 100 | - | - |" in worst
    assert "code" not in table
    assert "documents.json" not in section(findings([one]), "Quality by kind of text")


def test_plots_that_are_missing_are_said_to_be() -> None:
    drawn = DRAWN | {"roofline.png": "speed was not measured"}
    assert "roofline.png is not drawn: speed was not measured." in section(
        findings(), "The limit", drawn
    )


def test_what_went_is_told_by_kind() -> None:
    told = section(findings(), "What was removed")
    assert "| Whole layers | layer 1 | 20.0 % |" in told
    assert "| MLP channels | 2 in each layer that stays | 30.0 % |" in told
    assert "| Together |  | 50.0 % |" in told
    masked = findings([trial(0, metrics=made_up.figures(masks=True))])
    assert "No unit was removed: 50.0 % of the weights" in section(masked, "What was removed")


def test_rehearsed_plans_are_told_best_first() -> None:
    assert "rehearsed" not in section(findings(), "What was removed")
    tried = (
        Rehearsed(layers=(1,), channels=1200, loss_nats=3.5, by=("the vote",)),
        Rehearsed(layers=(), channels=1300, loss_nats=3.25, tokens=900, by=("wanda alone",)),
    )
    told = section(findings(plan=made_up.plan(rehearsed=tried)), "What was removed")
    assert "2 plans were rehearsed" in told
    assert told.index("| wanda alone | none | 1,300 | 900 | 3.2500 |") < told.index(
        "| the vote | 1 | 1,200 | none | 3.5000 |"
    )


@pytest.mark.parametrize(
    ("by", "said"),
    [
        (("a search",), "Whole layers: a search decided; the ballots of "),
        (
            ("similarity alone", "closest run"),
            "Whole layers: similarity alone, closest run decided; the ballots",
        ),
        (("the vote", "a search"), "until enough of them were agreed on"),
        ((), "until enough of them were agreed on"),
    ],
)
def test_ballots_on_layers_say_whether_they_decided(by: tuple[str, ...], said: str) -> None:
    whole = made_up.plan()
    tried = (
        Rehearsed(layers=(9,), channels=1200, loss_nats=3.5, by=("the vote",)),
        Rehearsed(layers=whole.layers, channels=1200, loss_nats=3.25, by=by),
    )
    told = section(findings(plan=made_up.plan(rehearsed=tried)), "Who voted for what")
    line = next(one for one in told.splitlines() if "Whole layers" in one)
    assert said in line


def test_what_a_jury_settled_is_told_with_what_came_of_it() -> None:
    jury = (
        Settled(layer=0, agreed=1, contested=4, changed=1, by="removal cost"),
        Settled(layer=2, agreed=2, contested=0, changed=0, by="the vote"),
        Settled(layer=3, agreed=0, contested=6, changed=2, by="a alone"),
        Settled(layer=4, agreed=0, contested=3, changed=1, by="a alone"),
    )
    for name in ("the vote", "the jury"):
        elected = (Elected(name=name, blocks=16, loss_nats=3.0, chosen=True),)
        plan = made_up.plan(jury=jury, elected=elected)
        found = findings(plan=plan)
        told = section(found, "What was removed")
        assert "agree on 3 of them; 13 channels are contested" in told
        assert "by the number of layers: a alone in 2, removal cost in 1." in told
        by_jury = name == "the jury"
        end = "is carried out." if by_jury else "is not carried out."
        assert f"differs from the vote's in 4 channels and {end}" in told
        assert ("MLP channels: the jury decided" in section(found, "Who voted for what")) is by_jury


def test_a_layer_that_stands_in_for_others_is_told_with_what_is_left() -> None:
    assert "trained" not in section(findings(), "What was removed")
    stands_in = (Reconstructed(layer=11, removed_after=6, error_left=0.8123),)
    told = section(findings(plan=made_up.plan(reconstructed=stands_in)), "What was removed")
    assert "| Layer | Removed after it | Error left |" in told
    assert "| 11 | 6 | 81 % |" in told


def test_ballots_and_voters_of_one_opinion_are_told() -> None:
    told = section(findings(), "Who voted for what")
    assert "had to nominate 40 to 60 % of the units" in told
    assert "one opinion" not in told
    table = {"a": {"a": 1.0, "b": 0.97}, "b": {"a": 0.97, "b": 1.0}}
    alike = findings(plan=made_up.plan(agreement={"mlp": table}))
    assert "a and b rank alike (rank correlation 0.97)" in section(alike, "Who voted for what")
    nobody = findings(plan=made_up.plan(agreement={}, votes={}))
    assert "No voters ranked units here." in section(nobody, "Who voted for what")


def test_tasks_are_shown_with_the_questions_that_were_lost() -> None:
    figures = {
        "task/facts/questions": 100.0,
        "task/facts/dense_accuracy_pct": 70.0,
        "task/facts/pruned_accuracy_pct": 62.0,
    } | made_up.interval("task/facts/accuracy_change_points", -8.0, 2.0)
    one = trial()
    one.metrics.update(figures)
    flipped = [
        {"question": "Two and two is", "right": "four", "pruned": "five", "change": "lost"},
        {"question": "One and one is", "right": "two", "pruned": "two", "change": "won"},
    ]
    told = section(findings([one], flipped=flipped), "Quality by kind of text")
    assert "| facts | 100 | 70.0 % | 62.0 % | -8.0 | -10.0 to -6.0 |" in told
    assert "| Two and two is | four | five |" in told
    assert "One and one" not in told
    assert "Task, right answers" not in section(findings(), "Quality by kind of text")


def test_files_at_equal_size_are_shown_where_they_were_compared() -> None:
    row = {"model": "dense", "kind": "q8_0", "size_mib": 140.0, "bits_per_byte": 1.0}
    row |= made_up.interval("perplexity_ratio", 1.01, 0.01) | {"peak_memory_mib": 200.0}
    row |= made_up.interval("text_speedup", 1.5, 0.1)
    rivals = {"rivals": [row], "verdicts": ["It is worse."], "runtime": "a runtime"}
    told = section(findings(rivals=rivals), "What else would give this size")
    assert "| dense q8_0 | 140.0 | 1.000 | 1.010 (1.000 to 1.020) | 1.50 (1.40 to 1.60) |" in told
    assert "- It is worse." in told
    titles = [one.title for one in compose_document(findings(), DRAWN).sections]
    assert "What else would give this size" not in titles


def test_answers_that_repeat_themselves_most_are_shown() -> None:
    """Beside the first prompts', those of others that the dense model does not repeat as much."""
    shown = made_up.samples(["a", "b", "c", "same", "some", "round"])
    for sample in shown:
        words = {"some": "x y z w x y z w q", "round": "o o o o o o o o o"}.get(
            sample["prompt_text"], "no word comes twice"
        )
        sample["text"] = words if sample["model"] == "pruned" else "no word comes twice here"
    told = section(findings(samples=shown), "Sample outputs")
    first, _, worst = told.partition("The others that repeat themselves most:")
    assert "| a |" in first
    assert "same" not in told
    assert 0 < worst.index("| round |") < worst.index("| some |")


def test_outputs_that_the_store_lost_are_said_to_be_lost() -> None:
    assert "The store does not hold them." in section(findings(samples=[]), "Sample outputs")
    bare = findings([trial(0, metrics=made_up.figures(speed=False))], samples=[])
    assert "speed was not measured" in section(bare, "Sample outputs")


VALIDITY: list[tuple[dict[str, Any], dict[str, float], str, bool]] = [
    ({}, {}, "One trial finished; nothing was chosen", True),
    ({"trials": [trial(0), trial(1)]}, {}, "The best of 2 finished trials was chosen", True),
    ({}, {}, "20 prompts with 32 new tokens each", True),
    ({}, {"test_pairs": 6.0}, "Only 6 pairs of requests were timed", True),
    ({}, {"test_pairs": 60.0}, "p99 is that of 60 requests", True),
    ({}, {"test_pairs": 200.0}, "p99 is that of", False),
    ({"machine": {"stopped_by": "target_ci"}}, {}, "Measuring stopped as soon as", True),
    ({}, {}, "Measuring stopped as soon as", False),
    ({"machine": {"load_average_end": 9.0, "cores": 2}}, {}, "load average was 9.0", True),
    ({"machine": {"load_average_end": 2.0, "cores": 2}}, {}, "load average was", False),
    ({}, {}, "4,096 held-out tokens of text in blocks of 512", True),
    ({}, {}, "Every trial used one seed (0)", True),
    ({}, made_up.figures(recovery=True), "a faster or quieter machine comes to more steps", False),
    ({}, {"weights_zeroed_pct": 50.0}, "Weights were set to zero and are still there", True),
    ({}, {}, "Weights were set to zero", False),
    ({"trials": [trial(0), trial(1, status="FAILED")]}, {}, "1 of 2 trials did not finish", True),
]


@pytest.mark.parametrize(("changes", "metrics", "words", "said"), VALIDITY)
def test_limits_follow_from_what_was_measured(
    changes: dict[str, Any], metrics: dict[str, float], words: str, said: bool
) -> None:
    trials = changes.get("trials", [trial(0)])
    trials = [trial(0, metrics=made_up.figures() | metrics), *trials[1:]]
    given: dict[str, Any] = changes | {"trials": trials}
    told = section(findings(**given), "Limits of validity")
    assert (words in told) == said, told


def test_more_limits() -> None:
    bare = findings([trial(0, metrics=made_up.figures(speed=False, quality=False))])
    told = section(bare, "Limits of validity")
    assert "Speed and memory were not measured" in told
    assert "Quality was not measured" in told
    assert "fp32" not in told
    two = [trial(0), trial(1)]
    two[1].params["seed"] = "1"
    assert "2 seeds ran in this sweep" in section(findings(two), "Limits of validity")
    timed = trial(0, metrics=made_up.figures(recovery=True))
    timed.params["recovery.minutes"] = "15.0"
    assert "a faster or quieter machine" in section(findings([timed]), "Limits of validity")
    asked = findings(two)
    object.__setattr__(asked, "best", Choice(trial=two[0], rule="asked for by its id"))
    assert "whoever picks one by the figures" in section(asked, "Limits of validity")


def test_what_was_not_done_is_not_described() -> None:
    bare = trial(0, metrics=made_up.figures(speed=False))
    told = section(findings([bare]), "How it was measured")
    assert "Speed and memory | not measured" in told
    assert "in turns" not in told
    assert "Served by" not in told
    assert "Student's t over documents" in told
    fast = section(findings([trial(0, metrics=made_up.figures(quality=False))]), HOW)
    assert "in turns" in fast
    assert "over documents" not in fast
    asked = made_up.figures() | {
        "task/facts/questions": 50.0,
        "task/facts/dense_accuracy_pct": 70.0,
        "task/facts/pruned_accuracy_pct": 60.0,
        **made_up.interval("task/facts/accuracy_change_points", -10, 5),
    }
    found = findings([trial(0, metrics=asked)])
    assert "of two paired shares" in section(found, HOW)
    assert "No task but facts, no instruction" in section(found, "Limits of validity")
    assert "No task, no instruction" in section(findings(), "Limits of validity")


def test_the_text_that_judged_is_named_and_not_the_one_that_calibrated() -> None:
    one = trial(0)
    one.params["quality.keep_on"] = '["code"]'
    one.params["data.path"] = "mine.txt"
    one.metrics.update(made_up.on_text("mine", 1.2, kept=False))
    one.metrics.update(made_up.on_text("code", 1.2, kept=True))
    told = section(findings([one]), "Limits of validity")
    assert re.search(r"held-out tokens of code in blocks .* mine were judged too", told)
    assert "other documents, of mine.txt" in told.replace("\\", "")


@pytest.mark.parametrize(
    ("minutes", "tokens", "trained", "same"),
    [
        ("15.0", "None", True, "the plan"),
        ("15.0", "1024", True, "the plan"),
        ("15.0", "1023", True, "the weights"),
        ("15.0", "512", True, "the weights"),
        ("None", "512", True, "the weights"),
        ("15.0", "None", False, "the weights"),
    ],
)
def test_only_what_comes_out_the_same_is_promised(
    minutes: str, tokens: str, trained: bool, same: str
) -> None:
    one = trial(0, metrics=made_up.figures(recovery=trained))
    one.params.update({"recovery.minutes": minutes, "recovery.tokens": tokens})
    if trained:
        one.metrics["recovery/tokens"] = 512.0
    told = section(findings([one]), "How to reproduce")
    assert f"the same model and text, {same} come" in told.replace("plan comes", "plan come")
    assert ("weights that were trained by the clock" in told) == (same == "the plan")


def commands(found: Any) -> list[list[str]]:
    text = section(found, "How to reproduce")
    fenced = text.partition("```\n")[2].partition("\n```")[0]
    return [words for line in fenced.split("\n") if (words := shlex.split(line, comments=True))]


def test_command_lines_are_quoted_for_a_shell() -> None:
    given = ["model.path='/a b;rm -rf ~'", "pruning.voters=[wanda,obs]", "sparsity=0.5"]
    one = trial(0, tags={"prune_exp.overrides": json.dumps(given)})
    sweep, alone, again, model = commands(findings([one]))
    assert sweep == ["python", "-m", "prune_exp", "-m", "sparsity=0.3,0.5"]
    assert alone == ["python", "-m", "prune_exp", *given]
    assert again == ["python", "-m", "prune_exp.report", f"run_id={one.run_id}", "output=report"]
    assert model[2] == "prune_exp.rebuild"


def test_commands_are_typed_where_they_were_and_with_the_same_configs() -> None:
    given = ["--config-dir=/my conf", "experiment=mine"]
    kept = {"prune_exp.overrides": json.dumps(given), "prune_exp.typed_in": "/my work"}
    there, _, alone, *_ = commands(findings([trial(0, tags=kept)]))
    assert there == ["cd", "/my work"]
    assert alone == ["python", "-m", "prune_exp", *given]


def test_without_a_command_line_every_setting_is_given() -> None:
    one = trial(0, tags={})
    one.params["model.path"] = "/it's a \\ folder, ${no}/"
    (_, alone, *_) = commands(findings([one]))
    assert "sparsity=0.5" in alone
    assert 'pruning.voters=["wanda", "gradient"]' in alone
    assert "model.hub_id=null" in alone


def test_secrets_are_not_in_the_command() -> None:
    given = ["model.hub_token=abc", "tracking.uri=postgresql://u:hunter2@host/db"]
    from prune_exp.tracking.naming import remember_overrides

    one = trial(0, tags={"prune_exp.overrides": remember_overrides(given)})
    text = section(findings([one]), "How to reproduce")
    assert "abc" not in text
    assert "hunter2" not in text
    assert "stands in its place" in text.replace("\\", "")


def test_a_note_fits_into_a_tag_and_names_the_best() -> None:
    many = [trial(i, 0.5, name=f"s=0.50 t=0.50 depth_share=0.{i:03d}") for i in range(300)]
    best = Choice(trial=many[250], rule="the best quality")
    text = sweep_note(many, best)
    assert len(text) <= 8000
    assert "depth_share=0.250" in text
    assert re.search(r"\d+ more trials are in report\.md", text)
    assert "No trial finished" in sweep_note([trial(0, status="FAILED", metrics={})], None)


def test_quality_of_float32_is_not_taken_for_that_of_what_was_timed() -> None:
    told = section(findings(machine={"dtype": "bfloat16"}), "Limits of validity")
    assert "Quality was computed in float32" in told
    assert "computes with weights in bfloat16, served by transformers" in told
    plain = section(findings(machine={"dtype": "float32"}), "Limits of validity")
    assert "computed in float32" not in plain


def test_trials_of_other_machines_or_versions_are_said_to_be() -> None:
    two = [trial(0), trial(1)]
    assert "The trials that are compared" not in section(findings(two), "Limits of validity")
    two[0].tags.update({"prune_exp.processor": "a", "prune_exp.threads": "2", "version.torch": "2"})
    two[1].tags.update({"prune_exp.processor": "b", "prune_exp.threads": "2", keys.GIT_COMMIT: "c"})
    told = section(findings(two), "Limits of validity")
    assert "ran on or with 2 processors and 2 commits of prune_exp" in told


def test_trials_that_held_out_text_ended_were_chosen_among_too() -> None:
    ended = trial(1, metrics={"stopped/after_blocks": 4.0}, tags={keys.STOPPED: "beyond the limit"})
    told = section(findings([trial(0), ended]), "Limits of validity")
    assert "The best of 1 finished trial, and of 1 that held-out text had ended before" in told


def test_scripts_that_went_stand_in_summary_and_conclusion() -> None:
    plan = made_up.plan(tokens=(1, 2), scripts={"CYRILLIC": (500, 3), "LATIN": (900, 800)})
    for name in ("Executive summary", "Conclusion"):
        assert "hardly knows these scripts any more: Cyrillic" in section(findings(plan=plan), name)


def test_nothing_is_promised_of_a_commit_that_was_changed() -> None:
    changed = trial(0)
    changed.tags[keys.GIT_COMMIT] = "abc-dirty"
    told = section(findings([changed]), "How to reproduce")
    assert "Files differed from commit abc and were not kept, so nothing is promised" in told
    assert "At commit" not in told


def test_memory_is_said_to_be_what_was_measured() -> None:
    one = trial(0)
    assert "the kernel's own record" in section(findings([one]), "Where memory goes")
    one.tags[keys.DEVICE] = "cuda (NVIDIA X)"
    assert "allocator of the GPU" in section(findings([one]), "Where memory goes")
    one.params["benchmark.backend"] = "llama_cpp"
    assert "MiB when the largest request ended" not in section(findings([one]), "Where memory goes")


def test_speed_for_equal_text_is_a_column_where_tokens_differ() -> None:
    one = trial(0)
    assert "equal text" not in section(findings([one]), "All trials")
    one.metrics.update({"dense/bytes_per_token": 4.0, "pruned/bytes_per_token": 3.6})
    one.metrics.update(made_up.interval("text_speedup", 1.31, 0.02))
    assert "| Speedup, equal text |" in section(findings([one]), "All trials")
    assert "| Speedup for equal text | 1.31x | 1.29 to 1.33 |" in section(
        findings([one]), "Improvements"
    )
