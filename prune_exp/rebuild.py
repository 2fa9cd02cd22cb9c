"""`python -m prune_exp.rebuild`: a trial's model again, from its stored plan and settings."""

from prune_exp.settings.command import run_command
from prune_exp.settings.command_schemas import RebuildSettings


def main() -> None:
    """Composes `conf/rebuild.yaml` and acts on it."""
    run_command("rebuild", RebuildSettings, rebuild)


def rebuild(settings: RebuildSettings) -> int:
    """Returns the exit code; `prune_exp.trial.rebuild` says what is raised."""
    from prune_exp.trial.rebuild import rebuild_trial

    return rebuild_trial(settings)


if __name__ == "__main__":
    main()
