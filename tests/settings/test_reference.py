"""The settings' reference says what the settings are."""

from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from prune_exp.settings.config_tree import conf_dir
from prune_exp.settings.reference import COMMANDS, describe_settings
from prune_exp.settings.schema import Settings


def test_the_file_is_what_the_settings_say_today() -> None:
    written = (conf_dir() / "README.md").read_text(encoding="utf-8")
    assert written == describe_settings(), "conf/README.md is stale; type make reference"


def test_every_setting_is_in_it_with_a_meaning() -> None:
    rows = [line for line in describe_settings().splitlines() if line.startswith("| `")]
    cells = {row.split("|")[1].strip().strip("`"): row.split("|")[4].strip() for row in rows}
    for schema in (Settings, *COMMANDS.values()):
        for name in names_of(schema):
            assert cells[name].endswith("."), name


def names_of(schema: Any, prefix: str = "") -> list[str]:
    hints = get_type_hints(schema)
    names: list[str] = []
    for one in fields(schema):
        if is_dataclass(hints[one.name]):
            names += names_of(hints[one.name], f"{prefix}{one.name}.")
        else:
            names.append(prefix + one.name)
    return names


def test_in_batches_either_model_goes_first_as_often() -> None:
    import yaml

    options = [yaml.safe_load(path.read_text()) for path in conf_dir().glob("benchmark/*.yaml")]
    rounds = [Settings().benchmark.batch_rounds, *(one.get("batch_rounds", 2) for one in options)]
    assert all(number % 2 == 0 for number in rounds)
