"""`python -m prune_exp.report`: the report of a sweep or a trial again, from the store alone."""

from prune_exp.settings.command import run_command
from prune_exp.settings.command_schemas import ReportSettings


def main() -> None:
    """Composes `conf/report.yaml` and acts on it."""
    run_command("report", ReportSettings, report)


def report(settings: ReportSettings) -> int:
    """Returns the exit code; `prune_exp.reporting.write` says what is raised."""
    from prune_exp.reporting.write import report_run

    return report_run(settings)


if __name__ == "__main__":
    main()
