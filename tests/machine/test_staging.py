"""Stages beside an output: moved when whole, gone with a kill, never another's."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prune_exp.machine.staging import partial_folders, stage_beside

WRITE_AND_WAIT = """
import sys
from pathlib import Path
from prune_exp.machine.staging import stage_beside

with stage_beside(Path(sys.argv[1])) as stage:
    (stage / "weights").write_bytes(bytes(1000))
    print(stage, flush=True)
    sys.stdin.read()
"""


def start_writing(output: Path) -> "subprocess.Popen[str]":
    """A process that is in the middle of writing to a stage."""
    command = [sys.executable, "-c", WRITE_AND_WAIT, str(output)]
    return subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_what_is_moved_stays_and_the_rest_goes(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "made"
    with stage_beside(output) as stage:
        assert stage.parent == output.parent
        (stage / "whole").mkdir()
        (stage / "rest").touch()
        (stage / "whole").rename(output)
    assert list(output.parent.iterdir()) == [output]


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), stage_beside(tmp_path / "made") as stage:
        stage.mkdir()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_goes_with_the_next(tmp_path: Path) -> None:
    killed = start_writing(tmp_path / "made")
    assert killed.stdout is not None
    left = Path(killed.stdout.readline().strip())
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert (left / "weights").is_file()
    with stage_beside(tmp_path / "made") as stage:
        assert partial_folders(tmp_path / "made") == [stage]


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    writing = start_writing(tmp_path / "made")
    assert writing.stdout is not None
    theirs = Path(writing.stdout.readline().strip())
    with stage_beside(tmp_path / "made"):
        assert (theirs / "weights").is_file()
    assert (theirs / "weights").is_file()
    writing.communicate()
    assert writing.returncode == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["made", "ma[d]e", "m*e"])
def test_what_another_output_left_stays(name: str, tmp_path: Path) -> None:
    names = (
        ".other-1.partial",
        ".made-2-1.partial",
        ".m-1.partial",
        ".made.txt",
        ".mande-1.partial",
    )
    others = [tmp_path / one for one in names]
    mine = tmp_path / f".{name}-1.partial"
    for one in (*others, mine):
        one.mkdir()
    with stage_beside(tmp_path / name):
        assert not mine.exists()
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_what_cannot_be_locked_stays(tmp_path: Path) -> None:
    theirs = tmp_path / ".made-1.partial"
    (theirs / ".lock").mkdir(parents=True)
    with stage_beside(tmp_path / "made"):
        pass
    assert theirs.is_dir()
