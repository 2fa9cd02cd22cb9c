"""Quality is judged on several kinds of text, each with documents of its own."""

import random
import re
from pathlib import Path

import mlflow
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prune_exp.model.loading import load_tokenizer
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import DataSettings, QualitySettings
from prune_exp.text.corpus import (
    Corpus,
    load_corpus,
    load_reserved,
    retokenize,
    share_out,
    spread_evenly,
    token_frequency,
)
from prune_exp.text.documents import plain_name
from prune_exp.text.domains import list_judged_files
from support.tokenizers import WORDS


def write_text(path: Path, *, seed: int, documents: int = 200) -> Path:
    chance = random.Random(seed)
    parts = [" ".join(chance.choices(WORDS, k=30)) + "." for _ in range(documents)]
    path.write_text("\n\n".join(parts), encoding="utf-8")
    return path


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [write_text(tmp_path / f"{name}.txt", seed=i) for i, name in enumerate("abc")]


def settings_of(paths: list[Path], **changes: object) -> DataSettings:
    given = {
        "mix": [f"{paths[0]}:3", f"{paths[1]}:1"],
        "context_tokens": 32,
        "calibration_blocks": 8,
        "heldout_blocks": 14,
    }
    return DataSettings(**given | changes)  # pyright: ignore[reportArgumentType]


def load(tiny_folder: Path, data: DataSettings, **quality: object) -> Corpus:
    tokenizer = load_tokenizer(tiny_folder)
    return load_corpus(data, QualitySettings(**quality), tokenizer, seed=0)  # pyright: ignore


def test_calibration_is_a_mix_by_shares_from_its_first_blocks(
    tiny_folder: Path, three: list[Path]
) -> None:
    data = settings_of(three)
    tokenizer = load_tokenizer(tiny_folder)
    corpus = load(tiny_folder, data)
    alone = [
        load(tiny_folder, DataSettings(path=str(path), context_tokens=32, heldout_blocks=14))
        for path in three[:2]
    ]
    of_a, of_b = (set(map(tuple, one.calibration.ids.tolist())) for one in alone)
    rows = [tuple(row) for row in corpus.calibration.ids.tolist()]
    assert [row in of_a for row in rows] == [True, True, False, True, True, True, False, True]
    assert [row in of_b for row in rows] == [row not in of_a for row in rows]
    assert torch.equal(retokenize(corpus, data, tokenizer), corpus.calibration.ids)


def test_domains_are_the_files_that_calibrate_then_the_others_each_once(
    tiny_folder: Path, three: list[Path]
) -> None:
    corpus = load(tiny_folder, settings_of(three), domains=[str(three[1]), str(three[2])])
    found = [(one.name, one.blocks, one.kept) for one in corpus.heldout.domains]
    assert found == [("a", 14, True), ("b", 14, True), ("c", 14, False)]
    assert len(corpus.heldout.ids) == 42
    assert sum(one.bytes_scored for one in corpus.heldout.domains) == corpus.heldout.bytes_scored
    spans = [(domain.name, rows) for domain, rows in corpus.heldout.spans()]
    assert spans == [("a", range(14)), ("b", range(14, 28)), ("c", range(28, 42))]


def test_held_out_blocks_of_a_file_do_not_depend_on_the_mix(
    tiny_folder: Path, three: list[Path]
) -> None:
    mixed = load(tiny_folder, settings_of(three)).heldout.ids[14:28]
    alone = load(tiny_folder, settings_of(three, mix=[], path=str(three[1]))).heldout.ids
    assert torch.equal(mixed, alone)


def test_kept_domains_can_be_named_and_only_they_are_reserved(
    tiny_folder: Path, three: list[Path]
) -> None:
    quality = QualitySettings(domains=[str(three[2])], keep_on=["c", "a"])
    data = settings_of(three)
    tokenizer = load_tokenizer(tiny_folder)
    judged = list_judged_files(data, quality)
    assert [(one.file.name, one.kept) for one in judged] == [("a", True), ("b", False), ("c", True)]
    reserved = load_reserved(data, quality, tokenizer, blocks=13)
    assert [(one.name, one.blocks) for one in reserved.domains] == [("a", 13), ("c", 13)]
    heldout = load_corpus(data, quality, tokenizer, seed=0).heldout
    assert not {*map(tuple, reserved.ids.tolist())} & {*map(tuple, heldout.ids.tolist())}


