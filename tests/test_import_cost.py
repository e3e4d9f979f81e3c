"""`import dilkit` and `--help` are instant: the heavy libraries load only when they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["torch", "albumentations", "cv2", "h5py", "pandas", "matplotlib", "scipy", "skimage"]


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stderr.split())


def test_import_dilkit_loads_nothing_heavy() -> None:
    loaded = modules_after("import dilkit")
    assert not loaded & {*HEAVY, "numpy", "typer", "pydantic"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["augment", "--help"], ["eval", "--help"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    run = "from dilkit.cli import main\ntry: main()\nexcept SystemExit: pass"
    code = f"sys.argv = ['dilkit', *{arguments}]\n{run}"
    assert not modules_after(code) & set(HEAVY)
