"""An option that leaves a setting to the user is not run without it."""

from pathlib import Path

import pytest

from prune_exp.settings.errors import SettingError
from prune_exp.settings.unfilled import check_filled
from support.composed import compose_trial

GIVEN = ["model=folder", "model.path=m", "data=file", "data.path=t"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=folder"], "model=folder needs model.path; type model.path=..."),
        (["data=file"], "data=file needs data.path; type data.path=..."),
        (["model=hub", "model.path=m"], "model=hub needs model.hub_id"),
        (["model=hub", "model.hub_id=a/b"], "model=hub needs model.revision"),
        (["tracking=server"], "tracking=server needs tracking.uri; type tracking.uri=..."),
        ([*GIVEN, "tracking=server"], "tracking=server needs tracking.uri"),
    ],
)
def test_what_an_option_leaves_open_must_be_given(overrides: list[str], said: str) -> None:
    config = compose_trial(*overrides)
    with pytest.raises(SettingError) as refused:
        check_filled(config, config.hydra)
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        GIVEN,
        ["tracking=server", "tracking.uri=http://here"],
        ["data=file", "data.path=null", "data.mix=[a.txt,b.txt]"],
        ["experiment=search"],
    ],
)
def test_what_is_given_is_enough(overrides: list[str]) -> None:
    config = compose_trial(*overrides)
    check_filled(config, config.hydra)


def test_options_of_the_users_own_are_heeded(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nquality:\n  max_perplexity_ratio: ???\n", encoding="utf-8"
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "ours.yaml").write_text("path: ???\n", encoding="utf-8")
    config = compose_trial("model=ours", config_dir=tmp_path)
    with pytest.raises(SettingError, match=r"model=ours needs model\.path"):
        check_filled(config, config.hydra)
    given = ["model=ours", "model.path=m", "experiment=mine"]
    config = compose_trial(*given, config_dir=tmp_path)
    with pytest.raises(SettingError, match=r"experiment=mine needs quality\.max_perplexity_ratio"):
        check_filled(config, config.hydra)
    config = compose_trial(*given, "quality.max_perplexity_ratio=1.1", config_dir=tmp_path)
    check_filled(config, config.hydra)
