"""What must never run or be shown."""

from pathlib import Path
from typing import Any

PASSWORD = "hunter2"


SNITCH = "from pathlib import Path\nPath({target!r}).write_text('ran')\nclass Evil: pass\n"


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))
