"""What a study holds, read back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prune_exp.search import study as studies
from prune_exp.settings.groups import SearchSettings


def study_in(folder: Path, name: str) -> Any:
    import optuna

    storage = studies.storage_of(SearchSettings(), folder / "mlruns")
    return optuna.load_study(study_name=name, storage=storage)


def states(folder: Path, name: str) -> list[str]:
    return [trial.state.name for trial in study_in(folder, name).trials]


def sparsities(runs: Sequence[Any]) -> list[str]:
    return [run.data.params["sparsity"] for run in runs]
