"""MLflow's pages on a local store: `python -m prune_exp.tracking.ui [FOLDER]`, or `make ui`."""

import os
import sys

from prune_exp.settings.command import end_in_one_line
from prune_exp.settings.groups import TrackingSettings

SERVER = "http://127.0.0.1:5000/"
"""Where `mlflow ui` answers unless it is told otherwise."""


def main() -> None:
    """Finds the files of a store that was moved, says which page to open, and starts the server."""
    with end_in_one_line("prune_exp.tracking.ui"):
        command = prepare_pages(TrackingSettings(root=(sys.argv[1:] or ["mlruns"])[0]))
    os.execv(sys.executable, command)


def prepare_pages(tracking: TrackingSettings) -> list[str]:
    """The command line of the server; prints the address of the experiment's page.

    Raises:
        SettingError: there is no store in that folder.
    """
    from prune_exp.tracking.read import store_uri
    from prune_exp.tracking.store import use_store
    from prune_exp.tracking.views import find_page

    use_store(tracking)
    print(f"open {SERVER}{find_page(tracking.experiment)}", flush=True)
    return [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store_uri(tracking)]


if __name__ == "__main__":
    main()
