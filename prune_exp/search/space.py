"""What a sweep covers, read from Hydra's override grammar.

Lists and ranges are enumerated, intervals are searched; with both, the search goes on within each
listed point in turn.
"""

import itertools
import math
import random
from collections.abc import Mapping, Set
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from prune_exp.settings.errors import SettingError

SIZE = "sparsity"
"""The setting that trades what is gained for what is kept."""
DECIMALS = 12
"""After the point, of the numbers of a range."""
SEARCH = "search"
"""Tag of lists and ranges that are searched, as in `tag(search,choice(a,b))`."""


@dataclass(frozen=True, kw_only=True)
class SearchRange:
    """A setting's range, ends included."""

    low: float
    high: float
    integer: bool
    log: bool
    step: float | None = None
    """Between two values; None where all are allowed."""

    def nearest(self, setting: str | None) -> float:
        """What is nearest to a setting as it is written; the middle where that is no number."""
        try:
            wanted = float(setting or "")
        except ValueError:
            wanted = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        found = min(max(wanted, self.low), self.high)
        step = self.step or (1 if self.integer else None)
        if step is None:
            return float(found)
        steps = round((found - self.low) / step)
        return type(self.low)(self.low + steps * step)

    def describe(self) -> str:
        """As it would be typed, though a range's end is excluded there."""
        if self.step is not None:
            return f"tag(search,range({self.low:g},{self.high:g},step={self.step:g}))"
        inner = f"interval({self.low:g},{self.high:g})"
        inner = f"int({inner})" if self.integer else inner
        return f"tag(log,{inner})" if self.log else inner


@dataclass(frozen=True, kw_only=True)
class SearchChoice:
    """Values of a setting, or options of a group, that are searched and not listed."""

    values: tuple[str, ...]

    def nearest(self, setting: str | None) -> str:
        """A setting as it is written where that is one of the values, else the first of them."""
        return setting if setting is not None and setting in self.values else self.values[0]

    def describe(self) -> str:
        """As it is typed."""
        return f"tag({SEARCH},choice({','.join(self.values)}))"


@dataclass(frozen=True, kw_only=True)
class Space:
    """The sweep's overrides by kind."""

    fixed: tuple[str, ...]
    """Overrides with one value, the same for every trial."""
    listed: dict[str, tuple[str, ...]]
    searched: "dict[str, SearchRange | SearchChoice]"
    starts: tuple[Mapping[str, Any], ...] = ()
    """Values of all that is searched that are tried first."""

    @property
    def rows(self) -> list[dict[str, str]]:
        """The product of all lists; one empty row without lists."""
        product = itertools.product(*self.listed.values())
        return [dict(zip(self.listed, values, strict=True)) for values in product]

    def overrides(self, values: dict[str, Any]) -> list[str]:
        """What to compose a trial from."""
        return [*self.fixed, *(f"{key}={self._write(key, value)}" for key, value in values.items())]

    def _write(self, key: str, value: Any) -> str:
        """Without the dust that adding up steps leaves in a number."""
        one = self.searched.get(key)
        stepped = isinstance(one, SearchRange) and one.step is not None and not one.integer
        return f"{value:.12g}" if stepped else str(value)

    @property
    def corners(self) -> list[list[str]]:
        """Overrides of every listed point and searched choice, with all intervals at both ends.

        If these can be composed and checked, no point inside should surprise.
        """
        ranges = {k: one for k, one in self.searched.items() if isinstance(one, SearchRange)}
        ends = [
            {key: one.low for key, one in ranges.items()},
            {key: one.high for key, one in ranges.items()},
        ]
        chosen = {
            k: one.values for k, one in self.searched.items() if isinstance(one, SearchChoice)
        }
        choices = [
            dict(zip(chosen, values, strict=True)) for values in itertools.product(*chosen.values())
        ]
        return [
            self.overrides(row | choice | end)
            for row in self.rows
            for choice in choices
            for end in ends[: 2 if ranges else 1]
        ]

    def describe(self) -> dict[str, str]:
        """Each swept setting and what it may be, for comparing two spaces."""
        shown = {key: ",".join(values) for key, values in self.listed.items()}
        return shown | {key: one.describe() for key, one in self.searched.items()}


