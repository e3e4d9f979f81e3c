"""Every tutorial does what it says: its Python blocks, the cells of its notebook, run in order in an empty
folder. So do the pages that show how something is added."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
PAGES = [*TUTORIALS, ROOT / "docs" / "how-to" / "plug-in.md", ROOT / "CONTRIBUTING.md"]


def code_of(path: Path) -> str:
    """The blocks as one program, each at its own line, so that an error names the line of the tutorial."""
    text = path.read_text(encoding="utf-8")
    lines = [""] * (text.count("\n") + 1)
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.S | re.M):
        first = text[: block.start(1)].count("\n")
        for k, line in enumerate(block[1].splitlines()):
            lines[first + k] = line
    return "\n".join(lines)


def test_there_are_three() -> None:
    assert len(TUTORIALS) >= 3


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_python_of_a_page_runs(path: Path, tmp_path: Path) -> None:
    program = tmp_path / f"{path.stem}.py"
    program.write_text(code_of(path))
    result = subprocess.run(
        [sys.executable, program.name], cwd=tmp_path, capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stderr[-3000:]
