"""Distortions of third parties: by an entry point, by `dilkit.register`."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dilkit.distortions import REGISTRY, Param, PrimitiveKind, awgn, parse, register
from dilkit.distortions.algebra import RESERVED_CLASSES, class_name, new_registry
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
        from dilkit.distortions import REGISTRY, darken
        from dilkit.distortions.albumentations import transform_class
        assert REGISTRY.origin("darken") == "vhs-noise"
        assert REGISTRY.origin("awgn") == "dilkit"
        assert darken(0.5) >> awgn(5) == word
        image = np.ones((4, 4, 3), np.float32)
        assert (parse("darken(0.5)").apply(image, SampleKey(0, b"")) == 0.5).all()
        assert (transform_class(darken)(factor=0.5)(image=image)["image"] == 0.5).all()
        print(parse("darken[0.1, 0.5] | clean").labels)
    """
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "('clean', 'darken(0.1)', 'darken(0.5)')\n", done.stderr


@pytest.mark.parametrize(
    ("source", "point", "says"),
    [
        ("1 / 0", "vhs_noise:KINDS", "division by zero"),
        ("KINDS = ()", "vhs_noise:MISSING", "MISSING"),
        ("KINDS = (3,)", "vhs_noise:KINDS", "no distortion"),
        (PLUGIN.replace('"darken"', '"awgn"'), "vhs_noise:KINDS", "registered already"),
        (PLUGIN.replace('"darken"', '"mix"'), "vhs_noise:KINDS", "cannot be named"),
    ],
)
def test_a_broken_plugin_is_named_and_only_when_it_is_needed(tmp_path, monkeypatch, source, point, says):
    install(tmp_path, source, point)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = new_registry()
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
    assert dilkit.register(kind) is kind
    try:
        assert parse("registered_here[1, 2]") == kind[1, 2]
        assert register(kind) is kind  # as an entry point to it does
        with pytest.raises(UsageError, match="registered already"):
            register(dataclasses.replace(kind))
    finally:
        del REGISTRY._entries["registered_here"]


@pytest.mark.parametrize(
    "name", ["uniform", "clean", "two words", "_hidden", "real-esrgan", "lambda", "ﬁlm", "bsrgan"]
)
def test_a_name_must_be_free_and_writable(name):
    with pytest.raises(UsageError, match="cannot be named"):
        register(PrimitiveKind(name, "test", "", "", (), lambda image, params, draw: image))


def kind_named(name, *params, **fields):
    return PrimitiveKind(name, "test", "", "", params, lambda image, params, draw: image, **fields)


@pytest.mark.parametrize("name", ["self", "p", "root_seed", "strict", "lambda", "two words", "ﬁlm", 3])
def test_a_parameter_must_have_a_name_that_a_transform_can_take(name):
    with pytest.raises(UsageError, match="a parameter of 'odd' cannot be named"):
        new_registry().add(kind_named("odd", Param(name)))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (3, "a distortion needs a name"),
        (awgn.apply, "only a PrimitiveKind"),
        (kind_named(""), "a distortion needs a name"),
        (kind_named(3), "a distortion needs a name"),
        (kind_named("odd", "sigma"), "a parameter of 'odd' must be a Param"),
        (kind_named("odd", version="2"), "version of 'odd' must be a whole number"),
        (kind_named("odd", version=True), "version of 'odd' must be a whole number"),
        (kind_named("odd", Param("a", type=list)), "has a type that it cannot have"),
        (kind_named("odd", Param("a", default=-1, low=0)), "odd cannot take a=-1"),
        (kind_named("odd", Param("a", str, default="x", choices=("y", "z"))), "odd cannot take a='x'"),
        (kind_named("odd", Param("a", default=None)), "odd cannot take a=None"),
    ],
)
def test_what_is_no_proper_kind_is_refused(kind, says):
    with pytest.raises(UsageError, match=says):
        new_registry().add(kind)


@pytest.mark.parametrize("name", ["awgn_2", "distort", "word_transform", "kind_transform"])
def test_a_transform_must_have_a_class_of_its_own(name):
    registry = new_registry()
    registry.add(kind_named("awgn2"))
    with pytest.raises(UsageError, match="would be called"):
        registry.add(kind_named(name))


def test_the_reserved_classes_are_those_beside_the_transforms():
    from dilkit.distortions import albumentations

    beside = (name for name in ("Distort", "KindTransform", "WordTransform") if hasattr(albumentations, name))
    assert set(beside) == RESERVED_CLASSES
    assert class_name("word_transform") in RESERVED_CLASSES


def test_a_plugin_may_point_at_what_it_has_registered_itself(tmp_path):
    source = PLUGIN.replace("KINDS = [", "import dilkit\nKINDS = dilkit.register(").replace("\n]", "\n)")
    env = install(tmp_path, source)
    code = "from dilkit.distortions import parse; print(parse('darken(0.5)'))"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "darken(0.5)\n", done.stderr


def test_presets_do_not_need_the_plugins(tmp_path):
    env = install(tmp_path, "1 / 0")
    code = """if True:
        from dilkit.distortions import parse
        assert str(parse("real-esrgan-1"))
        print(parse("hybrid-mild").label)
        parse("awng(5)")
    """
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "hybrid-mild\n"
    assert "the plug-in 'vhs' cannot be loaded: division by zero" in done.stderr


def test_other_threads_wait_for_the_plugins_and_a_plugin_sees_those_so_far(tmp_path):
    source = (
        PLUGIN
        + """
import threading, time
from dilkit.distortions import REGISTRY
REGISTRY.add(PrimitiveKind("first", "plugin", "", "", (), darken))
SEEN = "first" in REGISTRY and "darken" in REGISTRY
LOADING.set()
time.sleep(0.2)
"""
    )
    env = install(tmp_path, source)
    code = """if True:
        import builtins, threading
        builtins.LOADING = threading.Event()
        from dilkit.distortions import REGISTRY
        thread = threading.Thread(target=lambda: REGISTRY.names)
        thread.start()
        assert LOADING.wait(60)
        assert REGISTRY.find("darken") is not None  # it waits
        thread.join()
        import vhs_noise
        print(vhs_noise.SEEN, REGISTRY.origin("first"))
    """
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "False vhs-noise\n", done.stderr


def test_a_file_of_the_users_is_its_kinds_origin(tmp_path):
    from dilkit.registry import load_plugin

    file = tmp_path / "mine.py"
    file.write_text(PLUGIN.replace("darken", "dimmed") + "\nimport dilkit\ndilkit.register(KINDS[0])\n")
    load_plugin(file)
    try:
        assert REGISTRY.origin("dimmed") == str(file)
    finally:
        del REGISTRY._entries["dimmed"]


def test_the_degree_must_be_a_parameter():
    with pytest.raises(UsageError, match="must be one of its parameters"):
        register(PrimitiveKind("odd", "test", "", "", (), lambda image, params, draw: image, degree="sigma"))
