"""`python -m prune_exp.promote`: a stored model is judged by all gates and made the champion."""

from prune_exp.settings.command import run_command
from prune_exp.settings.command_schemas import PromoteSettings


def main() -> None:
    """Composes `conf/promote.yaml` and acts on it."""
    run_command("promote", PromoteSettings, promote)


def promote(settings: PromoteSettings) -> int:
    """Returns the exit code; `prune_exp.registry.promotion` says what is raised."""
    from prune_exp.registry.promotion import promote_model

    return promote_model(settings)


if __name__ == "__main__":
    main()
