"""The wheel: one top-level name, every subpackage, and a program that works away from the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

import dilkit

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    "dilkit",
    "cli",
    "recipes",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "MANIFEST.in",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that no stale build folder can leak into it."""
    work = tmp_path_factory.mktemp("build")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, work / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, work / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "out", "."]
    told = subprocess.run(command, cwd=work, check=True, capture_output=True, text=True)
    assert "would be ignored" not in told.stdout + told.stderr
    [path] = (work / "out").glob("*.whl")
    return path


TORCH_ALONE = (
    "torch torchgen functorch typing_extensions.py sympy mpmath networkx jinja2 markupsafe fsspec filelock"
)
"""torch and what it needs itself; no NumPy."""


def test_virtual_updates_need_torch_alone(wheel: Path, tmp_path: Path) -> None:
    """The wheel without any dependency, beside torch: `dilkit.meta` gives an exact meta-gradient."""
    site = Path(sysconfig.get_path("purelib"))
    homes = [Path(p) for p in sys.path if p and Path(p, "torch").is_dir()] or [site]
    for name in [*TORCH_ALONE.split(), *(p.name for p in homes[0].glob("nvidia*")), "triton"]:
        if (homes[0] / name).exists():
            (tmp_path / name).symlink_to(homes[0] / name)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    script = """
import sys
import torch
import dilkit, dilkit.meta
net = torch.nn.Linear(2, 1).double()
batch = (torch.ones(3, 2).double(), torch.zeros(3, 1).double())
found = dilkit.meta(net).meta.grad(torch.nn.functional.mse_loss, {"a": batch, "b": batch}, trajectory="star")
assert set(found.grads) == {"weight", "bias"} and all(g.isfinite().all() for g in found.grads.values())
assert dilkit.__file__.startswith(sys.argv[1]), dilkit.__file__
missing = {"numpy", "h5py", "cv2", "pydantic", "albumentations", "PIL", "pandas", "typer"} & set(sys.modules)
assert not missing, missing
"""
    code = ["-S", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{script}", str(tmp_path)]
    run = subprocess.run([sys.executable, *code], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert dilkit.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_subpackage_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(["dilkit", *path.parent.relative_to(ROOT / "dilkit").parts])
        for path in (ROOT / "dilkit").rglob("__init__.py")
    }
    assert sorted(listed) == sorted(found | {"dilkit.cli", "dilkit.recipes"})


def test_the_wheel_has_one_top_level_name_and_every_module(wheel: Path) -> None:
    names = [n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n]
    assert {n.split("/")[0] for n in names} == {"dilkit"}
    expected = {f"dilkit/{p.relative_to(ROOT / 'dilkit')}" for p in (ROOT / "dilkit").rglob("*.py")}
    for folder in ("cli", "recipes"):
        expected |= {
            f"dilkit/{p.relative_to(ROOT)}"
            for p in (ROOT / folder).rglob("*")
            if p.suffix in {".py", ".yaml"} and "__pycache__" not in p.parts
        }
    zoo = [p for p in (ROOT / "dilkit" / "zoo").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    expected |= {f"dilkit/{p.relative_to(ROOT / 'dilkit')}" for p in zoo}
    assert expected <= set(names)


def test_the_installed_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    env = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", str(env)], check=True)
    python = env / "bin" / "python"
    # The dependencies come from the running environment (its editable dilkit does not: a path line in a .pth
    # file brings no further .pth files with it); dilkit itself comes from the wheel alone.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    pth = env / "lib" / version / "site-packages" / "dependencies.pth"
    pth.write_text(sysconfig.get_path("purelib") + "\n")
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)

    def dilkit(*arguments: str) -> str:
        run = subprocess.run(
            [str(env / "bin" / "dilkit"), *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    where = subprocess.run(
        [str(python), "-c", "import dilkit; print(dilkit.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    ).stdout
    assert where.startswith(str(env))
    assert dilkit("--version").startswith("dilkit 0.")
    module = [str(python), "-m", "dilkit", "--version"]
    assert subprocess.check_output(module, cwd=tmp_path, text=True) == dilkit("--version")
    assert "denoise-gaussian-small" in dilkit("recipes", "ls")
    dilkit("augment", "deadleaves:4@64", "--tile=64", "--out=store.h5", "--distort=awgn[5, 20] >> clip")
    dilkit("train", "denoise-gaussian-small", "data.store=store.h5", "steps=10", "--out", "run")
    assert list((tmp_path / "run" / "checkpoints").glob("*.safetensors"))
    assert "zoo:denoise" in dilkit("ls", "nets")
    (tmp_path / "photo.png").write_bytes(
        cv2.imencode(".png", np.full((40, 48, 3), 90, np.uint8))[1].tobytes()
    )
    assert dilkit("restore", "photo.png").split() == ["restored/photo.png"]
