"""Files of the user's, read, or refused by the name of their setting."""

from pathlib import Path

from prune_exp.settings.errors import SettingError


def read_text(path: Path, *, setting: str) -> str:
    """A UTF-8 file's text.

    Raises:
        SettingError: it cannot be read, or is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SettingError(
            f"{setting}={path} is not UTF-8 text (byte {error.start}); convert it first, as with"
            " iconv -f WINDOWS-1252 -t UTF-8"
        ) from None
    except OSError as error:
        raise SettingError(
            f"{setting}={path} cannot be read ({error.strerror}); make it readable or give another"
        ) from None
