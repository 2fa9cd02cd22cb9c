"""What a user is told when something went wrong: one line, with what to type."""

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches

from prune_exp.settings.choices import describe_unknown
from prune_exp.settings.config_tree import conf_dir, group_names
from prune_exp.settings.errors import SettingError
from prune_exp.settings.redaction import redact, redact_override
from prune_exp.settings.schema import Settings

EXTRAS = {
    "joblib": "joblib",
    "ray": "ray,postgresql",
    "submitit_local": "submitit",
    "submitit_slurm": "submitit",
}
"""What launchers are installed with."""


def explain_error(error: Exception, schema: type = Settings) -> str:
    """One line for a user: what was wrong and what to type, the nearest valid name included."""
    text = redact(" ".join(f"{error} {error.__cause__ or ''}".split())) or type(error).__name__
    if isinstance(error, SettingError):
        return text
    if isinstance(error, OSError) and error.filename:
        return _explain_file(str(error.filename), str(error.strerror))
    if explained := _explain_characters(str(getattr(error, "override", None) or ""), text):
        return explained
    unknown = re.search(r"(?:override|append to) '?([\w./@]+)'?", text)
    if "Could not override" in text and unknown:
        return describe_unknown_key(unknown.group(1), schema)
    missing_option = re.search(r"find '([\w/]+)/([^']*)'", text)
    if missing_option:
        listed = re.search(r"Available options in '[^']*': (.*?) Config search path", text)
        known = listed.group(1).split() if listed else []
        group, option = missing_option.groups()
        return describe_unknown_option(group, option, known)
    if explained := _explain_value(text):
        return explained
    missing = re.search(r"[Mm]issing mandatory value: ([\w.]+)", text)
    if missing:
        latest = " (run_id=latest for the newest)" if missing.group(1) == "run_id" else ""
        return f"{missing.group(1)} must be given; type {missing.group(1)}=...{latest}"
    key = re.search(r"full_key: ([\w.]+)", text)
    if key:
        reason = text.split(" full_key:")[0]
        return f"{key.group(1)}: {reason}"
    return (
        text
        if type(error).__module__.startswith(("hydra", "omegaconf"))
        else (f"{type(error).__name__}: {text} (HYDRA_FULL_ERROR=1 shows where)")
    )


def _explain_characters(override: str, text: str) -> str | None:
    """What to type where a value has characters of Hydra's own grammar; None for other faults."""
    key, equals, value = redact_override(override).partition("=")
    if not equals or "override_grammar" not in text or "Error parsing override" in text:
        return None
    return (
        f"{key}={value} cannot be read; where a value is meant as it stands, put it in quotes:"
        f" \"{key}='{value}'\""
    )


def _explain_value(text: str) -> str | None:
    """What to type in place of several values, or of one where a list is wanted."""
    several = re.match(r"Ambiguous value for argument '([^=]+)=(.*?)' 1\.", text)
    if several:
        key, values = several.groups()
        return (
            f"{key}={values} is several values; put -m in front to try each of them, or type"
            f" {key}=[{values}] where a list is meant"
        )
    no_list = re.search(r"override ([^=]+)=(.*) Invalid value assigned: \w+ is not a List", text)
    if no_list:
        key, value = no_list.groups()
        return f"{key}={value} is no list; type {key}=[{value}]"
    return None


def _explain_file(name: str, why: str) -> str:
    if os.path.isfile(name) and not os.access(name, os.R_OK):
        return f"{name} cannot be read ({why}); make it readable"
    return f"{name} cannot be written ({why}); give a writable folder with tracking.root=DIR"


def describe_unknown_key(key: str, schema: type = Settings) -> str:
    """Names the nearest setting or config group."""
    known = [*setting_names(schema), *group_names()]
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    leaf = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    best = (near or leaf or ["one listed by --help"])[0]
    return f"{key} is not a setting or config group; did you mean {best}?"


def describe_unknown_option(group: str, option: str, known: Sequence[str] = ()) -> str:
    """Names the options of a config group, the nearest first; `known` are those Hydra found."""
    if group not in group_names() and not known:
        return describe_unknown_key(group)
    ours = (conf_dir() / group).glob("*.yaml")
    options = sorted({*known, *(path.stem for path in ours)})
    if group == "hydra/launcher" and option in EXTRAS:
        return (
            f"{group}={option} is not installed; type pip install 'prune-exp[{EXTRAS[option]}]', or"
            f" use one of {', '.join(options)}"
        )
    return describe_unknown(group, option, options)


def setting_names(node: type, prefix: str = "") -> list[str]:
    """Dotted names of all settings of a dataclass, nested ones included."""
    from dataclasses import fields, is_dataclass

    names: list[str] = []
    for one in fields(node):
        name = prefix + one.name
        if isinstance(one.type, type) and is_dataclass(one.type):
            names += setting_names(one.type, name + ".")
        else:
            names.append(name)
    return names
