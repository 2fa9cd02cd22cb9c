"""Files of text to documents, and which of these calibrate, judge a trial or judge a promotion."""

import json
import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from prune_exp.machine.display import first_line
from prune_exp.machine.files import read_text
from prune_exp.machine.packages import package_file
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import DataSettings
from prune_exp.settings.surroundings import IN_PACKAGE, note_once

ARTICLE = re.compile(r"<doc(?:\s[^>]*)?>\n?(.*?)</doc>", re.DOTALL)
END_OF_TEXT = "<|endoftext|>"
"""What parts documents in text that was made for training."""
SHORTEST_PARAGRAPH = 80
LONG_DOCUMENT = 4000
"""Characters of a document that is cut from a longer line."""
SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s+|[。！？।]")
SPACE = re.compile(r"\s+")
STRANGE = re.compile(r"[^\w.\-: ]")
"""What MLflow takes in no name of a metric."""
LONGEST_NAME = 200
HELD_OUT_EVERY = 5
RESERVED = 1


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A file that text comes from."""

    path: Path
    share: float = 1.0
    """Its share of the calibration text, among those of all files; 1 when it is the only one."""
    stretch: int | None = None
    """As `data.stretch_characters`, of this file."""
    called: str | None = None
    """Another name than the file's own, which was taken."""
    setting: str = "data.path"
    """What names it: data.path, data.mix or quality.domains."""

    @property
    def name(self) -> str:
        """What its kind of text is called: the file's name without the ending."""
        return self.called or plain_name(self.path.stem)


def plain_name(name: str) -> str:
    """A name as metrics can have it: letters, digits, spaces, any of .:-, _ for all else."""
    plain = STRANGE.sub("_", unicodedata.normalize("NFC", name))[:LONGEST_NAME]
    return plain if plain.strip(". ") else "text"


@dataclass(frozen=True, kw_only=True)
class DealtDocuments:
    """A file's documents by what they serve; no document serves two ends."""

    calibration: tuple[str, ...]
    heldout: tuple[str, ...]
    """Every fifth: quality is measured on these in trials."""
    reserved: tuple[str, ...]
    """The next of each five: for a last judgement that no search has seen."""


def list_calibration_files(settings: DataSettings) -> list[TextFile]:
    """The files that calibrate, whose shares add up to 1.

    Raises:
        SettingError: one is not there, or a share is no share.
    """
    if not settings.mix:
        path = find_text_file(str(settings.path), settings.package)
        return [TextFile(path=path, stretch=settings.stretch_characters)]
    parsed = [_parse_share(entry) for entry in settings.mix]
    total = sum(share for _, share in parsed)
    return [
        TextFile(
            path=find_text_file(path, settings.package, "data.mix"),
            setting="data.mix",
            share=share / total,
            stretch=settings.stretch_characters,
        )
        for path, share in parsed
    ]


def _parse_share(entry: str) -> tuple[str, float]:
    """A path and its share from `path:share`; the share is 1 where none is given."""
    path, _, share = entry.rpartition(":")
    try:
        value = float(share)
    except ValueError:
        return entry, 1.0
    if not path or not 0 < value < float("inf"):
        raise SettingError(
            f"data.mix={entry} is not path:share with a share above 0; try data.mix=[a.txt:2,b.txt]"
        )
    return path, value


def package_of(path: str) -> str | None:
    """The package in a path of the kind pkg://PACKAGE/FILE; None for other paths."""
    if not path.startswith(IN_PACKAGE):
        return None
    package, _, inside = path.removeprefix(IN_PACKAGE).partition("/")
    if not package or not inside:
        raise SettingError(f"{path} is not pkg://PACKAGE/FILE; try pkg://exllamav2/wiki.utf8")
    return package


def find_text_file(path: str, package: str | None, setting: str = "data.path") -> Path:
    """Finds a text file, in an installed package where one is named (pkg://PACKAGE/FILE too).

    Raises:
        SettingError: it is not there.
    """
    if named := package_of(path):
        return package_file(named, path.removeprefix(f"{IN_PACKAGE}{named}/"), setting=setting)
    if package is not None:
        _check_meant(path, package)
        return package_file(package, path, setting="data.package")
    file = Path(path).expanduser()
    if not file.is_file():
        raise SettingError(f"{setting}={file} is not a file; give a UTF-8 text file")
    return file


def _check_meant(path: str, package: str) -> None:
    """Raises SettingError where a file of the user's is looked for in a package."""
    if Path(path).expanduser().is_file():
        raise SettingError(
            f"data.path={path} is looked for in data.package={package}, and is a file of yours;"
            f" type data=file data.path={path}"
        )


