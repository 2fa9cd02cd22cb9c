"""Files are found by their settings, and no text serves two ends."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import DataSettings
from prune_exp.text.documents import (
    TextFile,
    deal_documents,
    list_calibration_files,
    number_heldout,
    package_of,
)

WIKI = "pkg://exllamav2/wiki.utf8"


def mixed(*entries: str) -> list[TextFile]:
    return list_calibration_files(DataSettings(mix=list(entries)))


def test_shares_are_of_all_files_and_one_by_default(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text("text", encoding="utf-8")
    found = mixed(f"{tmp_path}/a.txt:2", f"{tmp_path}/b.txt", f"{tmp_path}/c.txt:1.0")
    assert [(file.name, file.share) for file in found] == [("a", 0.5), ("b", 0.25), ("c", 0.25)]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("nowhere.txt", "nowhere.txt is not a file"),
        ("a.txt:0", "share above 0"),
        ("a.txt:-1", "share above 0"),
        ("a.txt:nan", "share above 0"),
        ("a.txt:inf", "share above 0"),
        (":2", "share above 0"),
        ("pkg://exllamav2", "is not pkg://PACKAGE/FILE"),
        ("pkg://exllamav2/nothing.utf8", "has 0 files named"),
        ("pkg://no_such_package/a.txt", "no_such_package is not installed"),
    ],
)
def test_a_mix_that_cannot_be_is_refused(
    entry: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match=said):
        mixed(entry)


def test_a_path_with_a_colon_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a:b.txt").write_text("text", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert [file.path.name for file in mixed("a:b.txt", "a:b.txt:3")] == ["a:b.txt"] * 2


def test_packages_are_named_in_paths() -> None:
    assert package_of(WIKI) == "exllamav2"
    assert package_of("exllamav2/wiki.utf8") is None


@given(count=st.integers(1, 40), seed=st.integers(0, 3))
def test_every_document_serves_one_end(count: int, seed: int) -> None:
    parts = [f"document {i}" for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.txt"
        path.write_text("\n\n".join(parts), encoding="utf-8")
        dealt = deal_documents(TextFile(path=path), seed=seed)
    together = [*dealt.calibration, *dealt.heldout, *dealt.reserved]
    assert sorted(together) == sorted(parts)
    assert dealt.heldout == tuple(parts[::5])
    assert dealt.reserved == tuple(parts[1::5])


def test_a_file_of_the_users_is_not_looked_for_in_a_package(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("text", encoding="utf-8")
    settings = DataSettings(package="exllamav2", path=str(tmp_path / "mine.txt"))
    with pytest.raises(SettingError, match=r"is a file of yours; type data=file data\.path="):
        list_calibration_files(settings)


@given(texts=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40), seed=st.integers(0, 3))
def test_a_text_that_is_there_again_serves_one_end(texts: list[str], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.txt"
        path.write_text("\n\n".join(texts), encoding="utf-8")
        dealt = deal_documents(TextFile(path=path), seed=seed)
    ends = [set(dealt.calibration), set(dealt.heldout), set(dealt.reserved)]
    assert set.union(*ends) == set(texts)
    assert sum(map(len, ends)) == len(set(texts))
    assert [texts[number_heldout(place) - 1] for place in range(len(dealt.heldout))] == [
        *dealt.heldout
    ]
