"""Settings as MLflow params, by dotted name, and back."""

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from prune_exp.settings.errors import SettingError
from prune_exp.settings.redaction import is_secret, redact

T = TypeVar("T")

ONCE = {
    "model.export_dtype": "float32",
    "pruning.reconstruct_epochs": "0",
    "pruning.rehearse_layers": "False",
}
"""What trials did before there was a setting for it, where that is not its default."""


def flatten_settings(settings: Any) -> dict[str, str]:
    """Settings by dotted name, without anything that looks like a secret."""
    return flatten_values(asdict(settings))


def flatten_values(values: Mapping[Any, Any]) -> dict[str, str]:
    """Nested values by dotted name, without anything that looks like a secret."""
    flat: dict[str, str] = {}

    def flatten_group(prefix: str, group: Mapping[Any, Any]) -> None:
        for key, value in group.items():
            name = f"{prefix}{key}"
            if isinstance(value, Mapping):
                flatten_group(f"{name}.", value)
            elif not is_secret(str(key)):
                shown = json.dumps(value) if isinstance(value, list) else str(value)
                flat[name] = redact(shown)

    flatten_group("", values)
    return flat


def restore_settings(schema: type[T], flat: Mapping[str, str], group: str = "") -> T:
    """The settings that `flatten_settings` wrote down.

    What it left out has its default, or what was done before there was such a setting.

    `schema` is their dataclass: that of the whole, or that of one `group`.

    Raises:
        SettingError: a value is not of its setting's type.
    """

    known = {**ONCE, **flat}

    def restore_group(kind: Any, prefix: str) -> Any:
        values: dict[str, Any] = {}
        for name, hint in get_type_hints(kind).items():
            if get_origin(hint) is dict:
                start = f"{prefix}{name}."
                inside = {key: text for key, text in flat.items() if key.startswith(start)}
                values[name] = {key.removeprefix(start): text for key, text in inside.items()}
            elif is_dataclass(hint):
                values[name] = restore_group(hint, f"{prefix}{name}.")
            elif prefix + name in known:
                values[name] = _parse_value(prefix + name, known[prefix + name], hint)
        return kind(**values)

    return restore_group(schema, f"{group}." if group else "")


def _parse_value(name: str, text: str, hint: Any) -> Any:
    """A stored value as what it was; nothing in it is evaluated."""
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if (type(None) in options or hint is Any) and text == "None":
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
