"""What is wrong is said in one line, with what to type instead."""

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.errors import (
    ConfigCompositionException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf

from prune_exp.settings.config_tree import conf_dir
from prune_exp.settings.explanation import explain_error
from prune_exp.settings.reference import COMMANDS
from support.composed import compose_trial


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sparsity=0.3,0.5", "sparsity=0.3,0.5 is several values; put -m in front"),
        ("model=folder,hub", "model=folder,hub is several values; put -m in front"),
        ("search.objectives=speedup", "is no list; type search.objectives=[speedup]"),
        ("benchmark.batch_sizes=8", "is no list; type benchmark.batch_sizes=[8]"),
        ("hydra/launcher=submitit_loca", "hydra/launcher=submitit_loca is unknown; use one of"),
        ("hydra/sweeper=optuna", "hydra/sweeper=optuna is unknown; use one of basic, prune_exp"),
    ],
)
def test_what_hydra_refuses_is_said_with_what_to_type(override: str, said: str) -> None:
    with pytest.raises((ConfigCompositionException, MissingConfigException)) as refused:
        compose_trial(override)
    explained = explain_error(refused.value)
    assert said in explained
    assert "\n" not in explained


@pytest.mark.parametrize("override", ["model.path=~/m", "data.path=a[1", "data.path=my text (2)"])
def test_what_needs_quotes_is_said_and_is_right(override: str) -> None:
    with pytest.raises(OverrideParseException) as refused:
        compose_trial(override)
    explained = explain_error(refused.value)
    assert "\n" not in explained
    typed = explained.rpartition(": ")[2].strip('"')
    key, _, value = override.partition("=")
    assert OmegaConf.select(compose_trial(typed), key) == value


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tracking.uri=postgresql://me:p(w@host/db", "postgresql://***@host/db"),
        ("sparsity=intervall(0.1,0.5)", "Unknown function 'intervall'"),
        ("sparsity=interval(0.1)", "missing a required argument"),
    ],
)
def test_what_no_quotes_would_mend_keeps_its_reason(override: str, said: str) -> None:
    with pytest.raises(OverrideParseException) as refused:
        compose_trial(override)
    explained = explain_error(refused.value)
    assert said in explained
    assert "p(w" not in explained


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_help_of_a_command_shows_what_it_takes_and_nothing_else(name: str) -> None:
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        ConfigStore.instance().store(name=f"{name}_schema", node=COMMANDS[name])
        node = hydra.compose(name, return_hydra_config=True).hydra
        shown = OmegaConf.to_container(node.help, resolve=False)
    assert isinstance(shown, dict)
    text = str(shown["template"])
    assert f"python -m prune_exp.{name}" in text
    assert "$CONFIG" in text
    assert "$APP_CONFIG_GROUPS" not in text
    assert "$HEADER" not in text


def test_a_launcher_that_is_not_installed_is_said_to_be_so() -> None:
    listed = "Available options in 'hydra/launcher':\n\tbasic\n\tjoblib\nConfig search path:\n\tx"
    error = MissingConfigException(
        f"In 'hydra/config': Could not find 'hydra/launcher/ray'\n\n{listed}", ""
    )
    assert explain_error(error) == (
        "hydra/launcher=ray is not installed; type pip install 'prune-exp[ray,postgresql]', or use"
        " one of basic, joblib"
    )
