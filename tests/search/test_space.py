"""What a command line sweeps."""

import pytest

from prune_exp.search.space import read_space, swept_by
from prune_exp.settings.errors import SettingError


def test_the_space_of_another_sweeper_is_read_too() -> None:
    swept = swept_by(["a=1,2", "b=3", "c=range(1,4)", "d=[1,2]"])
    assert swept == {"a": "1,2", "c": "range(1,4)"}


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("a=int(interval(0.1, 0.5))", "holds no two whole numbers: int() cuts both ends to 0"),
        ("a=interval(0.5, 0.1)", "it needs low < high"),
        ("a=tag(log, interval(0, 1))", "low > 0 for log"),
    ],
)
def test_an_interval_without_numbers_in_it_is_refused(sweep: str, said: str) -> None:
    with pytest.raises(SettingError, match="try a=interval") as refused:
        read_space([sweep], [], None)
    assert said in str(refused.value)
