"""What a command line sweeps."""

from prune_exp.search.space import swept_by


def test_the_space_of_another_sweeper_is_read_too() -> None:
    swept = swept_by(["a=1,2", "b=3", "c=range(1,4)", "d=[1,2]"])
    assert swept == {"a": "1,2", "c": "range(1,4)"}
