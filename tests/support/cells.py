"""The kill matrix: who is killed, or fails, at which step, and what had a result by then."""

from dataclasses import dataclass

PRUNING = "prune_exp.pruning"
RECOVERY = (
    "recovery=distill",
    "recovery.minutes=null",
    "recovery.tokens=640",
    "recovery.context_tokens=32",
    "recovery.validation_blocks=4",
    "recovery.evaluate_every=5",
    "recovery.learning_rate=3e-3",
)
SPEED = ("benchmark=quick", "benchmark.prompts=2", "benchmark.new_tokens=2")
KILLED = -9


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One way to end, at one step of a sweep of two points."""

    who: str
    step: str
    where: str
    after: bool = False
    call: int = 1
    extra: tuple[str, ...] = ()
    kept: int = 0
    """Trials that have their result by then."""
    code: int = 1
    """Exit code of the first start."""
    disk: str = ""
    """Which folder is a small disk of its own: `mlruns` or `cache`."""
    cold: bool = False
    """Whether the cell has a cache of its own."""

    @property
    def deed(self) -> str:
        """What the fault does."""
        inside = self.step in IN_TRIAL
        return {
            "driver": "driver" if inside else "self",
            "trial": "self",
            "measured process": "child",
            "server": "server",
            "full disk": "fill",
            "NaN": "nan",
            "Ctrl-C": "interrupt",
        }[self.who]

    @property
    def name(self) -> str:
        """Of the test and of the table's row."""
        return f"{self.who}, {self.step}, {self.point}"

    @property
    def point(self) -> str:
        """The point of the code, for people."""
        moment = "after" if self.after else "before"
        nth = "" if self.call == 1 else f" (call {self.call})"
        return f"{moment} {self.where.rpartition(':')[2]}{nth}"


IN_TRIAL = ("calibration", "vote", "refit", "recovery", "export", "quality", "measurement")
CALIBRATE = f"{PRUNING}.calibration:calibrate_model"
VOTE = f"{PRUNING}.consensus:make_plan"
REFIT = f"{PRUNING}.surgery:carry_out_plan"
TRAIN = "prune_exp.recovery.checkpoints:save_state"
SAVE = "prune_exp.model.loading:save_model"
EXPORT = "prune_exp.model.export:export_model"
JUDGE = "prune_exp.measurement.quality:compare_quality"
MEASURE = "prune_exp.measurement.benchmark:measure_pair"
START = "prune_exp.tracking.runs:start_trial"
LOG = "prune_exp.tracking.runs:log_result"
END = "prune_exp.tracking.runs:end_trial"
SWEEP = "prune_exp.tracking.runs:start_sweep"
ASK = "prune_exp.search.study:ask_trials"
TELL = "prune_exp.search.study:tell_trial"
STORE = "prune_exp.registry.stored_models:_log_checkpoint"
STORED = "mlflow.tracking:MlflowClient.log_model_artifacts"
REGISTER = "prune_exp.registry.stored_models:ensure_version"
NAMED = "mlflow.tracking:MlflowClient.create_registered_model"
REPORT = "prune_exp.reporting.write:write_report"
PLACED = "prune_exp.reporting.write:_move_into_place"


def _cells(who: str, *rows: tuple[str, str, dict[str, object]]) -> list[Cell]:
    return [Cell(who=who, step=step, where=where, **how) for step, where, how in rows]  # pyright: ignore[reportArgumentType]


