"""Files of all kinds are cut into the documents that their authors meant."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prune_exp.settings.errors import SettingError
from prune_exp.settings.surroundings import forget_said
from prune_exp.text.formats import LONG_DOCUMENT, read_documents, split_into_documents


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
    monkeypatch.setattr("prune_exp.text.formats.find_spec", lambda _: None)
    with pytest.raises(SettingError, match="pip install pyarrow"):
        read_documents(file)


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


def test_lines_are_documents_where_nothing_else_parts_them() -> None:
    assert split_into_documents("one\ntwo\r\nthree\n") == ["one", "two", "three"]
    assert split_into_documents("one\nstill one\n\ntwo") == ["one\nstill one", "two"]
    assert split_into_documents("one\u2028still one\ntwo") == ["one\u2028still one", "two"]


def test_json_lines_give_their_texts() -> None:
    lines = [json.dumps({"id": i, "text": f"Text {i}\nof two lines."}) for i in range(3)]
    assert split_into_documents("\n".join(lines)) == [f"Text {i}\nof two lines." for i in range(3)]
    spaced = "\n\n".join(lines)
    assert split_into_documents(spaced) == split_into_documents("\n".join(lines))
    odd = json.dumps({"text": "a\u2028b"}, ensure_ascii=False)
    assert split_into_documents(odd) == ["a\u2028b"]
    assert split_into_documents("{not json\nat all") == ["{not json", "at all"]
    for wrong, said in (
        ('{"content": "x"}', "line 4 is JSON without a text"),
        ("plain", "line 4 is no JSON"),
        ("[1, 2]", "line 4 is JSON without a text"),
    ):
        with pytest.raises(SettingError, match=said):
            split_into_documents("\n".join([*lines, wrong]))


LONG = "a paragraph that is long enough to be one of an article and no heading, as all of these are"


def test_tags_inside_a_text_part_nothing() -> None:
    about = f"How articles are tagged: <doc id=1>\n{LONG}\n</doc> is one."
    lines = [json.dumps({"text": text}) for text in ("first", about, "third")]
    assert split_into_documents("\n".join(lines)) == ["first", about, "third"]
    assert split_into_documents(f"first\n\n{about}\n\nthird") == ["first", about, "third"]
    articles = f'<doc id="1">\nTitle\n{LONG}\n</doc>\n<doc id="2">\n{LONG}!\n</doc>\n'
    assert split_into_documents(articles) == [LONG, f"{LONG}!"]


@pytest.mark.parametrize(
    "sentence",
    [
        "The token <|endoftext|> ends a text.",
        'It is written "<|endoftext|>" there.',
        "It is written `<|endoftext|>`, as here.",
        "(<|endoftext|>)",
        "What ends it is <|endoftext|>.",
        "\u201c<|endoftext|>\u201d is what ends it.",
    ],
)
def test_a_marker_inside_a_sentence_parts_nothing(sentence: str) -> None:
    assert split_into_documents(f"first\n\n{sentence}\n\nthird") == ["first", sentence, "third"]


@pytest.mark.parametrize(
    "between",
    [
        "<|endoftext|>",
        " <|endoftext|> ",
        " <|endoftext|>",
        "\n<|endoftext|>\n",
        "<|endoftext|>\n",
        " <|endoftext|>\n",
    ],
)
def test_markers_part_documents_however_they_are_set(between: str) -> None:
    texts = ["One.\n\nStill one.", '"Two,"\nof two lines, "so."', '"Three"', "Four!"]
    assert split_into_documents(between.join(texts)) == texts


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_list_gives_its_texts(indent: int | None) -> None:
    records = [{"id": at, "text": f"Text {at}\nof two lines."} for at in range(3)]
    texts = [one["text"] for one in records]
    assert split_into_documents(json.dumps(records, indent=indent)) == texts
    assert split_into_documents(json.dumps(records[0], indent=indent)) == texts[:1]
    with pytest.raises(SettingError, match=r"a\.json: record 2 is JSON without a text"):
        split_into_documents(json.dumps([records[0], {"id": 1}], indent=4), where="a.json")
    for broken in (
        json.dumps(records, indent=indent)[:-9],
        f"{json.dumps(records[0], indent=2)}\n" * 2,
    ):
        with pytest.raises(SettingError, match=r"a\.json begins like JSON and is none"):
            split_into_documents(broken, where="a.json")
    for plain in ("[1] A reference.\n\nMore.", "[1, 2]\n\n[3]", "[]", "[[[" * 9999):
        assert "".join(split_into_documents(plain)) == plain.replace("\n\n", "")


def test_what_is_wrong_in_json_lines_is_named_by_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"text": "a"}\n\n\nplain\n', encoding="utf-8")
    with pytest.raises(SettingError) as refused:
        read_documents(file, setting="data.mix")
    assert str(refused.value) == f"data.mix={file}: line 4 is no JSON, as line 1 is"


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        ("string", ["one", None, "two"], None),
        ("large_string", ["one", None, "two"], None),
        ("string_view", ["one", None, "two"], None),
        ("binary", [b"one", None, b"two"], None),
        ("dictionary", ["one", None, "two"], None),
        ("binary", [b"\xff\xfe"], "bytes that are not UTF-8"),
        ("list", [["one"], ["two"]], "holds list<"),
        ("int64", [1, 2], "holds int64"),
    ],
)
def test_parquet_columns_hold_text_or_are_refused(
    kind: str, values: list[Any], said: str | None, tmp_path: Path
) -> None:
    import pyarrow
    from pyarrow import parquet

    made = {
        "list": lambda: pyarrow.list_(pyarrow.string()),
        "dictionary": lambda: pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
    }
    column_type = made[kind]() if kind in made else getattr(pyarrow, kind)()
    column = pyarrow.array(values, column_type)
    file = tmp_path / "t.data"
    parquet.write_table(pyarrow.table({"text": column}), file)
    if said is None:
        assert read_documents(file) == ["one", "two"]
        return
    with pytest.raises(SettingError, match=said):
        read_documents(file)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x1f\x8b\x08\x00" + bytes(40), "is packed (gzip); unpack it first: gunzip -k "),
        (b"\x28\xb5\x2f\xfd" + bytes(40), "is packed (Zstandard); unpack it first: unzstd "),
        (b"PK\x03\x04" + bytes(40), "is packed (zip); unpack it first: unzip "),
        (b"fine\nalso \0 fine" + b" text" * 9, "holds a zero byte (line 2, byte 10)"),
        ("Это русский текст, и слова в нём\n".encode("utf-16-le") * 9, "is not UTF-8 text"),
        ("هذا نص عربي وفيه كلمات\n".encode("utf-16-le") * 9, "is not UTF-8 text"),
    ],
)
def test_what_is_no_text_is_named_with_what_makes_it_text(
    data: bytes, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "t.txt"
    file.write_bytes(data)
    with pytest.raises(SettingError) as refused:
        read_documents(file, setting="text")
    assert str(refused.value).startswith(f"text={file} {said}")
    assert ("UTF-16" in str(refused.value)) == (said == "is not UTF-8 text")