NAMES = ["novel (1)", "d'été", "R&D, 2.0 + more", "cafe\u0301", "हिन्दी", "a:b", "日本語", "..."]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_may_have_any_name(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    """A kind of text is called so that MLflow takes its figures; `keep_on` knows both names."""
    path = write_text(tmp_path / f"{name}.txt", seed=1)
    other = write_text(tmp_path / "other.txt", seed=2)
    data = settings_of([path, other], mix=[], path=str(other))
    quality = QualitySettings(domains=[str(path)], keep_on=[path.stem])
    judged = list_judged_files(data, quality)
    assert [one.kept for one in judged] == [False, True]
    metrics = {f"domain/{one.file.name}/perplexity_ratio": 1.0 for one in judged}
    assert len(metrics) == 2
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    with mlflow.start_run():
        mlflow.log_metrics(metrics)
    called = QualitySettings(domains=[str(path)], keep_on=[judged[1].file.name])
    assert list_judged_files(data, called) == judged
    assert load(tiny_folder, data, domains=[str(path)]).heldout.domains[1].name == plain_name(name)


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1))
def test_every_name_becomes_one_that_stays(name: str) -> None:
    plain = plain_name(name)
    assert re.fullmatch(r"[\w.\-: ]{1,200}", plain)
    assert plain.strip(". ")
    assert plain_name(plain) == plain


def test_what_judges_in_one_file_calibrates_in_no_other(
    tiny_folder: Path, three: list[Path]
) -> None:
    judged = three[1].read_text(encoding="utf-8").split("\n\n")[:20:5]
    own = three[0].read_text(encoding="utf-8").split("\n\n")
    three[0].write_text("\n\n".join([own[0], own[1], *judged, *own[2:]]), encoding="utf-8")
    corpus = load(tiny_folder, settings_of(three))
    assert not {*judged} & {*corpus.documents}
    apart = load(tiny_folder, settings_of(three, mix=[str(three[0])]))
    assert {*judged} & {*apart.documents}, "it is the other file that takes them out"


def test_what_judges_trials_in_one_file_judges_no_promotion_in_another(
    tiny_folder: Path, three: list[Path]
) -> None:
    reserved = three[0].read_text(encoding="utf-8").split("\n\n")[1]
    other = three[1].read_text(encoding="utf-8")
    three[1].write_text(f"{reserved}\n\n{other}", encoding="utf-8")
    tokenizer = load_tokenizer(tiny_folder)
    alone = settings_of(three, mix=[str(three[0])])
    begin = tokenizer(reserved, add_special_tokens=False)["input_ids"][:20]

    def first_reserved(data: DataSettings) -> list[int]:
        text = load_reserved(data, QualitySettings(keep_on=["a"]), tokenizer, blocks=3)
        return text.ids[0, :20].tolist()

    assert first_reserved(alone) == begin
    assert first_reserved(settings_of(three)) != begin


def test_a_text_that_is_there_again_counts_as_one_document(
    tiny_folder: Path, tmp_path: Path
) -> None:
    path = write_text(tmp_path / "a.txt", seed=1)
    texts = path.read_text(encoding="utf-8").split("\n\n")
    texts[5] = texts[10] = texts[0]
    path.write_text("\n\n".join(texts), encoding="utf-8")
    data = settings_of([path, path], mix=[str(path)], heldout_blocks=40)
    corpus = load(tiny_folder, data)
    tokens = corpus.heldout.count_predicted()
    assert (tokens[1:3] == 0).all()
    assert (tokens[3:6] > 0).all(), "the others keep their numbers"
    assert tokens[0] > 2 * tokens[3:6].min()
    assert corpus.heldout.documents_in(range(40))[:3] == [0, 3, 4]