def deal_documents(file: TextFile, *, seed: int = 0) -> DealtDocuments:
    """Reads a file and deals its documents; the seed reorders those that calibrate only.

    Raises:
        SettingError: the file is empty or not UTF-8.
    """
    parts = read_documents(file.path, stretch=file.stretch, setting=file.setting)
    rest = [p for i, p in enumerate(parts) if i % HELD_OUT_EVERY not in (0, RESERVED)]
    random.Random(seed).shuffle(rest)
    return DealtDocuments(
        calibration=tuple(rest),
        heldout=tuple(parts[::HELD_OUT_EVERY]),
        reserved=tuple(parts[RESERVED::HELD_OUT_EVERY]),
    )


def number_heldout(place: int) -> int:
    """The number that a held-out document has among those that `read_documents` finds in its file,
    counted from 1; `place` counts held-out ones from 0."""
    return HELD_OUT_EVERY * place + 1


def read_documents(
    file: Path, *, stretch: int | None = None, setting: str = "data.path"
) -> list[str]:
    """A file's documents, in order; errors name the setting that named it.

    Raises:
        SettingError: the file is empty or not UTF-8.
    """
    if file.suffix == ".parquet":
        parts = read_parquet(file)
    else:
        text = read_text(file, setting=setting)
        parts = split_into_documents(text, stretch=stretch)
        if len(parts) > 1 and "\n" not in text.strip():
            note_once(
                f"{file.name} is one line; it is cut at sentence ends into {len(parts)} documents,"
                " so text of one origin both calibrates and judges"
            )
    if not parts:
        raise SettingError(f"{setting}={file} holds no text; give a file with text in it")
    return parts


def split_into_documents(text: str, *, stretch: int | None = None) -> list[str]:
    """Splits text at `<doc>` tags, at `<|endoftext|>`, or else at blank lines.

    Where neither is there, every line is a document, and one line alone is cut at sentence ends. Of
    JSON lines the field `text` is read. With `stretch`, text that only blank lines part is cut at
    line ends into stretches of at least so many characters. Short paragraphs (headings) of tagged
    articles are dropped.

    Raises:
        SettingError: a JSON line has no such field.
    """
    if articles := ARTICLE.findall(text):
        return [kept for article in articles if (kept := _drop_headings(article))]
    lines = [kept for line in text.split("\n") if (kept := line.strip())]
    if lines and lines[0].startswith("{") and (texts := _read_json_lines(lines)) is not None:
        return texts
    if END_OF_TEXT in text:
        return [kept for part in text.split(END_OF_TEXT) if (kept := part.strip())]
    parts = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    if len(parts) != 1:
        return parts if stretch is None else _cut_stretches(text, stretch)
    return lines if len(lines) > 1 else _cut_line(lines[0], stretch or LONG_DOCUMENT)


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


def _cut_line(text: str, least: int) -> list[str]:
    """A line cut after `least` characters: at sentence ends, or else at spaces, or anywhere."""
    parts: list[str] = []
    while len(text) > 2 * least:
        window = text[least : 2 * least]
        found = SENTENCE_END.search(window) or SPACE.search(window)
        end = least + (found.end() if found else 0)
        parts.append(text[:end])
        text = text[end:]
    return [kept for one in (*parts, text) if (kept := one.strip())]


def read_parquet(file: Path) -> list[str]:
    """The column `text` of a Parquet file, a row a document.

    Raises:
        SettingError: it is damaged, has no such column, or the package to read it is missing.
    """
    if find_spec("pyarrow") is None:
        raise SettingError(f"data.path={file} needs pyarrow to be read; type pip install pyarrow")
    import pyarrow
    from pyarrow import parquet

    try:
        columns = parquet.read_schema(file).names
        if "text" not in columns:
            raise SettingError(
                f"data.path={file} has no column text, but {', '.join(columns)}; rename the one"
                " that holds the text"
            )
        rows = parquet.read_table(file, columns=["text"]).column("text").to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise SettingError(
            f"data.path={file} is no Parquet file that can be read ({first_line(error)})"
        ) from None
    return [kept for row in rows if (kept := str(row or "").strip())]


def _read_json_lines(lines: Sequence[str]) -> list[str] | None:
    """The field `text` of every line; None where the first is no JSON object."""
    found = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            if number == 1:
                return None
            raise SettingError(f"data.path: line {number} is no JSON, as line 1 is") from None
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise SettingError(
                f'data.path: line {number} is JSON without a text: {{"text": "..."}} is read'
            )
        found.append(_mend_surrogates(record["text"]).strip())
    return [one for one in found if one]


def _mend_surrogates(text: str) -> str:
    """The text with U+FFFD for halves of characters, as JSON has them where text was cut."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
