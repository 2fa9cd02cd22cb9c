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


def test_what_another_output_left_stays(tmp_path: Path) -> None:
    other = tmp_path / ".other-1.partial"
    mine = tmp_path / ".made.txt"
    other.mkdir()
    mine.touch()
    with stage_beside(tmp_path / "made"):
        pass
    assert other.is_dir()
    assert mine.is_file()
