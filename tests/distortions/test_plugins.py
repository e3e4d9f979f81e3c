"""Distortions of third parties: by an entry point, by `dilkit.register`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dilkit.distortions import REGISTRY, Param, PrimitiveKind, Registry, awgn, parse, register
from dilkit.errors import DilkitError, UsageError

PLUGIN = """
import numpy as np
from dilkit.distortions import Param, PrimitiveKind


def darken(image, params, draw):
    return image * np.float32(params["factor"])


KINDS = [
    PrimitiveKind(
        name="darken", family="plugin", summary="Darker.", source="this test",
        params=(Param("factor", low=0, high=1),), apply=darken, degree="factor",
    )
]
"""


def install(folder: Path, source: str, point: str = "vhs_noise:KINDS") -> dict[str, str]:
    """A package as pip would have put it there; the environment in which it is found."""
    info = folder / "vhs_noise-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "vhs_noise.py").write_text(source)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vhs-noise\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[dilkit.distortions]\nvhs = {point}\n")
    return os.environ | {"PYTHONPATH": str(folder)}


def test_a_plugin_is_part_of_the_vocabulary(tmp_path):
    env = install(tmp_path, PLUGIN)
    code = """if True:
        import pickle, sys
        import numpy as np
        from dilkit.distortions import SampleKey, awgn, parse
        parse("awgn(5)")
        assert "vhs_noise" not in sys.modules  # nobody asked for it
        word = parse("darken(0.5) >> awgn(5)")
        assert word == pickle.loads(pickle.dumps(word))
        from dilkit.distortions import darken
        assert darken(0.5) >> awgn(5) == word
        image = np.ones((4, 4, 3), np.float32)
        assert (parse("darken(0.5)").apply(image, SampleKey(0, b"")) == 0.5).all()
        assert (darken.transform(0.5)(image=image)["image"] == 0.5).all()
        print(parse("darken[0.1, 0.5] | clean").labels)
    """
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "('clean', 'darken(0.1)', 'darken(0.5)')\n", done.stderr


@pytest.mark.parametrize(
    ("source", "point", "says"),
    [
        ("1 / 0", "vhs_noise:KINDS", "division by zero"),
        ("KINDS = ()", "vhs_noise:MISSING", "MISSING"),
        ("KINDS = (3,)", "vhs_noise:KINDS", "no PrimitiveKind"),
        (PLUGIN.replace('"darken"', '"awgn"'), "vhs_noise:KINDS", "already registered"),
        (PLUGIN.replace('"darken"', '"mix"'), "vhs_noise:KINDS", "cannot be named"),
    ],
)
def test_a_broken_plugin_is_named_and_only_when_it_is_needed(tmp_path, monkeypatch, source, point, says):
    install(tmp_path, source, point)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry()
    registry.add(awgn)
    try:
        assert registry.find("awgn") is awgn
        for _ in range(2):  # it stays broken
            with pytest.raises(DilkitError, match=says) as caught:
                registry.find("darken")
            assert "package vhs-noise: the plug-in 'vhs' cannot be loaded" in str(caught.value)
    finally:
        sys.modules.pop("vhs_noise", None)


def test_register():
    import dilkit

    kind = PrimitiveKind(
        "registered_here", "test", "", "", (Param("a"),), lambda image, params, draw: image, degree="a"
    )
    assert dilkit.register is register
    assert dilkit.register(kind) is kind
    try:
        assert parse("registered_here[1, 2]") == kind[1, 2]
        with pytest.raises(UsageError, match="already registered"):
            register(kind)
    finally:
        del REGISTRY._kinds["registered_here"]


@pytest.mark.parametrize("name", ["uniform", "clean", "two words", "", "_hidden", "real-esrgan"])
def test_a_name_must_be_free_and_writable(name):
    with pytest.raises(UsageError, match="cannot be named"):
        register(PrimitiveKind(name, "test", "", "", (), lambda image, params, draw: image))


def test_the_degree_must_be_a_parameter():
    with pytest.raises(UsageError, match="must be one of its parameters"):
        register(PrimitiveKind("odd", "test", "", "", (), lambda image, params, draw: image, degree="sigma"))
