"""What is wrong is said in one line, with what to type instead."""

import pytest
from hydra.errors import ConfigCompositionException, MissingConfigException

from prune_exp.settings.explanation import explain_error
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


def test_a_launcher_that_is_not_installed_is_said_to_be_so() -> None:
    listed = "Available options in 'hydra/launcher':\n\tbasic\n\tjoblib\nConfig search path:\n\tx"
    error = MissingConfigException(
        f"In 'hydra/config': Could not find 'hydra/launcher/ray'\n\n{listed}", ""
    )
    assert explain_error(error) == (
        "hydra/launcher=ray is not installed; type pip install 'prune-exp[ray,postgresql]', or use"
        " one of basic, joblib"
    )