CELLS = [
    *_cells(
        "driver",
        ("sweep's start", SWEEP, {"after": True, "code": KILLED}),
        ("sweep's start", ASK, {"after": True, "code": KILLED}),
        ("trial's start", START, {"after": True, "code": KILLED}),
        ("calibration", CALIBRATE, {"code": KILLED}),
        ("vote", VOTE, {"code": KILLED}),
        ("refit", REFIT, {"code": KILLED}),
        ("recovery", TRAIN, {"after": True, "call": 2, "extra": RECOVERY, "code": KILLED}),
        ("export", SAVE, {"after": True, "code": KILLED}),
        ("quality", JUDGE, {"code": KILLED}),
        ("measurement", MEASURE, {"extra": SPEED, "code": KILLED}),
        ("result", LOG, {"after": True, "code": KILLED, "kept": 1}),
        ("MLflow end", END, {"code": KILLED, "kept": 1}),
        ("MLflow end", END, {"after": True, "code": KILLED, "kept": 1}),
        ("Optuna tell", TELL, {"code": KILLED, "kept": 1}),
        ("Optuna tell", TELL, {"after": True, "code": KILLED, "kept": 1}),
        ("storing", STORE, {"code": KILLED, "kept": 2}),
        ("storing", STORED, {"code": KILLED, "kept": 2}),
        ("storing", STORE, {"after": True, "code": KILLED, "kept": 2}),
        ("registration", NAMED, {"after": True, "code": KILLED, "kept": 2}),
        ("registration", REGISTER, {"after": True, "code": KILLED, "kept": 2}),
        ("report", REPORT, {"code": KILLED, "kept": 2}),
        ("report", PLACED, {"after": True, "call": 2, "code": KILLED, "kept": 2}),
    ),
    *_cells(
        "trial",
        ("calibration", CALIBRATE, {"kept": 1}),
        ("vote", VOTE, {"kept": 1}),
        ("refit", REFIT, {"kept": 1}),
        ("recovery", TRAIN, {"kept": 1, "extra": RECOVERY}),
        ("recovery", TRAIN, {"after": True, "kept": 1, "extra": RECOVERY}),
        ("export", SAVE, {"kept": 1}),
        ("export", EXPORT, {"after": True, "kept": 1}),
        ("export", EXPORT, {"kept": 1, "extra": RECOVERY}),
        ("quality", JUDGE, {"kept": 1}),
        ("measurement", MEASURE, {"kept": 1, "extra": SPEED}),
    ),
    *_cells(
        "measured process",
        (
            "measurement",
            "prune_exp.measurement.worker_client:ModelProcess.receive",
            {"kept": 1, "extra": SPEED},
        ),
        (
            "measurement",
            "prune_exp.measurement.worker_client:ModelProcess.send",
            {"call": 3, "kept": 1, "extra": SPEED},
        ),
    ),
    *_cells(
        "server",
        ("trial's start", START, {}),
        ("calibration", CALIBRATE, {}),
        ("vote", VOTE, {}),
        ("refit", REFIT, {}),
        ("recovery", TRAIN, {"extra": RECOVERY}),
        ("export", EXPORT, {}),
        ("quality", JUDGE, {}),
        ("measurement", MEASURE, {"extra": SPEED}),
        ("MLflow end", END, {"kept": 1}),
        ("Optuna tell", TELL, {"kept": 1}),
        ("storing", STORE, {"kept": 2}),
        ("registration", REGISTER, {"kept": 2}),
        ("report", REPORT, {"kept": 2}),
    ),
    *_cells(
        "full disk",
        ("calibration", CALIBRATE, {"disk": "cache", "cold": True}),
        ("vote", VOTE, {"disk": "mlruns"}),
        ("refit", REFIT, {"disk": "mlruns"}),
        ("recovery", TRAIN, {"disk": "cache", "extra": RECOVERY, "call": 2}),
        ("export", EXPORT, {"disk": "mlruns"}),
        ("quality", JUDGE, {"disk": "mlruns"}),
        ("measurement", MEASURE, {"disk": "mlruns", "extra": SPEED}),
        ("trial's start", START, {"disk": "mlruns", "call": 2, "kept": 1}),
        ("result", LOG, {"disk": "mlruns"}),
        ("MLflow end", END, {"disk": "mlruns", "kept": 1}),
        ("Optuna tell", TELL, {"disk": "mlruns", "kept": 1}),
        ("storing", STORE, {"disk": "mlruns", "kept": 2}),
        ("registration", REGISTER, {"disk": "mlruns", "kept": 2}),
        ("report", REPORT, {"disk": "mlruns", "kept": 2}),
    ),
    *_cells(
        "NaN",
        ("calibration", f"{PRUNING}.calibration:_read_layer", {"kept": 1, "cold": True}),
        ("vote", f"{PRUNING}.voters:wanda", {"kept": 1}),
        ("refit", f"{PRUNING}.least_squares:LeastSquares.solve", {"kept": 1}),
        (
            "refit",
            f"{PRUNING}.least_squares:LeastSquares.solve",
            {"kept": 1, "call": 2, "extra": ("quality=off",)},
        ),
        (
            "recovery",
            "prune_exp.recovery.distillation:distillation_loss",
            {"kept": 1, "extra": RECOVERY},
        ),
        (
            "recovery",
            "prune_exp.recovery.training:validation_loss",
            {"kept": 1, "extra": RECOVERY, "call": 2},
        ),
        ("quality", "prune_exp.measurement.quality:compare_block", {"kept": 1}),
    ),
    *_cells(
        "Ctrl-C",
        ("Optuna tell", TELL, {"code": 130, "kept": 1}),
        ("storing", STORE, {"code": 130, "kept": 2}),
        ("report", REPORT, {"code": 130, "kept": 2}),
    ),
]

PROMOTE = "prune_exp.registry.promotion"
ALIAS = f"{PROMOTE}:MlflowClient.set_registered_model_alias"
TAG = f"{PROMOTE}:MlflowClient.set_model_version_tag"
PROMOTIONS = [
    *_cells(
        "driver",
        ("promotion", REGISTER, {"after": True, "code": KILLED}),
        ("promotion", f"{PROMOTE}:_record_verdicts", {"code": KILLED}),
        ("promotion", TAG, {"after": True, "call": 3, "code": KILLED}),
        ("promotion", ALIAS, {"code": KILLED}),
        ("promotion", ALIAS, {"after": True, "code": KILLED}),
        ("promotion", ALIAS, {"after": True, "call": 2, "code": KILLED}),
        ("rollback", ALIAS, {"after": True, "code": KILLED}),
        (
            "rollback",
            f"{PROMOTE}:MlflowClient.delete_registered_model_alias",
            {"after": True, "code": KILLED},
        ),
    ),
    *_cells(
        "full disk",
        ("promotion", f"{PROMOTE}:_record_verdicts", {"disk": "mlruns"}),
        ("promotion", f"{PROMOTE}:_move_champion", {"disk": "mlruns"}),
        ("rollback", f"{PROMOTE}:_finish_move", {"disk": "mlruns", "call": 2}),
    ),
]
WHO = ("driver", "trial", "measured process", "server", "full disk", "NaN", "Ctrl-C")
FIRST_LINE = (
    "<!-- the kill matrix: written by WRITE_KILLS=1 pytest tests/end_to_end/test_kill_table.py -->"
)
LAST_LINE = "<!-- end of the kill matrix -->"


def make_table() -> str:
    """All cells: a row for each step, a column for each way to end."""
    cells = [*CELLS, *PROMOTIONS]
    lines = [f"| step | {' | '.join(WHO)} |", f"|{' --- |' * (len(WHO) + 1)}"]
    for step in dict.fromkeys(cell.step for cell in cells):
        found = [
            ", ".join(one.point for one in cells if (one.step, one.who) == (step, who))
            for who in WHO
        ]
        lines.append(f"| {step} | {' | '.join(found)} |")
    lines.append(f"\n{len(cells)} cells.")
    return "\n".join(lines)
