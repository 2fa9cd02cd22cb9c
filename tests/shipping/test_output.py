"""What took long to make is not thrown away when its place is taken in the end."""

from pathlib import Path

import pytest

from prune_exp.machine.staging import stage_beside
from prune_exp.shipping.ship import move_into_place


def make(stage: Path, name: str) -> Path:
    made = stage / name
    made.mkdir()
    (made / "model.gguf").write_bytes(b"much work")
    return made


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_a_place_that_was_taken_meanwhile_costs_nothing(
    taken: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file browser's file, or another command with the same output."""
    output = tmp_path / "out"
    others = [output, tmp_path / "out-1"][:taken]
    with stage_beside(output) as stage:
        made = make(stage, "out")
        for folder in others:
            folder.mkdir()
            (folder / ".DS_Store").write_bytes(b"theirs")
        found = move_into_place(made, output)
    assert found == (output if not taken else tmp_path / f"out-{taken}")
    assert (found / "model.gguf").read_bytes() == b"much work"
    assert all((folder / ".DS_Store").read_bytes() == b"theirs" for folder in others)
    assert (f"see {found}" in capsys.readouterr().err) == bool(taken)
    assert {path.name for path in tmp_path.iterdir()} == {*(one.name for one in others), found.name}


def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    with stage_beside(output) as stage:
        assert move_into_place(make(stage, "out"), output) == output
    assert (output / "model.gguf").exists()
