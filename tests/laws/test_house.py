"""The laws of the house hold, and each of them is noticed when it is broken.

`house.py` beside this file reads the laws off the source; `docs/architecture.md` states them in words.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from house import LAWS, ORDER, House, registries

import dilkit

ROOT = Path(__file__).resolve().parents[2]

KNOWN: dict[str, dict[str, str]] = {}
"""Law -> file -> why it is still broken there. An entry is taken out in the change that mends the file."""


@pytest.fixture(scope="module")
def house() -> House:
    return House(ROOT)


@pytest.mark.parametrize("law", LAWS)
def test_the_law_holds(house: House, law: str) -> None:
    known = KNOWN.get(law, {})
    broken = [str(o) for o in LAWS[law](house) if o.file not in known]
    assert not broken, f"{(LAWS[law].__doc__ or law).splitlines()[0]}\n" + "\n".join(broken)


def test_no_file_is_excused_without_need(house: House) -> None:
    excused = {(law, file) for law, files in KNOWN.items() for file in files}
    offending = {(law, offence.file) for law in KNOWN for offence in LAWS[law](house)}
    gone = sorted(excused - offending)
    assert not gone, f"take these out of KNOWN: {gone}"


def test_every_room_has_a_place_in_the_order(house: House) -> None:
    rooms = {module.room for module in house.modules.values()} - {"", "__main__"}
    assert rooms <= set().union(*ORDER)


def test_importing_the_meta_room_loads_torch_and_nothing_of_images() -> None:
    script = "import sys, dilkit.meta.api; print(*{m.partition('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert not set(loaded.split()) & {"albumentations", "cv2", "h5py", "PIL", "skimage", "pydantic", "pandas"}
    rooms = "import sys, dilkit.meta.api; print(*(m for m in sys.modules if m.startswith('dilkit.')))"
    loaded = subprocess.run([sys.executable, "-c", rooms], capture_output=True, text=True, check=True).stdout
    assert {name.split(".")[1] for name in loaded.split()} <= {"meta", "errors", "registry", "_version"}


BREAKS: list[tuple[str, dict[str, str], str]] = [
    ("import direction", {"dilkit/meta/api.py": "import dilkit.confounders.store"}, "dilkit/meta/api.py:1"),
    (
        "import direction",
        {"dilkit/models/unet.py": "def f():\n    from dilkit.training.run import train"},
        "dilkit/models/unet.py:2",
    ),
    (
        "import direction",
        {
            "dilkit/recipe/schema.py": "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from dilkit.evaluation import rows"
        },
        "dilkit/recipe/schema.py:3",
    ),
    (
        "import direction",
        {"dilkit/errors.py": "from . import registry", "dilkit/registry.py": ""},
        "dilkit/errors.py:1",
    ),
    ("import direction", {"dilkit/training/run.py": "import dilkit.inference"}, "beside its own"),
    (
        "import direction",
        {"dilkit/registry.py": "HOME = 'dilkit.report.page:build'", "dilkit/report/page.py": ""},
        "imports report.page",
    ),
    ("import direction", {"dilkit/attic.py": ""}, "'attic' has no place"),
    (
        "no circle",
        {
            "dilkit/meta/a.py": "from dilkit.meta import b",
            "dilkit/meta/b.py": "def f():\n    from . import a",
        },
        "circle of meta.a, meta.b",
    ),
    (
        "no circle",
        {"dilkit/meta/__init__.py": "from dilkit.meta.a import x", "dilkit/meta/a.py": "import dilkit.meta"},
        "circle of meta, meta.a",
    ),
    ("torch where allowed", {"dilkit/recipe/schema.py": "import torch.nn"}, "imports torch"),
    ("torch where allowed", {"cli/eval.py": "def f():\n    from torch import nn"}, "cli/eval.py:2"),
    (
        "albumentations in one file",
        {"dilkit/distortions/render.py": "def f():\n    import albumentations as A"},
        "render.py:2",
    ),
    ("meta needs torch alone", {"dilkit/meta/guards.py": "import numpy"}, "imports numpy"),
    ("meta needs torch alone", {"dilkit/meta/api.py": "from dilkit.metrics import psnr"}, "imports metrics"),
    ("meta needs torch alone", {"dilkit/registry.py": "import pydantic"}, "imports pydantic"),
    (
        "one place",
        {"dilkit/report/page.py": "def f(p):\n    return safe_open(p)"},
        "page.py:2: a reader of safetensors",
    ),
    (
        "one place",
        {"dilkit/objectives/dil.py": "def f(c, t):\n    c.descend(t)"},
        "dil.py:2: a virtual update",
    ),
    ("one place", {"dilkit/training/engine.py": "x = torch.cuda.is_available()"}, "a chooser of the device"),
    ("one place", {"cli/eval.py": "from rich.progress import Progress"}, "a progress view"),
    ("one place", {"dilkit/report/page.py": "def clock(s): return s"}, "a clock"),
    ("one place", {"dilkit/evaluation/grid.py": "def looks_alike(a, b): ..."}, "a perceptual hash"),
    (
        "module names once",
        {"dilkit/meta/plan.py": "", "dilkit/distortions/plan.py": ""},
        "'plan' is taken by dilkit/distortions/plan.py",
    ),
    ("module names once", {"cli/eval.py": "", "cli/data/eval.py": ""}, "'eval' is taken"),
    ("plain names", {"dilkit/confounders/crew.py": ""}, "say workers"),
    ("plain names", {"dilkit/confounders/build.py": "class OutboxWriter: ..."}, "say writer"),
    ("plain names", {"dilkit/training/run.py": "x = 1\ndef tell(row): ..."}, "run.py:2"),
    (
        "no homonyms",
        {"dilkit/meta/adjoint.py": "class Engine: ...", "dilkit/training/engine.py": "class Engine: ..."},
        "'Engine' is also defined in dilkit/meta/adjoint.py",
    ),
    ("no homonyms", {"dilkit/checkpoint.py": "def fit(): ..."}, "say load_weights"),
    ("silent library", {"dilkit/metrics.py": "def f():\n    print(1)"}, "metrics.py:2: prints"),
    ("silent library", {"dilkit/metrics.py": "import sys\nsys.exit(1)"}, "ends the program: sys.exit"),
    ("silent library", {"dilkit/metrics.py": "raise SystemExit"}, "ends the program: SystemExit"),
    ("pure objectives", {"dilkit/objectives/erm.py": "import pathlib"}, "touch no file"),
    ("pure objectives", {"dilkit/objectives/erm.py": "def f(p):\n    return open(p)"}, "erm.py:2"),
    ("pure objectives", {"dilkit/objectives/erm.py": "d = torch.device('cuda')"}, "chooses a device"),
    ("pure objectives", {"dilkit/objectives/erm.py": "def f(o):\n    o.zero_grad()"}, "the optimiser"),
]


@pytest.mark.parametrize(("law", "files", "said"), BREAKS, ids=lambda value: str(value)[:40])
def test_a_broken_law_is_noticed(tmp_path: Path, law: str, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    offences = [str(offence) for offence in LAWS[law](House(tmp_path))]
    assert any(said in offence for offence in offences), offences


@pytest.mark.parametrize("law", LAWS)
def test_each_law_is_broken_once_above(law: str) -> None:
    assert any(name == law for name, _, _ in BREAKS)


LAWFUL = {
    "dilkit/__init__.py": "_PUBLIC = {'Page': 'dilkit.report.page'}\n__version__ = '1'",
    "dilkit/errors.py": "class UsageError(Exception): ...",
    "dilkit/meta/__init__.py": "import torch\nfrom dilkit.meta.api import Meta",
    "dilkit/meta/api.py": "import torch\nfrom dilkit.errors import UsageError\nclass Meta: ...",
    "dilkit/report/page.py": (
        "from dilkit._version import __version__\nfrom dilkit.meta import Meta\nclass Page: ..."
    ),
    "dilkit/objectives/erm.py": "def gradients(net, x):\n    return net(x.to(x.dtype))",
    "cli/report.py": "import sys\nfrom dilkit.report.page import Page\nprint(Page)\nsys.exit(1)",
}


@pytest.mark.parametrize("law", LAWS)
def test_a_lawful_tree_is_left_in_peace(tmp_path: Path, law: str) -> None:
    for name, text in LAWFUL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [str(offence) for offence in LAWS[law](House(tmp_path))] == []


def test_every_registry_is_a_door(house: House) -> None:
    """Law 7: a third party can add to it; `tests/plugins` adds one of each kind."""
    assert set(registries(house)) == set(dilkit.REGISTRIES)


def test_no_two_test_files_have_one_name() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names)), "pytest imports test files by name"
