"""Files of text to documents: plain text, tagged articles, JSON and Parquet."""

import json
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prune_exp.machine.display import first_line
from prune_exp.machine.files import read_text
from prune_exp.settings.errors import SettingError
from prune_exp.settings.surroundings import note_once

ARTICLE = re.compile(r"<doc(?:\s[^>]*)?>\n?(.*?)</doc>", re.DOTALL)
END_OF_TEXT = re.compile(r"<\|endoftext\|>")
"""What parts documents in text that was made for training, where it stands in no sentence."""
QUOTES = {'"': '"', "'": "'", "`": "`", "(": ")", "\u201c": "\u201d"}
"""What a word that is spoken of stands in."""
JSON_BEGIN = re.compile(r'\s*(\[\s*)?\{\s*"[^"\n]*"\s*:')
SHORTEST_PARAGRAPH = 80
LONG_DOCUMENT = 4000
"""Characters of a document that is cut from a longer line."""
SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s+|[。！？।]")
SPACE = re.compile(r"\s+")
PARQUET_MARK = b"PAR1"
PARQUET_ENDINGS = (".parquet", ".pq")


def read_documents(
    file: Path, *, stretch: int | None = None, setting: str = "data.path"
) -> list[str]:
    """A file's documents, in order; errors name the setting that named it.

    Raises:
        SettingError: the file is empty, not UTF-8, or damaged.
    """
    where = f"{setting}={file}"
    if _is_parquet(file):
        parts = read_parquet(file, where=where)
    else:
        text = read_text(file, setting=setting)
        parts = split_into_documents(text, stretch=stretch, where=where)
    if not parts:
        raise SettingError(f"{where} holds no text; give a file with text in it")
    return parts


def _is_parquet(file: Path) -> bool:
    if file.suffix.lower() in PARQUET_ENDINGS:
        return True
    try:
        with file.open("rb") as opened:
            return opened.read(len(PARQUET_MARK)) == PARQUET_MARK
    except OSError:
        return False


def split_into_documents(
    text: str, *, stretch: int | None = None, where: str = "the text"
) -> list[str]:
    """Splits text at `<doc>` tags if it begins with one, at `<|endoftext|>`, or at blank lines.

    Where neither is there, every line is a document, and one line alone is cut at sentence ends. Of
    JSON, a list or lines, the field `text` is read. With `stretch`, text that only blank lines part
    is cut at line ends into stretches of at least so many characters. Short paragraphs (headings)
    of tagged articles are dropped. Errors and notes begin with `where` the text is from.

    Raises:
        SettingError: something in JSON has no such field.
    """
    if (texts := _read_json(text, where)) is not None:
        return texts
    if ARTICLE.match(text.lstrip()):
        articles = ARTICLE.findall(text)
        return [kept for article in articles if (kept := _drop_headings(article))]
    if parts := _split_at_markers(text):
        return parts
    parts = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    if len(parts) != 1:
        return parts if stretch is None else _cut_stretches(text, stretch)
    lines = [kept for line in text.split("\n") if (kept := line.strip())]
    return lines if len(lines) > 1 else _cut_line(lines[0], stretch or LONG_DOCUMENT, where)


def _split_at_markers(text: str) -> list[str]:
    """The parts between markers for the end of a text; empty where there is none."""
    parts: list[str] = []
    start = 0
    for marker in END_OF_TEXT.finditer(text):
        if not _is_spoken_of(text, marker.start(), marker.end()):
            parts.append(text[start : marker.start()])
            start = marker.end()
    return [kept for one in (*parts, text[start:]) if (kept := one.strip())] if start else []


def _is_spoken_of(text: str, start: int, end: int) -> bool:
    """Whether what stands there is a word of a sentence: in quotes, or after another word."""
    before, last = (" " * 2 + text[max(start - 2, 0) : start])[-2:]
    after = text[end : end + 1]
    if QUOTES.get(last) == after and (before.isspace() or before == "("):
        return True
    return last in " \t" and before.isalnum() and after != "" and after in " \t.,;:!?)"


def _drop_headings(article: str) -> str:
    return "\n".join(line for line in article.splitlines() if len(line) >= SHORTEST_PARAGRAPH)


def _cut_stretches(text: str, least: int) -> list[str]:
    """Neighbouring lines joined until they have `least` characters; what is left joins the last."""
    stretches: list[str] = []
    lines: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        lines.append(line)
        size += len(line)
        if size >= least:
            stretches.append("".join(lines))
            lines = []
            size = 0
    rest = "".join(lines)
    if stretches:
        stretches[-1] += rest
    else:
        stretches = [rest]
    return [kept for one in stretches if (kept := one.strip())]


