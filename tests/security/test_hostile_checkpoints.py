"""Opening a checkpoint runs nothing it names, and takes no memory it does not back with tensors.

`DILKIT_FUZZ=5000 pytest tests/security/test_hostile_checkpoints.py` tries as many.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dilkit.cli.app import main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from dilkit.checkpoint import Folder, load
from dilkit.errors import DilkitError, UsageError
from dilkit.inference.export import export
from dilkit.models import build
from dilkit.recipe import to_yaml

TINY = ["demo", "synthetic", "steps=1", "data.crop=16", "data.batch=1", "model.norm=none"]
SIDE_EFFECT = """
from pathlib import Path
import os
from torch import nn
Path(os.environ["DILKIT_TEST_MARK"]).write_text("imported")

class Net(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 3, 1)
"""


def write(path: Path, model: Any, tensors: dict[str, torch.Tensor] | None = None, **meta: Any) -> Path:
    whole = {"format": 1, "recipe": {"model": model, "steps": 1}, **meta}
    save_file(tensors or {"x": torch.zeros(1)}, path, metadata={"dilkit": json.dumps(whole)})
    return path


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module on the path that leaves a mark when it is imported; the mark's path is returned."""
    (tmp_path / "stranger_module.py").write_text(SIDE_EFFECT)
    mark = tmp_path / "mark"
    monkeypatch.setenv("DILKIT_TEST_MARK", str(mark))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "stranger_module", raising=False)
    return mark


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("os:system", {"command": "touch mark"}),
        ("subprocess:Popen", {"args": ["touch", "mark"]}),
        ("builtins:exec", {"source": "open('mark', 'w')"}),
        ("stranger_module:Net", {}),
    ],
)
def test_code_named_as_the_model_is_refused_before_it_is_imported(
    name: str, args: dict[str, Any], stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "hostile.safetensors", {"name": name, "args": args})
    with pytest.raises(UsageError) as caught:
        load(path)
    assert name in caught.value.message
    assert "--trust-code" in str(caught.value.remedy) and "trust_code=True" in str(caught.value.remedy)
    assert not stranger.exists()
    assert "stranger_module" not in sys.modules


def test_trusted_code_is_loaded_by_flag_or_by_name(stranger: Path, tmp_path: Path) -> None:
    tensors = {"weight": torch.ones(3, 3, 1, 1), "bias": torch.zeros(3)}
    path = write(tmp_path / "mine.safetensors", {"name": "stranger_module:Net"}, tensors)
    with pytest.raises(UsageError, match="stranger_module"):
        load(path, trust_code=("other_module:Net",))
    assert not stranger.exists()
    assert load(path, trust_code=("stranger_module:Net",)).net.weight.shape == (3, 3, 1, 1)
    assert stranger.exists()
    assert load(path, trust_code=True).recipe.model.name == "stranger_module:Net"


def test_a_copy_for_export_runs_what_is_trusted_and_nothing_else(stranger: Path, tmp_path: Path) -> None:
    tensors = {"weight": torch.ones(3, 3, 1, 1), "bias": torch.zeros(3)}
    path = write(tmp_path / "mine.safetensors", {"name": "stranger_module:Net"}, tensors)
    with pytest.raises(UsageError, match="stranger_module"):
        export(path, tmp_path / "copy.safetensors")
    assert not stranger.exists()
    assert export(path, tmp_path / "copy.safetensors", trust_code=True) == 0