def starts_of(space: Space, configured: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
    """Both ends of the sparsities, with everything else as it is configured, or nearly so.

    Empty where no interval of sparsities is searched. A front begins and ends there, and samplers
    that begin at random seldom try either end.
    """
    size = space.searched.get(SIZE)
    if not isinstance(size, SearchRange):
        return ()
    others = {
        key: one.nearest(configured.get(key)) for key, one in space.searched.items() if key != SIZE
    }
    return tuple(
        {key: end if key == SIZE else others[key] for key in space.searched}
        for end in (size.low, size.high)
    )


def read_space(arguments: list[str], default: list[str], config_loader: Any) -> Space:
    """Sorts a command line's overrides.

    `default` sweeps count when the command line has none of its own and gives none of their
    settings a value: `sparsity=0.5` is a list of one.

    Raises:
        SettingError: a sweep is neither a list nor a range nor an interval, or of a goal.
    """
    space = _sort_overrides(arguments, config_loader)
    for key in space.listed.keys() | space.searched.keys():
        if key.startswith("goal."):
            raise SettingError(f"{key} is one goal for all trials; give it one value")
    if space.searched:
        return space
    swept = _sort_overrides(default, config_loader)
    keys = swept.listed.keys() | swept.searched.keys()
    if space.listed or any(_key_of(text) in keys for text in space.fixed):
        return _list_single_values(space, keys)
    return _sort_overrides([*space.fixed, *default], config_loader)


def _key_of(override: str) -> str:
    return override.lstrip("+").partition("=")[0]


def _list_single_values(space: Space, keys: Set[str]) -> Space:
    """The same points, with what is often swept as lists of one, which may be longer next time."""
    single = {
        _key_of(text): (text.partition("=")[2],) for text in space.fixed if _key_of(text) in keys
    }
    fixed = tuple(text for text in space.fixed if _key_of(text) not in single)
    return Space(fixed=fixed, listed=space.listed | single, searched={})


def swept_by(arguments: list[str]) -> dict[str, str]:
    """What a command line sweeps under another sweeper, as far as this grammar reads it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(arguments)
    swept = [one for one in parsed if one.is_sweep_override()]
    return {one.get_key_element(): str(one.input_line).partition("=")[2] for one in swept}


def _sort_overrides(arguments: list[str], config_loader: Any) -> Space:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create(config_loader=config_loader)
    fixed: dict[str, str] = {}
    listed: dict[str, tuple[str, ...]] = {}
    searched: dict[str, SearchRange | SearchChoice] = {}
    for override in parser.parse_overrides(arguments):
        key = override.get_key_element()
        for earlier in (fixed, listed, searched):
            earlier.pop(key, None)
        if not override.is_sweep_override():
            fixed[key] = str(override.input_line)
        elif override.is_discrete_sweep() and SEARCH in _tags_of(override):
            searched[key] = _searched_of(override)
        elif override.is_discrete_sweep():
            listed[key] = _values_of(override)
        elif override.is_interval_sweep():
            searched[key] = _range_of(override)
        else:
            raise SettingError(
                f"{override.input_line} is no list and no interval; try {key}=0.3,0.5 or"
                f" {key}=interval(0.3,0.5)"
            )
    return Space(fixed=tuple(fixed.values()), listed=listed, searched=searched)


def _tags_of(override: Any) -> Set[str]:
    return getattr(override.value(), "tags", set())


def _values_of(override: Any) -> tuple[str, ...]:
    """The values of a list or a range, each once, as they would be typed.

    The values of a range are start, start + step and so on, up to its end, which is left out; in
    the decimal numbers that were typed, since binary ones may step over the end or just short of
    it.
    """
    sweep = override.value()
    if not override.is_range_sweep() or isinstance(sweep.range(), range):
        return tuple(dict.fromkeys(override.sweep_string_iterator()))
    given = (sweep.start, sweep.stop, sweep.step)
    start, stop, step = (Decimal(repr(round(float(one), DECIMALS))) for one in given)
    if not step:
        raise SettingError(f"{override.input_line} never ends: its step is 0; give another step")
    values = [str(float(start + at * step)) for at in range(math.ceil((stop - start) / step))]
    if sweep.shuffle:
        random.shuffle(values)
    return tuple(values)


def _searched_of(override: Any) -> SearchRange | SearchChoice:
    """A list or a range that is searched.

    Raises:
        SettingError: it has but one value, or steps on a log scale.
    """
    values = _values_of(override)
    if len(values) < 2:
        raise SettingError(f"{override.input_line} has one value and nothing to search; give more")
    if not override.is_range_sweep():
        return SearchChoice(values=values)
    if "log" in _tags_of(override):
        raise SettingError(
            f"{override.input_line} has steps, which a log scale cannot have; use"
            f" {override.get_key_element()}=tag(log,interval({values[0]},{values[-1]}))"
        )
    integer = all(value.lstrip("-").isdigit() for value in values)
    kind = int if integer else float
    low, high = sorted(map(kind, (values[0], values[-1])))
    step = abs(kind(override.value().step))
    return SearchRange(low=low, high=high, integer=integer, log=False, step=step)


def _range_of(override: Any) -> SearchRange:
    sweep = override.value()
    low = sweep.start
    high = sweep.end
    log = "log" in sweep.tags
    key = override.get_key_element()
    if low == high and str(override.input_line).startswith(f"{key}=int("):
        raise SettingError(
            f"{override.input_line} holds no two whole numbers: int() cuts both ends to {low}; try"
            f" {key}=interval(0.1,0.9), or wider ends"
        )
    if not low < high or (log and low <= 0):
        raise SettingError(
            f"{override.input_line} is not an interval to search: it needs low < high"
            f"{', and low > 0 for log' if log else ''}; try {key}=interval(0.1,0.9)"
        )
    integer = isinstance(low, int) and isinstance(high, int)
    return SearchRange(low=low, high=high, integer=integer, log=log)