def _cut_line(text: str, least: int, where: str) -> list[str]:
    """A line cut after `least` characters: at sentence ends, or else at spaces, or anywhere."""
    parts: list[str] = []
    start = 0
    while len(text) - start > 2 * least:
        middle, last = start + least, start + 2 * least
        found = SENTENCE_END.search(text, middle, last) or SPACE.search(text, middle, last)
        end = found.end() if found else middle
        parts.append(text[start:end])
        start = end
    kept = [short for one in (*parts, text[start:]) if (short := one.strip())]
    if len(kept) > 1:
        note_once(
            f"{where} is one line; it is cut at sentence ends into {len(kept)} documents, so text"
            " of one origin both calibrates and judges"
        )
    return kept


def read_parquet(file: Path, *, where: str) -> list[str]:
    """The column `text` of a Parquet file, a row a document.

    Raises:
        SettingError: it is damaged, has no such column of text, or the package to read it is
            missing.
    """
    if find_spec("pyarrow") is None:
        raise SettingError(f"{where} needs pyarrow to be read; type pip install pyarrow")
    import pyarrow
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(file)
        if "text" not in schema.names:
            raise SettingError(
                f"{where} has no column text, but {', '.join(schema.names)}; rename the one that"
                " holds the text"
            )
        _check_column(schema.field("text").type, where)
        rows = parquet.read_table(file, columns=["text"]).column("text").to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise SettingError(
            f"{where} is no Parquet file that can be read ({first_line(error)})"
        ) from None
    return [kept for row in rows if (kept := _as_text(row, where).strip())]


def _check_column(kind: Any, where: str) -> None:
    """Raises SettingError unless a column of this pyarrow type holds text or its bytes."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    names = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    tests = (getattr(types, f"is_{name}", None) for name in (*names, "null"))
    if not any(test is not None and test(kind) for test in tests):
        raise SettingError(
            f"{where}: its column text holds {kind}, and strings are read; write the text there as"
            " strings, one document a row"
        )


def _as_text(row: str | bytes | None, where: str) -> str:
    if isinstance(row, bytes):
        try:
            return row.decode("utf-8")
        except UnicodeDecodeError:
            raise SettingError(
                f"{where}: its column text holds bytes that are not UTF-8; write the text there as"
                " strings"
            ) from None
    return row or ""


def _read_json(text: str, where: str) -> list[str] | None:
    """The field `text` of every record of a JSON list or of JSON lines; None where it is no JSON.

    Raises:
        SettingError: a record has no such field, or a line is no JSON where the first one is.
    """
    begin = text.lstrip()[:1]
    if begin not in ("{", "["):
        return None
    lines = [
        (number, short)
        for number, line in enumerate(text.split("\n"), 1)
        if (short := line.strip())
    ]
    first = _parse(lines[0][1])
    if isinstance(first, dict):
        return _take_texts(_parse_lines(lines, where), where)
    whole = first if len(lines) == 1 else _parse(text)
    if whole is None and JSON_BEGIN.match(text):
        raise SettingError(
            f"{where} begins like JSON and is none; give JSON lines, or a list of"
            ' {"text": "..."} that is whole'
        )
    if whole is None or (isinstance(whole, list) and not _holds_records(whole)):
        return None
    records = whole if isinstance(whole, list) else [whole]
    return _take_texts(((f"record {at}", one) for at, one in enumerate(records, 1)), where)


def _parse(text: str) -> Any:
    """What JSON says; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _holds_records(whole: Sequence[Any]) -> bool:
    """Whether a list is one of records, and not what a text in brackets happens to be."""
    return any(isinstance(one, dict) for one in whole)


def _parse_lines(lines: Sequence[tuple[int, str]], where: str) -> Iterable[tuple[str, Any]]:
    for number, line in lines:
        try:
            yield f"line {number}", json.loads(line)
        except ValueError:
            raise SettingError(
                f"{where}: line {number} is no JSON, as line {lines[0][0]} is"
            ) from None


def _take_texts(records: Iterable[tuple[str, Any]], where: str) -> list[str]:
    found = []
    for place, record in records:
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise SettingError(
                f'{where}: {place} is JSON without a text: {{"text": "..."}} is read'
            )
        found.append(_mend_surrogates(record["text"]).strip())
    return [one for one in found if one]


def _mend_surrogates(text: str) -> str:
    """The text with U+FFFD for halves of characters, as JSON has them where text was cut."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
