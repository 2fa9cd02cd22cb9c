"""Text that nobody has read decides who decides on tokens."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prune_exp.machine.stopwatch import Stopwatch
from prune_exp.model import loading
from prune_exp.model.architectures import head_of
from prune_exp.pruning import plan_choice
from prune_exp.pruning.calibration import ReadingSettings, calibrate_model
from prune_exp.pruning.inputs import Inputs
from prune_exp.pruning.plan import PruningPlan
from prune_exp.pruning.pruner import prune_model
from prune_exp.pruning.statistics import Statistics
from prune_exp.pruning.token_statistics import (
    describe_tokens,
    expected_probability,
    merge_places,
    number_scripts,
)
from prune_exp.pruning.token_vote import (
    JudgingText,
    Proposal,
    _split_parts,
    choose_proposal,
    list_proposals,
    mean_lost_pct,
    score_tokens,
    set_apart,
    vote_unread,
)
from prune_exp.text.corpus import SEPARATOR, token_frequency, token_ids
from prune_exp.text.scripts import script_of
from prune_exp.text.token_bytes import make_reencoder
from prune_exp.text.tokenizer import read_vocabulary
from prune_exp.trial.prepare import prepare_trial, pruning_request
from support.models import make_tiny
from support.settings import settings_for
from support.tokenizers import (
    WORDS,
    make_bpe_tokenizer,
    make_fallback_tokenizer,
    make_tokenizer_like,
)

TOKENIZER = make_bpe_tokenizer()
VOTERS = ["wanda", "expected", "merges", "script"]


def judging(ids: list[int], *, share: float) -> JudgingText:
    return JudgingText(share=share, ids=torch.tensor(ids))


def proposal(name: str, *, consensus: bool = False) -> Proposal:
    return Proposal(name=name, voters=("v",), vote_threshold=1.0, consensus=consensus)


@pytest.mark.parametrize(
    ("text", "script"),
    [("the", "LATIN"), (" 9ж", "CYRILLIC"), ("你", "CJK"), ("12!", "none"), ("", "none")],
)
def test_scripts_are_those_of_the_first_letter(text: str, script: str) -> None:
    assert script_of(text) == script


def test_expected_is_the_mean_of_the_models_own_distributions() -> None:
    model = make_tiny("llama")
    ids = torch.randint(1, 257, (3, 20), generator=torch.Generator().manual_seed(0))
    output = model(input_ids=ids, output_hidden_states=True)
    wanted = output.logits.double().softmax(-1).mean((0, 1))
    last: list[torch.Tensor] = []
    hook = model.model.norm.register_forward_pre_hook(lambda _, args: last.append(args[0]))
    model(input_ids=ids)
    hook.remove()
    found = expected_probability(model, last[0])
    assert torch.allclose(found.double(), wanted, atol=1e-7)
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert len(found) == len(head_of(model).weight)


def test_places_follow_the_merges_and_leave_out_what_always_stays() -> None:
    vocabulary = read_vocabulary(TOKENIZER)
    place = merge_places(vocabulary, len(TOKENIZER) + 3)
    made = list(dict.fromkeys(made for _, _, made in vocabulary.merges))
    assert sorted(place[made].tolist()) == list(range(len(made)))
    assert place[-3:].tolist() == [-1] * 3
    assert int((place >= 0).sum()) == len(vocabulary.removable)
    for left, right, token in vocabulary.merges:
        assert place[token] > max(int(place[left]), int(place[right]))


def test_characters_come_after_all_merges() -> None:
    vocabulary = read_vocabulary(make_fallback_tokenizer("gemma"))
    place = merge_places(vocabulary, 600)
    merged = [made for _, _, made in vocabulary.merges]
    assert int(place[list(vocabulary.characters)].min()) > int(place[merged].max())


def test_tokens_of_one_script_have_one_number() -> None:
    tokenizer = make_fallback_tokenizer("gemma")
    numbers = number_scripts(read_vocabulary(tokenizer), tokenizer, len(tokenizer))
    ids = tokenizer.convert_tokens_to_ids(["你", "好"])
    assert len({int(numbers[one]) for one in ids}) == 1
    latin = {int(numbers[one]) for one in tokenizer.convert_tokens_to_ids(["é", "t"])}
    assert len(latin) == 1
    assert latin != {int(numbers[ids[0]])}


def test_proposals_are_majorities_means_and_every_voter_alone() -> None:
    assert [one.name for one in list_proposals(["a", "b", "c"])] == [
        "2 of 3 agree",
        "3 of 3 agree",
        "mean rank",
        "a alone",
        "b alone",
        "c alone",
    ]
    assert list_proposals(["a", "b"])[0].name == "2 of 2 agree"
    assert [one.name for one in list_proposals(["a"])] == ["a alone"]


def test_lost_tokens_are_counted_by_shares() -> None:
    gone = torch.tensor([False, True, True, False])
    text = [judging([0, 1, 2, 3], share=0.5), judging([1, 1, 1, 0, 0, 0], share=0.25)]
    assert mean_lost_pct(gone, text) == pytest.approx(100 * (0.5 * 0.5 + 0.25 * 0.5) / 0.75)


def test_the_least_loss_wins_and_equal_ones_go_to_the_consensus() -> None:
    alone, agreed = proposal("alone"), proposal("agreed", consensus=True)
    assert choose_proposal([agreed, alone], {"alone": 1.0, "agreed": 1.01}) is alone
    assert choose_proposal([alone, agreed], {"alone": 1.0, "agreed": 1.0}) is agreed
    assert choose_proposal([alone, agreed], {"alone": 2.0, "agreed": 1.0}) is agreed


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_no_proposal_loses_less_than_the_chosen_one(losses: list[float]) -> None:
    lost = {f"p{i}": loss for i, loss in enumerate(losses)}
    proposals = [proposal(name, consensus=bool(i % 2)) for i, name in enumerate(lost)]
    assert lost[choose_proposal(proposals, lost).name] == min(losses)


def trial_inputs(tmp_path: Path, **data: Any) -> Any:
    """A model with a BPE vocabulary, and text that uses some of its words only."""
    folder = tmp_path / "model"
    loading.save_model(make_tiny("llama", vocab=len(TOKENIZER)), TOKENIZER, folder)
    chance = random.Random(3)
    parts = [" ".join(chance.choices(WORDS[: len(WORDS) // 2], k=40)) for _ in range(120)]
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(parts), encoding="utf-8")
    settings = settings_for(folder, text, tmp_path / "cache", calibration="documents", **data)
    settings.pruning = replace(
        settings.pruning, voters=VOTERS, units=["vocab", "mlp", "layers"], vocab_share=1.0
    )
    settings.sparsity = 0.02
    return settings


def test_a_plan_says_who_decided_on_tokens_and_keeps_it_in_json(tmp_path: Path) -> None:
    settings = trial_inputs(tmp_path)
    inputs = prepare_trial(settings).dense
    model = loading.load_model(inputs.source.folder)
    pruned = prune_model(pruning_request(settings), inputs, model, Stopwatch())
    judged = pruned.plan.judged_tokens
    assert [one.name for one in judged if one.chosen]
    assert len(judged) == len(list_proposals(VOTERS))
    chosen = next(one for one in judged if one.chosen)
    assert chosen.lost_pct == min(one.lost_pct for one in judged)
    assert len(pruned.plan.tokens) == pruned.plan.allocation.tokens > 0
    assert PruningPlan.from_json(pruned.plan.to_json()) == pruned.plan


def test_nothing_is_judged_where_every_document_was_read(tmp_path: Path) -> None:
    settings = trial_inputs(tmp_path)
    inputs = prepare_trial(settings).dense
    (part,) = inputs.corpus.parts
    short = replace(inputs.corpus, parts=(replace(part, documents=part.documents[:1]),))
    model = loading.load_model(inputs.source.folder)
    pruned = prune_model(
        pruning_request(settings), replace(inputs, corpus=short), model, Stopwatch()
    )
    assert pruned.plan.judged_tokens == ()
    assert pruned.plan.tokens
    assert set(pruned.plan.voters["vocab"]) == set(VOTERS)


def test_expected_tokens_are_kept_beside_the_calibration(tmp_path: Path) -> None:
    settings = trial_inputs(tmp_path)
    inputs = prepare_trial(settings).dense
    model = loading.load_model(inputs.source.folder)
    reading = ReadingSettings(voting_blocks=4, gradient_blocks=1)
    kept = calibrate_model(
        model, "d", inputs.corpus, inputs.tokenizer, reading, cache_dir=tmp_path / "cache"
    )
    first = describe_tokens(model, kept, inputs.tokenizer)
    with torch.no_grad():
        head_of(model).weight.zero_()
    again = describe_tokens(model, kept, inputs.tokenizer)
    assert torch.equal(first.expected, again.expected)


def read_text(settings: Any) -> tuple[Inputs, Statistics]:
    """A trial's inputs whose last documents have words of their own, and what is known of them."""
    inputs = prepare_trial(settings).dense
    (part,) = inputs.corpus.parts
    documents = list(part.documents)
    for place in range(len(documents) * 4 // 5, len(documents)):
        documents[place] += " " + " ".join(WORDS[-4:])
    corpus = replace(inputs.corpus, parts=(replace(part, documents=tuple(documents)),))
    inputs = replace(inputs, corpus=corpus)
    model = loading.load_model(inputs.source.folder)
    reading = ReadingSettings(voting_blocks=4, gradient_blocks=1)
    found = calibrate_model(
        model, "d", corpus, inputs.tokenizer, reading, cache_dir=Path(settings.cache_dir)
    )
    tokens = describe_tokens(model, found, inputs.tokenizer)
    return inputs, replace(found.statistics, tokens=tokens)


def test_documents_set_apart_are_neither_read_nor_counted(tmp_path: Path) -> None:
    settings = trial_inputs(tmp_path)
    inputs, statistics = read_text(settings)
    unread = set_apart(pruning_request(settings), inputs, statistics, 5)
    assert unread is not None
    (every,), (left,) = inputs.corpus.parts, unread.corpus.parts
    apart = every.documents[len(left.documents) :]
    assert apart
    assert 1 <= len(unread.blocks) <= 5
    assert TOKENIZER.decode(unread.blocks.flatten().tolist()) in SEPARATOR.join(apart)
    read = TOKENIZER.decode(inputs.corpus.calibration.ids.flatten().tolist())
    assert not [one for one in apart if one in read]
    wanted = token_frequency([left], TOKENIZER, len(TOKENIZER))
    assert torch.equal(unread.statistics.vocab_frequency, wanted)


def test_words_of_documents_set_apart_are_not_known_to_be_needed(tmp_path: Path) -> None:
    settings = trial_inputs(tmp_path)
    settings.pruning.voters = ["wanda"]
    inputs, statistics = read_text(settings)
    request = pruning_request(settings)
    unread = set_apart(request, inputs, statistics, 5)
    assert unread is not None
    (every,), (left,) = inputs.corpus.parts, unread.corpus.parts
    apart = every.documents[len(left.documents) :]
    known = {i for one in left.documents for i in token_ids(one, TOKENIZER)}
    own = {i for one in apart for i in token_ids(one, TOKENIZER)} - known
    order = score_tokens(request, inputs, statistics)["wanda"][0]
    count = int(order[list(own)].min())
    assert count, "some tokens are needed nowhere"
    assert own.intersection(vote_unread(request, inputs, unread, count))


@pytest.mark.parametrize("read_all", [False, True])
def test_only_uncounted_documents_judge_how_many_tokens_go(
    read_all: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = trial_inputs(tmp_path)
    settings.pruning.vocab_share, settings.pruning.rehearse_vocab = 0.0, [1.0]
    settings.sparsity = 0.03
    inputs, statistics = read_text(settings)
    (part,) = inputs.corpus.parts
    if read_all:
        one = replace(part, documents=part.documents[:1])
        inputs = replace(inputs, corpus=replace(inputs.corpus, parts=(one,)))
    request = pruning_request(settings)
    tried: list[tuple[Any, Any]] = []
    rehearse = plan_choice.rehearse_plans

    def watch(model: Any, plans: Any, text_of: Any, how: Any) -> Any:
        tried.extend((plan, text_of(plan)) for plan in plans)
        return rehearse(model, plans, text_of, how)

    monkeypatch.setattr(plan_choice, "rehearse_plans", watch)
    model = loading.load_model(inputs.source.folder)
    pruned = prune_model(request, inputs, model, Stopwatch())
    smaller = [(plan, text) for plan, text in tried if plan.tokens]
    assert bool(smaller) is not read_all
    unread = set_apart(request, inputs, statistics, plan_choice.UNREAD_BLOCKS)
    assert (unread is None) is read_all
    for plan, text in tried:
        assert unread is not None
        assert text.dense_tokens == unread.blocks[:, 1:].numel()
        if plan.tokens:
            assert plan.tokens == vote_unread(request, inputs, unread, len(plan.tokens))
    assert {len(plan.tokens) for plan, _ in tried} == {one.tokens for one in pruned.plan.rehearsed}


def test_a_tokenizer_spells_text_set_apart_as_it_is(tmp_path: Path) -> None:
    settings = trial_inputs(tmp_path)
    tokenizer = make_tokenizer_like("pythia")
    loading.save_model(make_tiny("llama", vocab=len(tokenizer)), tokenizer, tmp_path / "model")
    inputs, statistics = read_text(settings)
    unread = set_apart(pruning_request(settings), inputs, statistics, 5)
    assert unread is not None
    respell = make_reencoder(tokenizer, tokenizer)
    for block in unread.blocks:
        assert torch.equal(respell(block[1:]), block[1:])


def test_a_text_that_is_there_twice_does_not_judge(tmp_path: Path) -> None:
    settings = trial_inputs(tmp_path)
    inputs, _ = read_text(settings)
    (part,) = inputs.corpus.parts
    documents = part.documents
    repeated = replace(part, documents=(*documents[:-1], documents[0]))
    corpus = replace(inputs.corpus, parts=(repeated,))
    read, apart = _split_parts(pruning_request(settings), replace(inputs, corpus=corpus))
    assert documents[0] in read[0].documents
    assert apart[0].documents
    assert not {*read[0].documents} & {*apart[0].documents}
