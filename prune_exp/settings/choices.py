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
BEST_RULES = ("speedup_if_maintained", "size_if_maintained", "quality", "speedup")
LOG_MODELS = ("best", "all", "none")
SERVED_AS = ("text", "chat", "completions")
LARGEST_KEPT = "largest_kept"
SAMPLERS = ("tpe", "random", "nsgaii", "nsgaiii", "gp", "qmc", "cmaes", LARGEST_KEPT)
FROM_HUB = "hub:"
"""What the name of a sampler of OptunaHub begins with: hub:PACKAGE@COMMIT."""
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


def check_sampler_name(value: str) -> None:
    """Raises SettingError unless a sampler is one of ours, or of OptunaHub at a commit."""
    if not value.startswith(FROM_HUB):
        check_one_of("search.sampler", value, SAMPLERS)
    elif not re.fullmatch(r"hub:[\w./-]+@[0-9a-f]{7,40}", value):
        raise SettingError(
            f"search.sampler={value} names no sampler at a commit; its code comes from the"
            " network and is run, so pin it, as in search.sampler=hub:samplers/auto_sampler@COMMIT"
        )


def describe_unknown(name: str, value: str, allowed: Sequence[str]) -> str:
    """Says that a value is not one of the allowed ones, and which is nearest."""
    from difflib import get_close_matches

    near = get_close_matches(value, allowed, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{name}={value} is unknown; use one of {', '.join(allowed)}{hint}"
