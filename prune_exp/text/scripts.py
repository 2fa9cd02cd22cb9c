"""Which script a token is written in."""

import unicodedata

NO_SCRIPT = "none"
"""Of digits, punctuation and pieces of characters."""


def script_of(text: str) -> str:
    """The script of the first letter, by its Unicode name: LATIN, CYRILLIC, CJK."""
    letter = next((one for one in text if one.isalpha()), None)
    if letter is None:
        return NO_SCRIPT
    return unicodedata.name(letter, NO_SCRIPT).partition(" ")[0]


def script_in_words(script: str) -> str:
    """What people call a script."""
    return "Chinese characters" if script == "CJK" else script.capitalize()
