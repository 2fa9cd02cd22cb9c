"""`python -m prune_exp.rivals`: pruned models and quantized dense ones, at equal size."""

from prune_exp.settings.command import run_command
from prune_exp.settings.command_schemas import RivalSettings


def main() -> None:
    """Composes `conf/rivals.yaml` and acts on it."""
    run_command("rivals", RivalSettings, compare)


def compare(settings: RivalSettings) -> int:
    """Returns the exit code; `prune_exp.shipping.rivals` says what is raised."""
    from prune_exp.shipping.rivals import compare_rivals

    return compare_rivals(settings)


if __name__ == "__main__":
    main()
