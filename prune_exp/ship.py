"""`python -m prune_exp.ship`: a stored model as files that other runtimes open, each compared."""

from prune_exp.settings.command import run_command
from prune_exp.settings.command_schemas import ShipSettings


def main() -> None:
    """Composes `conf/ship.yaml` and acts on it."""
    run_command("ship", ShipSettings, ship)


def ship(settings: ShipSettings) -> int:
    """Returns the exit code; `prune_exp.shipping.ship` says what is raised."""
    from prune_exp.shipping.ship import ship_model

    return ship_model(settings)


if __name__ == "__main__":
    main()
