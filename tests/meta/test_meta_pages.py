"""The pages on dilkit.meta: their code runs, in order, where the library they compare with is installed."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {"meta": "torch", "from-higher": "higher", "from-learn2learn": "learn2learn",
         "from-torchopt": "torchopt", "from-torch-func": "torch"}  # fmt: skip


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / f"{page}.md").read_text(), re.S | re.M)


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, tmp_path):
    if importlib.util.find_spec(PAGES[page]) is None:
        pytest.skip(f"{PAGES[page]} is not installed")
    program = tmp_path / f"{page}.py".replace("-", "_")
    program.write_text("\n".join(blocks(page)))
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(program)],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr[-3000:]


def test_the_first_loop_has_ten_lines():
    loop = blocks("meta")[0].split("\n\n", 1)[1]
    assert len([line for line in loop.splitlines() if line.strip()]) <= 10
