"""Files of the user's, read, or refused by the name of their setting."""

from pathlib import Path

from prune_exp.settings.errors import SettingError

UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip -k"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "unzstd"),
    b"\xfd7zXZ": ("xz", "unxz -k"),
    b"BZh": ("bzip2", "bunzip2 -k"),
    b"PK\x03\x04": ("zip", "unzip"),
}
"""How compressed files begin, what they are, and what unpacks them."""
MANY_ZEROS = 0.02
"""Share of zero bytes that text of two bytes a letter has at least, by its spaces and line ends."""


def read_text(path: Path, *, setting: str) -> str:
    """A UTF-8 file's text, its lines ended by line feeds, without the mark some begin with.

    Raises:
        SettingError: it cannot be read, or is in another encoding.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingError(
            f"{setting}={path} cannot be read ({error.strerror}); make it readable or give another"
        ) from None
    try:
        text = data.decode("utf-8-sig")
        bad = data.find(b"\0")
    except UnicodeDecodeError as error:
        text = ""
        bad = error.start
    if bad >= 0 or data.startswith(UTF_16_MARKS):
        raise SettingError(_describe_encoding(path, setting, data, max(bad, 0)))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _describe_encoding(path: Path, setting: str, data: bytes, bad: int) -> str:
    """Where a file is no UTF-8 text, and how to make it so."""
    for mark, (kind, command) in PACKED.items():
        if data.startswith(mark):
            return f"{setting}={path} is packed ({kind}); unpack it first: {command} {path}"
    line = data.count(b"\n", 0, bad) + 1
    if data.startswith(UTF_16_MARKS) or data.count(b"\0") > MANY_ZEROS * len(data):
        kind = "UTF-16"
    elif data[bad] == 0:
        return (
            f"{setting}={path} holds a zero byte (line {line}, byte {bad}), which no text has;"
            " take it out, as with tr -d '\\000'"
        )
    else:
        kind = "WINDOWS-1252"
    return (
        f"{setting}={path} is not UTF-8 text (line {line}, byte {bad}); convert it first, as with"
        f" iconv -f {kind} -t UTF-8"
    )