def test_the_check_command_refuses_it_and_exits_2(
    stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "hostile.safetensors", {"name": "stranger_module:Net"})
    monkeypatch.setattr(sys, "argv", ["dilkit", "check", str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--trust-code" in capsys.readouterr().err
    assert not stranger.exists()


def test_what_the_rest_of_a_recipe_names_is_neither_run_nor_allocated(
    stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sinks, plug-ins, images, a start, a loss: for whoever trains, not for whoever opens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dilkit.losses._vgg", lambda device: pytest.fail("it loads the weights of a loss"))
    net = build("dncnn", depth=3, width=4, norm="none")
    recipe = {
        "model": {"name": "dncnn", "depth": 3, "width": 4, "norm": "none"}, "steps": 10**18,
        "plugins": ["stranger_module.py"], "log": {"to": ["stranger_module:Net"]},
        "init": {"source": "module:stranger_module:Net"}, "loss": "perceptual", "swad": True,
        "validate": {"images": [f"deadleaves:{10**12}@100000"]},
        "data": {"sources": [f"scenes:{10**12}"], "distort": "awgn[5, 10]", "crop": 10**12, "tile": 10**12,
                 "batch": 10**15, "workers": 10**9, "orbit": [{"name": "contrast", "reach": 1e300}]},
        "optim": {"name": "Adagrad", "schedule": {"name": "torch", "of": "OneCycleLR"}},
    }  # fmt: skip
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("last", "step-00000001"):
        meta = {
            "format": 1,
            "recipe": recipe,
            "confounders": "awgn[5, 10]",
            "labels": ["awgn(5)", "awgn(10)"],
        }
        path = run / "checkpoints" / f"{name}.safetensors"
        save_file(dict(net.state_dict()), path, metadata={"dilkit": json.dumps(meta)})
    (run / "recipe.yaml").write_text(to_yaml(recipe))
    (run / "run.json").write_text("{}")
    images = ["--data", "deadleaves:2@48"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for words in (
        ["eval", "run", *images, "--distort", "awgn(5)", "--device", "cpu"],
        ["check", str(path)],
        ["card", "run"],
        ["export", "run", "--to", "copy.safetensors"],
        ["report", "run", *images, "--distort", "awgn(5)", "--out", "page.html"],
        ["runs", "compare", "run", "run"],
        ["study", "explain", "run", *images, "--distort", "awgn[5, 50]", "--crop", "32"],
        ["train", *TINY, "model.depth=3", "model.width=4", "init=run", "--out", "own"],
    ):
        monkeypatch.setattr(sys, "argv", ["dilkit", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        refused = words[:2] == ["study", "explain"]
        assert ended.value.code in ((2,) if refused else (0, None)), capsys.readouterr().err
    assert "548 MB" in capsys.readouterr().err
    assert not stranger.exists()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 1 << 30


@pytest.mark.parametrize(
    "model",
    [
        {"name": "dncnn", "width": 200_000},
        {"name": "dncnn", "width": 4096, "depth": 256, "norm": "none"},
        {"name": "rrdb", "width": 4096, "growth": 4096, "blocks": 64},
        {"name": "unet", "width": 1024, "depth": 8},
        {"name": "nafnet", "width": 1024, "encoder": [64] * 8, "decoder": [64] * 8},
        {"name": "swinir", "width": 64, "depths": [64] * 8, "heads": [1] * 8, "window": 32},
    ],
    ids=lambda model: f"{model['name']}-{model['width']}",
)
def test_absurd_sizes_are_refused_before_memory_is_taken(model: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "huge.safetensors", model)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UsageError):
        load(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 1 << 30, "the smallest of these nets has 2 GB of weights"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ("null", "damaged"),
        ('{"format": 1}', "damaged"),
        ('{"format": 1, "recipe": 3}', "damaged"),
        ('{"format": 99, "recipe": {}}', "another format"),
        ("[" * 100_000, "damaged"),
        ('{"format": 1, "recipe": {"model": {"name": "dncnn"}}}', "one budget"),
        ('{"format": 1, "recipe": {"model": {"name": ["os", "system"]}, "steps": 1}}', "no such name"),
    ],
)
def test_metadata_that_is_no_recipe_is_refused(text: str, said: str, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"dilkit": text})
    with pytest.raises(UsageError, match=said):
        load(tmp_path / "x.safetensors")


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, ("open('ran', 'w')",))


@pytest.mark.parametrize("state", [Hostile(), {"step": 1}, [1, 2], "text"], ids=lambda s: type(s).__name__)
def test_a_hostile_training_state_is_refused_without_bad_advice(state: Any, tmp_path: Path) -> None:
    write(tmp_path / "step-00000001.safetensors", {"name": "dncnn"})
    torch.save(state, tmp_path / "step-00000001.state")
    with pytest.raises(DilkitError) as caught:
        Folder(tmp_path).newest()
    assert "weights_only" not in str(caught.value)
    assert ("names code" in str(caught.value)) == isinstance(state, Hostile)
    assert not Path("ran").exists()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**70) | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_MODEL = st.fixed_dictionaries(
    {"name": st.sampled_from(["dncnn", "rrdb", "unet", "nafnet", "swinir", "os:system", "no"]) | _JSON},
    optional={
        "width": _JSON, "depth": _JSON, "scale": _JSON, "depths": _JSON, "args": _JSON, "equivariant": _JSON
    },
)  # fmt: skip
_RECIPE = st.fixed_dictionaries({"model": _MODEL | _JSON, "steps": st.just(1) | _JSON})
_META = st.fixed_dictionaries({"format": st.just(1) | _JSON, "recipe": _RECIPE | _JSON})


@settings(
    max_examples=int(os.environ.get("DILKIT_FUZZ", "150")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(meta=_META)
def test_no_metadata_does_more_than_be_refused(meta: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"dilkit": json.dumps(meta)})
    with pytest.raises(DilkitError):
        load(path)


@settings(
    max_examples=int(os.environ.get("DILKIT_FUZZ", "100")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(at=st.integers(0, 400), byte=st.integers(0, 255), cut=st.integers(0, 400))
def test_no_damaged_bytes_do_more_than_be_refused_or_loaded(
    at: int, byte: int, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.mktemp("fuzz") / "x.safetensors", {"name": "dncnn"})
    data = bytearray(path.read_bytes())
    data[at % len(data)] = byte
    path.write_bytes(data[: len(data) - cut % len(data)] if cut % 2 else data)
    with pytest.raises(DilkitError):
        load(path)
