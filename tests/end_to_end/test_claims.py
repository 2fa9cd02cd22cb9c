"""Every promise of the READMEs has a test that there is."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROWS = [
    line.split(" | ")
    for line in (TESTS / "README.md").read_text(encoding="utf-8").splitlines()
    if "::test_" in line
]


def names_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=[row[1] for row in ROWS])
def test_the_tests_of_a_promise_exist(row: list[str]) -> None:
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", row[2])
    assert len(named) == row[2].count("::"), "a test is named in another way"
    for file, name in named:
        assert (TESTS / file).is_file(), file
        assert name in names_in(TESTS / file), f"{file}::{name}"


def test_every_room_makes_promises() -> None:
    package = TESTS.parent / "prune_exp"
    rooms = {path.parent.name for path in package.glob("*/README.md")}
    said = "".join(row[0] for row in ROWS)
    assert {room for room in rooms if f"prune_exp/{room}/README.md" in said} == rooms
    assert "(../README.md)" in said
