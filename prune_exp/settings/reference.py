"""Every setting with its type, default and meaning, as Markdown, written from the dataclasses.

`python -m prune_exp.settings.reference` prints what `conf/README.md` holds.
"""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from functools import cache
from types import ModuleType
from typing import Any, get_type_hints

from prune_exp.settings import command_schemas, schema
from prune_exp.settings.config_tree import conf_dir, group_names

TYPES = {
    "str": "text",
    "float": "number",
    "int": "integer",
    "bool": "true or false",
    "Any": "names with values, or null",
}
COMMANDS = {
    "promote": command_schemas.PromoteSettings,
    "verify": command_schemas.VerifySettings,
    "ship": command_schemas.ShipSettings,
    "rivals": command_schemas.RivalSettings,
    "report": command_schemas.ReportSettings,
    "rebuild": command_schemas.RebuildSettings,
}
INTRODUCTION = """\
# Settings

Written by `make reference` from the dataclasses in `prune_exp/settings`; do not edit. A setting is
given on the command line by its dotted name, as in `python -m prune_exp sparsity=0.3
pruning.refit=false`; an option of a group by the group's name, as in `pruning=width`. Defaults are
those of the default options; another option may set others (its file here shows which).
"""
COMMAND_INTRODUCTION = """\
Besides these, every command knows `tracking.root`, `tracking.uri` and the other settings of
`tracking`, as above."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting."""

    name: str
    """Dotted."""
    kind: str
    """Its type in words."""
    default: Any
    meaning: str


def describe_settings() -> str:
    """The whole reference."""
    composed = _compose("config")
    parts = [INTRODUCTION, "## A trial: `python -m prune_exp`", _table(_own(composed))]
    for name, kind in get_type_hints(schema.Settings).items():
        if is_dataclass(kind):
            parts.append(f"### {name}\n\n{_options(name)}".rstrip())
            parts.append(_table(list(_settings_of(kind, composed[name], f"{name}."))))
    parts.append("### experiment\n\nNone by default; each sets several of the above.")
    parts.append(_options("experiment"))
    for command, kind in COMMANDS.items():
        composed = _compose(command)
        rows = [
            one for one in _settings_of(kind, composed, "") if not one.name.startswith("tracking.")
        ]
        parts += [f"## `python -m prune_exp.{command}`", _table(rows)]
    return "\n\n".join(part.strip() for part in [*parts, COMMAND_INTRODUCTION]) + "\n"


def _own(composed: dict[str, Any]) -> list[Setting]:
    """The settings of a trial that belong to no group."""
    return [one for one in _settings_of(schema.Settings, composed, "") if "." not in one.name]


def _settings_of(kind: Any, values: dict[str, Any], prefix: str) -> Iterator[Setting]:
    """The settings of a dataclass, those of the groups inside it included."""
    meanings = _meanings(inspect.getmodule(kind))
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            yield from _settings_of(hint, values[name], f"{prefix}{name}.")
            continue
        yield Setting(
            name=prefix + name,
            kind=_type_in_words(kind.__annotations__[name]),
            default=values[name],
            meaning=meanings[kind.__name__, name],
        )


@cache
def _meanings(module: ModuleType) -> dict[tuple[str, str], str]:
    """What stands below each field of a module's dataclasses, by class and field."""
    found: dict[tuple[str, str], str] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, below in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                said = below.value if isinstance(below, ast.Expr) else None
                text = said.value if isinstance(said, ast.Constant) else ""
                found[node.name, field.target.id] = " ".join(str(text).split())
    return found


def _type_in_words(annotation: Any) -> str:
    """`float | None` is "number or null"."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    listed = re.fullmatch(r"list\[(\w+)\]", text)
    if text == "dict[str, str]":
        return "names with texts"
    if listed:
        return f"list of {TYPES[listed.group(1)]}s"
    kind, *null = text.split(" | ")
    return TYPES[kind] + (" or null" if null else "")


def _compose(config: str) -> dict[str, Any]:
    """The values of a config with nothing given; what must be given is ???."""
    import hydra
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    schema.store_schema()
    for name, kind in COMMANDS.items():
        store.store(name=f"{name}_schema", node=kind)
    overrides = ["hydra/sweeper=basic"] if config == "config" else []
    with hydra.initialize_config_dir(str(conf_dir().absolute()), version_base="1.3"):
        composed = hydra.compose(config, overrides)
    values = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _options(group: str) -> str:
    """The options of a config group, each with what its file says first."""
    if group not in group_names():
        return ""
    rows = []
    for path in sorted((conf_dir() / group).glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        comment = []
        for line in lines:
            if line.startswith("# @package"):
                continue
            if not line.startswith("# "):
                break
            comment.append(line.removeprefix("# "))
        rows.append(f"- `{group}={path.stem}`" + (f": {' '.join(comment)}" if comment else ""))
    return "\n".join(rows)


def _table(settings: list[Setting]) -> str:
    rows = ["| Setting | Type | Default | Meaning |", "| --- | --- | --- | --- |"]
    for one in settings:
        default = _value_in_words(one.default)
        meaning = one.meaning.replace("|", "\\|")
        rows.append(f"| `{one.name}` | {one.kind} | {default} | {meaning} |")
    return "\n".join(rows)


def _value_in_words(value: Any) -> str:
    if value == "???":
        return "must be given"
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    print(describe_settings(), end="")
