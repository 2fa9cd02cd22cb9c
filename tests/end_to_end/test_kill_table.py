"""The README shows the kill matrix as it is."""

import os
from pathlib import Path

from support.cells import CELLS, FIRST_LINE, LAST_LINE, PROMOTIONS, make_table

README = Path(__file__).parent.parent / "README.md"


def test_the_readme_shows_every_cell_of_the_matrix() -> None:
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(f"{FIRST_LINE}\n")
    shown, _, after = rest.partition(f"\n{LAST_LINE}")
    if os.environ.get("WRITE_KILLS"):
        shown = make_table()
        README.write_text(f"{before}{FIRST_LINE}\n{shown}\n{LAST_LINE}{after}", encoding="utf-8")
    assert shown == make_table()


def test_every_cell_has_a_name_of_its_own() -> None:
    names = [(cell.name, cell.extra) for cell in (*CELLS, *PROMOTIONS)]
    assert len(set(names)) == len(names)
