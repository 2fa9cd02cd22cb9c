"""Text from anywhere, made fit to be shown: on one line, cut, without control characters."""

import unicodedata

REPLACEMENT = "\ufffd"
INVISIBLE = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
"""What turns the direction of the text after it, and separators that some take for newlines."""


def plain_text(text: str) -> str:
    """A text without control characters and lone surrogates; newlines and tabs stay."""
    return "".join(
        REPLACEMENT
        if one in INVISIBLE or (one not in "\n\t" and unicodedata.category(one) in ("Cc", "Cs"))
        else one
        for one in text.replace("\r\n", "\n")
    )


def clip_text(text: str, most: int) -> str:
    """A text cut where it is longer than `most` characters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def one_line(text: str, most: int) -> str:
    """A text as `plain` has it, on one line of at most `most` characters."""
    return clip_text(" ".join(plain_text(text).split()), most)


def last_words(error: Exception, most: int = 300) -> str:
    """The end of an error's words on one line: where several are nested, the inmost reason."""
    words = " ".join(plain_text(str(error)).split())
    return words if len(words) <= most else f"…{words[-most:].lstrip()}"


def first_line(error: Exception) -> str:
    """The first line of an error's words, or its kind when it has none."""
    lines = str(error).strip().splitlines()
    return one_line(lines[0], 200) if lines else type(error).__name__


def show_duration(seconds: float) -> str:
    """A time that is only roughly known: `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
