"""Refuses settings of the pruning that cannot work."""

from collections import Counter

from prune_exp.settings.choices import (
    BALLOTS,
    HEAD_UNITS,
    METHODS,
    REFIT_DTYPES,
    UNITS,
    check_one_of,
)
from prune_exp.settings.errors import SettingError
from prune_exp.settings.groups import DataSettings, PruningSettings


def check_pruning(pruning: PruningSettings, calibration_blocks: int) -> None:
    """Raises SettingError where a pruning setting cannot work."""
    check_one_of("pruning.method", pruning.method, METHODS)
    check_one_of("pruning.ballot", pruning.ballot, BALLOTS)
    check_one_of("pruning.head_unit", pruning.head_unit, HEAD_UNITS)
    check_one_of("pruning.refit_dtype", pruning.refit_dtype, REFIT_DTYPES)
    for unit in pruning.units:
        check_one_of("pruning.units", unit, UNITS)
    if not pruning.units:
        raise SettingError(f"pruning.units is empty; name some of {', '.join(UNITS)}")
    if not pruning.voters:
        raise SettingError("pruning.voters is empty; try pruning.voters=[wanda,gradient]")
    twice = [name for name, count in Counter(pruning.voters).items() if count > 1]
    if twice:
        raise SettingError(
            f"pruning.voters names {', '.join(twice)} more than once, and every voter has one vote;"
            f" try pruning.voters=[{','.join(dict.fromkeys(pruning.voters))}]"
        )
    for name in (
        "depth_share",
        "heads_share",
        "vocab_share",
        "keep_share",
        "refit_towards_dense",
    ):
        if not 0 <= getattr(pruning, name) <= 1:
            given = getattr(pruning, name)
            raise SettingError(f"pruning.{name}={given:g} is not in [0, 1]; try pruning.{name}=0.5")
    _check_rehearsal(pruning, calibration_blocks)


def _check_rehearsal(pruning: PruningSettings, calibration_blocks: int) -> None:
    for name in ("rehearse", "rehearse_vocab"):
        shares = getattr(pruning, name)
        for share in shares:
            if not 0 <= share <= 1:
                raise SettingError(
                    f"pruning.{name} holds {share:g}, which is not in [0, 1]; try"
                    f" pruning.{name}=[0.35,0.65]"
                )
        if shares and not pruning.refit:
            raise SettingError(
                f"pruning.{name} judges plans after a refit; use pruning.refit=true or leave it out"
            )
        if shares and pruning.ballot != "adaptive":
            raise SettingError(
                f"pruning.{name} compares plans of one size; use pruning.ballot=adaptive or leave"
                " it out"
            )
        if shares and calibration_blocks < 2:
            raise SettingError(
                f"pruning.{name} needs a block to refit on and one to judge by; use"
                " data.calibration_blocks=2 or more"
            )
    if pruning.rehearse_vocab and "vocab" not in pruning.units:
        raise SettingError(
            "pruning.rehearse_vocab takes tokens, which pruning.units leaves out; type"
            " pruning.units=[layers,heads,mlp,vocab]"
        )


def check_election(pruning: PruningSettings, data: DataSettings) -> None:
    """Raises SettingError where nobody can be elected."""
    if not pruning.elect:
        return
    needed = {
        "pruning.method=structured": pruning.method == "structured",
        "pruning.ballot=adaptive": pruning.ballot == "adaptive",
        "pruning.refit=true": pruning.refit,
    }
    for instead, given in needed.items():
        if not given:
            raise SettingError(
                "pruning.elect=true compares plans of one size after a refit, which needs"
                f" {instead}; use that, or pruning.elect=false"
            )
    read = max(data.voting_blocks, data.gradient_blocks)
    if data.calibration_blocks <= read:
        raise SettingError(
            f"pruning.elect=true needs blocks that no voter reads, and they read {read} of"
            f" data.calibration_blocks={data.calibration_blocks}; use"
            f" data.calibration_blocks={3 * read}, or fewer data.voting_blocks"
        )
