"""Measures the dense model against itself: what a trial calls a speedup when there is none.

`python -m prune_exp.self_check [repetitions=N] [key=value ...]` takes the settings of
`python -m prune_exp` and goes through the same `benchmark.measure_pair` as a trial. It composes the
config without starting Hydra's app: nothing is tracked, so there is no output folder, no run and no
sweep to open.
"""

import argparse
import sys
import time
from pathlib import Path

from prune_exp.measurement.records import Interval, SpeedComparison
from prune_exp.settings.command import end_in_one_line
from prune_exp.settings.errors import SettingError
from prune_exp.settings.schema import Settings, store_schema

REPETITIONS = "repetitions"
WIDEST_PCT = 5.0
"""An interval at least this wide, as a percentage of the ratio, is not good enough."""
CHANCE = 0.05
"""How rarely sound intervals may contain 1 as seldom as what is then called unsound."""


def main() -> None:
    """Exit code 0: the intervals contain 1 and are narrow. 1: they do not, or an error."""
    parser = argparse.ArgumentParser(
        prog="python -m prune_exp.self_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repetitions", metavar="N", help="the same as repetitions=N")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="repetitions=20: so many checks, each in new processes; or a setting of a trial, such"
        " as benchmark.threads=2 (conf/README.md)",
    )
    given = parser.parse_args()
    alone = [] if given.repetitions is None else [f"{REPETITIONS}={given.repetitions}"]
    with end_in_one_line("prune_exp.self_check"):
        repetitions, overrides = take_repetitions([*alone, *given.settings])
        passed = check_repeatedly(compose_settings(overrides), repetitions)
    sys.exit(0 if passed else 1)


def take_repetitions(given: list[str]) -> tuple[int, list[str]]:
    """How many checks are asked for, the last word counting, and everything else.

    Raises:
        SettingError: that is no whole number from 1 on.
    """
    start = f"{REPETITIONS}="
    asked = [one.removeprefix(start) for one in given if one.startswith(start)]
    wrong = [text for text in asked if not text.isascii() or not text.isdigit() or not int(text)]
    if wrong:
        raise SettingError(
            f"{REPETITIONS}={wrong[0]} is no whole number of 1 or more; try {REPETITIONS}=20"
        )
    return int(asked[-1]) if asked else 1, [one for one in given if not one.startswith(start)]


def compose_settings(overrides: list[str]) -> Settings:
    """The settings of a trial with these overrides; `benchmark=self_check` unless they say else.

    Raises:
        SettingError: a value is outside what it may be.
    """
    import hydra

    from prune_exp.search.sweeper import register_sweeper
    from prune_exp.settings.checks import read_config
    from prune_exp.settings.config_tree import conf_dir

    store_schema()
    register_sweeper()
    with hydra.initialize_config_dir(str(conf_dir().absolute()), version_base="1.3"):
        return read_config(hydra.compose("config", ["benchmark=self_check", *overrides]))


def check_repeatedly(settings: Settings, repetitions: int) -> bool:
    """Measures and prints one line a repetition, then the verdict; true when it is good."""
    intervals: list[Interval] = []
    for number in range(1, repetitions + 1):
        start = time.perf_counter()
        found = measure_itself(settings)
        intervals.append(found.speedup)
        print(f"{number}: {describe_check(found, time.perf_counter() - start)}", flush=True)
    text, passed = sum_up(intervals)
    print(text)
    return passed


def measure_itself(settings: Settings) -> SpeedComparison:
    """The dense model on both sides, measured as a trial does it."""
    from prune_exp.machine.device import choose_device
    from prune_exp.measurement.benchmark import SIDES, measure_pair
    from prune_exp.measurement.prompts import read_prompts, tokenize_prompts
    from prune_exp.measurement.serving import check_serving, longest_request
    from prune_exp.model import loading
    from prune_exp.model.sources import locate_model

    folder = locate_model(settings.model, Path(settings.cache_dir).expanduser()).folder
    tokenizer = loading.load_tokenizer(folder)
    prompts = tokenize_prompts(
        read_prompts(settings.benchmark),
        dict.fromkeys(SIDES, tokenizer),
        as_chat=settings.benchmark.chat,
    )
    device = choose_device(settings.device)
    config = loading.load_skeleton(folder).config
    longest = longest_request(prompts["dense"], settings.benchmark)
    check_serving(settings.benchmark, config, longest, device)
    return measure_pair(folder, folder, prompts, settings.benchmark, device=device)


def describe_check(found: SpeedComparison, seconds: float) -> str:
    """One check: ratio, interval, width, what it took, and how busy the machine was."""
    ratio = found.speedup
    machine = found.machine
    return (
        f"ratio {ratio.value:.4f}, 95 % interval {ratio.low:.4f} to {ratio.high:.4f},"
        f" width {ratio.width_pct:.2f} %, {'contains' if contains_one(ratio) else 'excludes'} 1.00;"
        f" {found.pairs} pairs (stopped by {found.stopped_by}), {found.measured_s:.0f} s of"
        f" {seconds:.0f} s; start-up {found.dense.startup_s:.1f} s, load per core"
        f" {machine.load_per_core_start:.2f}, busy {machine.busy_pct_start:.0f} %"
    )


def contains_one(ratio: Interval) -> bool:
    """Whether no difference is within the interval."""
    return ratio.low <= 1 <= ratio.high


def least_containing(repetitions: int) -> int:
    """How many of so many 95 % intervals must contain 1 to be believed."""
    from scipy.stats import binom

    return int(binom.ppf(CHANCE, repetitions, 0.95))


def _tell_coverage(intervals: list[Interval]) -> str:
    """Between what the share that holds the truth may lie, by as many checks (Clopper-Pearson)."""
    if len(intervals) == 1:
        return ""
    from scipy.stats import binomtest

    containing = sum(contains_one(one) for one in intervals)
    low, high = binomtest(containing, len(intervals)).proportion_ci(0.95)
    least = least_containing(len(intervals))
    return f", {least} are asked for, which says that {100 * low:.0f} to {100 * high:.0f} % do"


def sum_up(intervals: list[Interval]) -> tuple[str, bool]:
    """What the checks amount to, in words, and whether it is good."""
    containing = sum(contains_one(one) for one in intervals)
    widest = max(one.width_pct for one in intervals)
    sound = containing >= least_containing(len(intervals))
    narrow = widest < WIDEST_PCT
    if len(intervals) == 1:
        sound = containing == 1
    text = (
        f"{containing} of {len(intervals)} intervals contain 1.00{_tell_coverage(intervals)}; the"
        f" widest is {widest:.2f} %"
        f" ({'under' if narrow else 'not under'} {WIDEST_PCT:g} %): "
    )
    return text + ("passed" if sound and narrow else "not passed"), sound and narrow
