"""Files are cut into documents, and no document serves two ends."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import DataSettings
from prune_exp.settings.surroundings import forget_said
from prune_exp.text.documents import (
    LONG_DOCUMENT,
    TextFile,
    deal_documents,
    list_calibration_files,
    package_of,
    read_documents,
    split_into_documents,
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


def test_markers_of_training_text_part_documents() -> None:
    text = "one\n\nstill one\n<|endoftext|>\n\ntwo\n<|endoftext|>\n"
    assert split_into_documents(text) == ["one\n\nstill one", "two"]


def test_stretches_are_whole_lines_and_only_where_blank_lines_part() -> None:
    text = "aa\n\nbb\ncc\n\nd\n"
    assert split_into_documents(text) == ["aa", "bb\ncc", "d"]
    assert split_into_documents(text, stretch=4) == ["aa", "bb\ncc\n\nd"]
    assert split_into_documents(text, stretch=99) == ["aa\n\nbb\ncc\n\nd"]
    assert split_into_documents("a\nb\nc", stretch=99) == ["a", "b", "c"]
    assert split_into_documents("<doc id=1>\n" + "x" * 90 + "</doc>", stretch=1) == ["x" * 90]


@given(lines=st.lists(st.text("ab \n", max_size=8), max_size=30), stretch=st.integers(1, 20))
@example(lines=["a  aa"], stretch=1)
def test_stretches_lose_nothing(lines: list[str], stretch: int) -> None:
    text = "\n".join(lines)
    found = split_into_documents(text, stretch=stretch)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(found)


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


@pytest.mark.parametrize("between", [". ", " ", "。", ""])
def test_one_huge_line_is_cut_into_documents_and_loses_nothing(
    between: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_said()
    text = between.join(f"word{i}" for i in range(20_000))
    file = tmp_path / "one.txt"
    file.write_text(text, encoding="utf-8")
    parts = read_documents(file)
    assert len(parts) > 10
    assert all(LONG_DOCUMENT // 2 < len(part) <= 2 * LONG_DOCUMENT for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())
    if between in (". ", "。"):
        assert all(part.endswith(between.strip()) for part in parts[:-1])
    assert "one.txt is one line" in capsys.readouterr().err
    assert split_into_documents("A short text.") == ["A short text."]


def test_text_comes_with_any_line_ends_and_marks(tmp_path: Path) -> None:
    wanted = ["Erste Zeile\nzweite", "Größe"]
    plain = "\n\n".join(wanted)
    for name, data in {
        "crlf": plain.replace("\n", "\r\n").encode(),
        "cr": plain.replace("\n", "\r").encode(),
        "marked": b"\xef\xbb\xbf" + plain.encode(),
    }.items():
        (tmp_path / name).write_bytes(data)
        assert read_documents(tmp_path / name) == wanted
    (tmp_path / "lines").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}\r\n')
    assert read_documents(tmp_path / "lines") == ["a", "b"]


@pytest.mark.parametrize(
    ("data", "where", "kind"),
    [
        ("fine\nGröße".encode("cp1252"), "line 2, byte 7", "WINDOWS-1252"),
        ("text".encode("utf-16"), "line 1, byte 0", "UTF-16"),
        ("text".encode("utf-16-le"), "line 1, byte 1", "UTF-16"),
        (b"fine\nalso\n\x1f\x8b", "line 3, byte 11", "WINDOWS-1252"),
    ],
)
def test_other_encodings_are_named_with_where_they_show(
    data: bytes, where: str, kind: str, tmp_path: Path
) -> None:
    file = tmp_path / "t.txt"
    file.write_bytes(data)
    with pytest.raises(SettingError) as refused:
        read_documents(file)
    assert str(refused.value) == (
        f"data.path={file} is not UTF-8 text ({where}); convert it first, as with iconv -f {kind}"
        " -t UTF-8"
    )


def test_parquet_gives_its_column_of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas

    file = tmp_path / "t.parquet"
    pandas.DataFrame({"id": [1, 2, 3], "text": ["one ", None, "two\n\nstill two"]}).to_parquet(file)
    assert read_documents(file) == ["one", "two\n\nstill two"]
    pandas.DataFrame({"content": ["one"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(SettingError, match="has no column text, but content"):
        read_documents(tmp_path / "other.parquet")
    (tmp_path / "none.parquet").write_text("plain")
    with pytest.raises(SettingError, match="is no Parquet file that can be read"):
        read_documents(tmp_path / "none.parquet")
    monkeypatch.setattr("prune_exp.text.documents.find_spec", lambda _: None)
    with pytest.raises(SettingError, match="pip install pyarrow"):
        read_documents(file)


def test_a_file_of_the_users_is_not_looked_for_in_a_package(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("text", encoding="utf-8")
    settings = DataSettings(package="exllamav2", path=str(tmp_path / "mine.txt"))
    with pytest.raises(SettingError, match=r"is a file of yours; type data=file data\.path="):
        list_calibration_files(settings)


def test_half_a_character_becomes_the_mark_for_one(tmp_path: Path) -> None:
    """JSON spells characters beyond the first 65,536 in halves, and text is cut between them."""
    file = tmp_path / "cut.jsonl"
    lines = [
        r'{"text": "whole \ud83d\ude00"}',
        r'{"text": "cut \ud83d"}',
        r'{"text": "\ude00 too"}',
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    assert read_documents(file) == ["whole \U0001f600", "cut \ufffd", "\ufffd too"]
