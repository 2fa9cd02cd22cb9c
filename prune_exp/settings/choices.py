"""The values that settings with a choice may have, and how others are refused."""

import re
from collections.abc import Sequence

from prune_exp.settings.errors import SettingError

BALLOTS = ("adaptive", "fixed")
DEVICES = ("cpu", "cuda", "auto")
EXPORT_DTYPES = ("auto", "float32", "bfloat16", "float16")
CALIBRATIONS = ("documents", "generated")
REFIT_DTYPES = ("auto", "float32", "bfloat16")
METHODS = ("structured", "weight_masks", "stochastic")
UNITS = ("layers", "heads", "mlp", "vocab")
HEAD_UNITS = ("group", "query")
BEST_RULES = ("speedup_if_maintained", "quality", "speedup")
LOG_MODELS = ("best", "all", "none")
LARGEST_KEPT = "largest_kept"
SAMPLERS = ("tpe", "random", "nsgaii", "gp", "qmc", LARGEST_KEPT)
RECOVERIES = ("none", "distill")
RECOVERY_TEXTS = ("calibration", "generated", "both")
RECOVERY_DTYPES = ("auto", "float32", "bfloat16")
TURNS = ("token", "request")
BACKENDS = ("transformers", "onnxruntime", "openvino", "llama_cpp")
RUNTIME_DTYPES = ("float32", "bfloat16", "auto")
RUNTIME_CACHES = ("dynamic", "static")
DIRECTIONS = ("minimize", "maximize")


def check_name(setting: str, value: str) -> None:
    """Raises SettingError unless a name is safe in registries, queries and paths."""
    if not re.fullmatch(r"\w[\w. -]{0,99}", value):
        raise SettingError(
            f"{setting}={value} is no name: letters, digits, dots, dashes, underscores and spaces,"
            " at most 100"
        )


def check_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises SettingError with the valid names, the nearest first, unless `value` is one."""
    if value not in allowed:
        raise SettingError(describe_unknown(name, value, allowed))


def describe_unknown(name: str, value: str, allowed: Sequence[str]) -> str:
    """Says that a value is not one of the allowed ones, and which is nearest."""
    from difflib import get_close_matches

    near = get_close_matches(value, allowed, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{name}={value} is unknown; use one of {', '.join(allowed)}{hint}"