def test_domains_that_cannot_be_are_refused(tiny_folder: Path, three: list[Path]) -> None:
    data = settings_of(three)
    twin = three[0].with_name("twin.txt")
    twin.write_bytes(three[0].read_bytes())
    other = three[0].parent / "elsewhere" / "a.txt"
    other.parent.mkdir()
    write_text(other, seed=9)
    short = write_text(three[0].with_name("short.txt"), seed=5, documents=1)
    empty = three[0].with_name("empty.txt")
    empty.write_text("\n", encoding="utf-8")
    for quality, said in (
        ({"domains": [str(twin)]}, "twin.txt holds the same text as a.txt"),
        ({"domains": [str(other)]}, "two different files are called a"),
        ({"domains": ["nowhere.txt"]}, "quality.domains=nowhere.txt is not a file"),
        ({"keep_on": ["d"]}, "keep_on=d is no text that is judged; use some of a, b"),
        ({"domains": [str(short)]}, "short.txt gives . of the 14 blocks"),
        (
            {"domains": [str(short)]},
            "^quality.domains=short.txt .* leave it out of quality.domains",
        ),
        ({"domains": [str(empty)]}, "empty.txt holds no text"),
    ):
        with pytest.raises(SettingError, match=said):
            load(tiny_folder, data, **quality)


def test_a_short_further_domain_gives_what_it_has_but_the_one_file_must_give_all(
    tiny_folder: Path, three: list[Path]
) -> None:
    short = write_text(three[0].with_name("short.txt"), seed=5, documents=4)
    data = settings_of(three, mix=[], path=str(three[0]), heldout_blocks=60)
    corpus = load(tiny_folder, data, domains=[str(short)])
    assert 12 <= corpus.heldout.domains[1].blocks < 60
    with pytest.raises(SettingError, match="of the 60 blocks"):
        load(tiny_folder, settings_of(three, mix=[], path=str(short), heldout_blocks=60))


def test_a_package_that_is_not_there_is_left_out_with_a_note(
    tiny_folder: Path, three: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = load(tiny_folder, settings_of(three), domains=["pkg://no_such_package/x.txt"])
    assert [one.name for one in corpus.heldout.domains] == ["a", "b"]
    assert "note: quality is not judged on pkg://no_such_package/x.txt" in capsys.readouterr().err


def test_frequencies_count_every_part_by_its_share(tiny_folder: Path, three: list[Path]) -> None:
    tokenizer = load_tokenizer(tiny_folder)
    parts = load(tiny_folder, settings_of(three)).parts
    mixed = token_frequency(parts, tokenizer, 300)
    one, two = (token_frequency([part], tokenizer, 300) for part in parts)
    assert torch.allclose(mixed, one + two)
    assert float(one.sum()) == pytest.approx(0.75)
    assert float(two.sum()) == pytest.approx(0.25)


@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_an_even_spread_holds_everything_once_and_every_prefix_is_fair(counts: list[int]) -> None:
    order = spread_evenly(counts)
    assert sorted(order) == [(a, i) for a, count in enumerate(counts) for i in range(count)]
    total = sum(counts)
    for length in range(1, total + 1):
        taken = [sum(at == row for at, _ in order[:length]) for row in range(len(counts))]
        for got, count in zip(taken, counts, strict=True):
            assert abs(got - count * length / total) <= len(counts) / 2 + 1e-9


@given(
    count=st.integers(0, 500),
    weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=6),
)
def test_shares_are_dealt_out_whole(count: int, weights: list[float]) -> None:
    shares = [one / sum(weights) for one in weights]
    dealt = share_out(count, shares)
    assert sum(dealt) == count
    assert all(abs(got - count * share) < 1 for got, share in zip(dealt, shares, strict=True))


def test_a_file_of_the_users_may_be_called_as_a_packages(tmp_path: Path) -> None:
    (tmp_path / "code.txt").write_text("def f(): ...", encoding="utf-8")
    data = DataSettings(path=str(tmp_path / "code.txt"))
    quality = QualitySettings(domains=["pkg://exllamav2/code.utf8"])
    found = [(one.file.name, one.kept) for one in list_judged_files(data, quality)]
    assert found == [("code", True), ("code-exllamav2", False)]
