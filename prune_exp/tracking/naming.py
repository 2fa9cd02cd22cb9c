"""What runs are called, and the command lines that they remember."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence

from prune_exp.machine.display import one_line
from prune_exp.settings.redaction import redact_override

LONGEST_VALUE = 32
LONGEST_NAME = 160
BARE = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?|[A-Za-z][\w.-]*", re.ASCII)
SPECIAL = ("nan", "inf", "true", "false", "null", "none")
"""Words that Hydra would take for something else than themselves."""
SHORT = {"sparsity": "s", "vote_threshold": "t"}


def sweep_name(space: Mapping[str, str], trials: int) -> str:
    """The space of a sweep, such as `sparsity=0.3,0.5,0.7`."""
    shown = " ".join(one_line(redact_override(f"{key}={text}"), 80) for key, text in space.items())
    return one_line(shown, LONGEST_NAME) or (f"sweep of {trials}" if trials else "sweep")


def trial_name(params: Mapping[str, str], swept: Sequence[str], overrides: Sequence[str]) -> str:
    """Sparsity and threshold, and what else the sweep varies, each by the end of its name.

    `params` are the settings by dotted name.
    """
    parts = [f"s={float(params['sparsity']):.2f}", f"t={float(params['vote_threshold']):.2f}"]
    given = {key: value for key, _, value in (one.partition("=") for one in overrides)}
    for key in swept:
        value = given.get(key, params.get(key))
        if key in SHORT or value is None:
            continue
        safe = redact_override(f"{key}={_shorten_value(value)}").partition("=")[2]
        parts.append(f"{key.rpartition('.')[2]}={one_line(safe, LONGEST_VALUE)}")
    return one_line(" ".join(parts), LONGEST_NAME)


def _shorten_value(value: str) -> str:
    """Numbers to four digits, everything else as it is."""
    try:
        return f"{float(value):.4g}" if "." in value or "e" in value else value
    except ValueError:
        return value


def remember_overrides(overrides: Sequence[str]) -> str:
    """Overrides as one string for a tag, without anything that looks like a secret."""
    return json.dumps([redact_override(one) for one in overrides])


def shell_command(overrides: Sequence[str], *, sweep: bool) -> str:
    """What a shell must be given to run these overrides."""
    words = ["python", "-m", "prune_exp", *(["-m"] if sweep else []), *overrides]
    return shlex.join(words)


def recall_overrides(tag: str | None) -> list[str] | None:
    """The overrides in a tag; None where there are none or they were cut off."""
    try:
        found = json.loads(tag or "")
    except ValueError:
        return None
    return [str(one) for one in found] if isinstance(found, list) else None


def overrides_of(params: Mapping[str, str]) -> list[str]:
    """Overrides, in Hydra's grammar, that give tracked settings one by one."""
    return [f"{key}={_quote_value(text)}" for key, text in sorted(params.items())]


def _quote_value(text: str) -> str:
    """A tracked value as Hydra reads it back: null, a list, or a string in quotes."""
    if text == "None":
        return "null"
    if text.startswith("[") and _is_json(text):
        return text
    if BARE.fullmatch(text) and text.lower() not in SPECIAL:
        return text
    escaped = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except ValueError:
        return False
