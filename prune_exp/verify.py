"""`python -m prune_exp.verify`: a registered model's files are checked before they are loaded."""

from prune_exp.settings.command import run_command
from prune_exp.settings.command_schemas import VerifySettings


def main() -> None:
    """Composes `conf/verify.yaml` and acts on it."""
    run_command("verify", VerifySettings, verify)


def verify(settings: VerifySettings) -> int:
    """Returns the exit code; `prune_exp.registry.verification` says what is raised."""
    from prune_exp.registry.verification import verify_model

    return verify_model(settings)


if __name__ == "__main__":
    main()
