"""Settings as MLflow params, by dotted name, and back."""

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from prune_exp.redaction import SECRET, redact
from prune_exp.settings import SettingError, Settings


def flatten(settings: Settings) -> dict[str, str]:
    """The whole resolved config by dotted name, without anything that looks like a secret."""
    flat: dict[str, str] = {}

    def walk(prefix: str, node: Mapping[str, Any]) -> None:
        for key, value in node.items():
            name = f"{prefix}{key}"
            if isinstance(value, Mapping):
                walk(f"{name}.", value)
            elif not SECRET.search(key):
                shown = json.dumps(value) if isinstance(value, list) else str(value)
                flat[name] = redact(shown)

    walk("", asdict(settings))
    return flat


def unflatten(flat: Mapping[str, str]) -> Settings:
    """The settings that `flatten` wrote down; what it left out has its default.

    Raises:
        SettingError: a value is not of its setting's type.
    """

    def build(kind: Any, prefix: str) -> Any:
        values: dict[str, Any] = {}
        for name, hint in get_type_hints(kind).items():
            if is_dataclass(hint):
                values[name] = build(hint, f"{prefix}{name}.")
            elif prefix + name in flat:
                values[name] = _parsed(prefix + name, flat[prefix + name], hint)
        return kind(**values)

    return build(Settings, "")


def _parsed(name: str, text: str, hint: Any) -> Any:
    """A stored value as what it was; nothing in it is evaluated."""
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if type(None) in options and text == "None":
        return None
    kind = options[0]
    try:
        if kind is bool:
            return {"True": True, "False": False}[text]
        if get_origin(kind) is list:
            (inner,) = get_args(kind)
            return [inner(one) for one in json.loads(text)]
        return kind(text)
    except (ValueError, KeyError, TypeError):
        raise SettingError(f"{name}={text} as tracked is not a value of this setting") from None
