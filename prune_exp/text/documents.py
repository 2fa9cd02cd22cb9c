"""Which files give text, and which of their documents calibrate, judge a trial or a promotion."""

import random
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prune_exp.machine.packages import package_file
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import DataSettings
from prune_exp.settings.surroundings import IN_PACKAGE
from prune_exp.text.formats import read_documents

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
    """A file's documents by what they serve; no text serves two ends."""

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

    A text that is there several times is held out if one of them is, and else reserved if one is.

    Raises:
        SettingError: the file is empty or not UTF-8.
    """
    parts = read_documents(file.path, stretch=file.stretch, setting=file.setting)
    heldout = tuple(parts[::HELD_OUT_EVERY])
    reserved = leave_out(parts[RESERVED::HELD_OUT_EVERY], heldout)
    rest = [p for i, p in enumerate(parts) if i % HELD_OUT_EVERY not in (0, RESERVED)]
    random.Random(seed).shuffle(rest)
    return DealtDocuments(
        calibration=leave_out(rest, (*heldout, *reserved)), heldout=heldout, reserved=reserved
    )


def leave_out(documents: Sequence[str], others: Iterable[str]) -> tuple[str, ...]:
    """The documents whose text is not among the others."""
    known = set(others)
    return tuple(one for one in documents if one not in known)


def number_heldout(place: int) -> int:
    """The number that a held-out document has among those that `read_documents` finds in its file,
    counted from 1; `place` counts held-out ones from 0."""
    return HELD_OUT_EVERY * place + 1
