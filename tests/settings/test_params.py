"""Settings survive the way to the store and back."""

import re

import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import ModelSettings
from prune_exp.settings.params import flatten_settings, restore_settings
from prune_exp.settings.redaction import redact
from prune_exp.settings.schema import Settings
from prune_exp.tracking.naming import (
    overrides_of,
)
from support.made_up_runs import settings


@given(st.floats(0.01, 0.99), st.booleans(), st.lists(st.text("abc", min_size=1)), st.text())
def test_flattened_settings_come_back(
    sparsity: float, refit: bool, voters: list[str], name: str
) -> None:
    settings = Settings(sparsity=sparsity, model=ModelSettings(name=name, package="p"))
    settings.pruning.refit, settings.pruning.voters = refit, voters
    settings.tracking.tags = {"team": "red", "n": "1"} if refit else {}
    if redact(name) == name and name != "None":
        assert restore_settings(Settings, flatten_settings(settings)) == settings


def test_stored_settings_are_data() -> None:
    assert (
        restore_settings(Settings, {"model.name": "${oc.env:HOME}"}).model.name == "${oc.env:HOME}"
    )
    with pytest.raises(SettingError, match=r"sparsity=__import__\('os'\) as tracked"):
        restore_settings(Settings, {"sparsity": "__import__('os')"})


def test_what_was_done_before_there_was_a_setting_is_known() -> None:
    now = flatten_settings(Settings())
    for name, once in (("reconstruct_epochs", 0), ("export_dtype", "float32")):
        (key,) = [key for key in now if key.endswith(f".{name}")]
        old = restore_settings(Settings, {k: v for k, v in now.items() if k != key})
        group = getattr(old, key.split(".")[0])
        assert getattr(group, name) == once
        assert once != getattr(type(group)(), name), "or there would be nothing to know"
    assert restore_settings(Settings, now) == Settings()


plain = st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="$")


def no_number(text: str) -> bool:
    """Whether it is a path: one like 1e5 would come back as the number that it names."""
    return text == text.strip() and not re.match(r"-?\d+(\.\d+)?(e|$)|\[", text)


@bounds(deadline=None, max_examples=60)
@given(st.text(plain, min_size=1, max_size=30).filter(no_number))
def test_every_setting_reads_back_as_it_was(text: str) -> None:
    """Hydra's own parser is the judge: what a tracked path was, it is again."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    one = settings()
    one.model.path = text
    one.pruning.voters = ["wanda", "obs"]
    parser = OverridesParser.create()
    found = {}
    for override in parser.parse_overrides(overrides_of(flatten_settings(one))):
        value = override.value()
        found[override.key_or_group] = getattr(value, "text", value)
    if "://" not in text:
        assert str(found["model.path"]) == text
    assert found["model.hub_id"] is None
    assert [getattr(v, "text", v) for v in found["pruning.voters"]] == ["wanda", "obs"]
    assert float(found["sparsity"]) == one.sparsity
    assert restore_settings(Settings, flatten_settings(one)).sparsity == one.sparsity
