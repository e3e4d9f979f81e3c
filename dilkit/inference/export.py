"""A trained net for other programs, checked against the net itself after it is written."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dilkit import checkpoint
from dilkit._version import __version__
from dilkit.checkpoint import find_checkpoint
from dilkit.errors import DilkitError, UsageError
from dilkit.inference.nets import Net, open_net
from dilkit.models.custom import scale_between
from dilkit.models.equivariant import Scale
from dilkit.registry import Registry

TOLERANCE = 1e-4
"""Largest difference of any output value, on inputs in [0, 1]."""
Runner = Callable[[Tensor], Tensor]
"""What was written, opened again: (B, 3, H, W) -> (B, 3, s H, s W)."""


@dataclass(frozen=True)
class Exporter:
    """A format to write nets in. `dilkit.register(Exporter("mine", (".mine",), write))` adds one.

    Attributes:
        suffixes: endings of its files, with their dots.
        write: writes a net, in eval mode on the CPU, to a path, with texts about it by key; returns what was
            written, opened again, to be checked against the net.
    """

    name: str
    suffixes: tuple[str, ...]
    write: Callable[[nn.Module, Path, Mapping[str, str]], Runner]


def export(
    net: str | Path | nn.Module,
    out: str | Path,
    *,
    shapes: Sequence[tuple[int, int, int]] | None = None,
    seed: int = 0,
    trust_code: bool = False,
) -> float:
    """Write a net in the format that the ending of `out` names.

    `.onnx` (any batch and image size, its axes named batch, height and width; the recipe and what it was
    trained on are in its metadata), `.pt` or `.ts` (TorchScript), `.safetensors` (the weights that would be
    loaded, with the recipe: a checkpoint without training state); registered exporters add others.

    Args:
        net: a checkpoint, a run folder, a foreign net as `dilkit.inference.foreign` names it, or a module.
        shapes: (batch, height, width) to check on; by default five at random.

    Returns:
        The largest difference to the net over all of them.

    Raises:
        UsageError: not a net, another ending, a library that is missing, or an output that exists.
        DilkitError: what was written does not do what the net does; the file is removed.
    """
    out = Path(out)
    exporter = exporter_of(out)
    if out.exists():
        raise UsageError("the output exists", where=out, remedy="remove it, or choose another name")
    if exporter is None:
        opened, runner = _copy_checkpoint(net, out, trust_code)
    else:
        opened = open_net(net, trust_code=trust_code)
        if opened.module is None:
            raise UsageError("the input itself is no net to export")
        if any(isinstance(module, Scale) for module in opened.module.modules()):
            raise UsageError(
                "the net shrinks blurred images, to sizes that a graph cannot choose",
                where="model.equivariant",
                expected="contrast, or none",
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        runner = exporter.write(opened.module.eval().cpu(), out, describe(opened))
    assert opened.module is not None
    multiple = _multiple(opened.module)
    try:
        return check_export(opened.module, runner, shapes or random_shapes(seed, multiple=multiple), seed)
    except DilkitError:
        out.unlink(missing_ok=True)
        raise


def exporter_of(out: Path) -> Exporter | None:
    """The exporter of a file's ending; None for a checkpoint of dilkit's.

    Raises:
        UsageError: no exporter has that ending.
    """
    found = {suffix: exporter for exporter in map(EXPORTERS.get, EXPORTERS) for suffix in exporter.suffixes}
    if out.suffix != ".safetensors" and out.suffix not in found:
        raise UsageError("not a format to export to", where=out, expected=", ".join((*found, ".safetensors")))
    return found.get(out.suffix)


def describe(net: Net) -> dict[str, str]:
    """What is known of a net, as texts by key: for the metadata of files that are passed on."""
    said = {
        "producer": f"dilkit {__version__}",
        "input": "RGB in [0, 1], (batch, 3, height, width)",
        "output": "RGB, not clamped",
        "source": Path(net.source).name if net.source else "",
        "trained_on": str(net.trained) if net.trained is not None else "not known",
        "multiple": str(_multiple(net.module)) if net.module is not None else "1",
    }
    if "recipe" in net.metadata:
        said["recipe"] = json.dumps(net.metadata["recipe"], sort_keys=True)
    return said


def _copy_checkpoint(net: str | Path | nn.Module, out: Path, trust_code: bool) -> tuple[Net, Runner]:
    if not isinstance(net, str | Path):
        raise UsageError("a module without a recipe cannot be written as a checkpoint", where=out)
    loaded = checkpoint.load(find_checkpoint(net), trust_code=trust_code)
    notes = {name: value for name, value in loaded.metadata.items() if name not in ("format", "versions")}
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_weights(out, loaded.net, None, loaded.recipe, notes)
    return Net("net", loaded.net), checkpoint.load(out, trust_code=trust_code).net


def random_shapes(seed: int, count: int = 5, multiple: int = 1) -> list[tuple[int, int, int]]:
    """(batch, height, width), odd and even, upright and wide; or multiples of what the net needs."""
    random = np.random.default_rng(seed)
    drawn = [
        tuple(int(random.integers(*ends)) for ends in ((1, 4), (24, 97), (24, 97))) for _ in range(count)
    ]
    return [(b, -(-h // multiple) * multiple, -(-w // multiple) * multiple) for b, h, w in drawn]


@torch.inference_mode()
def check_export(
    net: nn.Module, other: Runner, shapes: Sequence[tuple[int, int, int]], seed: int = 0
) -> float:
    """The largest difference of two nets' outputs on random inputs in [0, 1] of those shapes.

    Raises:
        DilkitError: it exceeds `TOLERANCE`, or `other` fails on a shape.
    """
    worst, generator = 0.0, torch.Generator().manual_seed(seed)
    for batch, height, width in shapes:
        x = torch.rand(batch, 3, height, width, generator=generator)
        try:
            found = other(x)
        except Exception as error:  # any runtime may raise anything of its own
            raise DilkitError(
                "what was written fails on a shape that the net accepts",
                found=f"{tuple(x.shape)}: {str(error).splitlines()[0]}",
            ) from error
        expected = net(x)
        difference = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
        if not difference <= TOLERANCE:
            raise DilkitError(
                "what was written does not do what the net does",
                where=f"input {tuple(x.shape)}",
                found=f"a difference of {difference:.3g}",
                expected=f"at most {TOLERANCE:g}",
            )
        worst = max(worst, difference)
    return worst


@torch.inference_mode()
def _multiple(net: nn.Module) -> int:
    """What the sides of the input must be multiples of: 1 where it takes odd ones and pads them itself."""
    x = torch.zeros(1, 3, 61, 45, device=next((p.device for p in net.parameters()), None))
    try:
        if scale_between(x, net(x)) is not None:
            return 1
    except Exception:  # noqa: BLE001  (any net may raise anything of its own)
        pass
    return int(getattr(net, "multiple", 1))


def _example(net: nn.Module) -> Tensor:
    """An input to record the net on: of odd sides where it can be, so that what it pads is recorded too."""
    multiple = _multiple(net)
    return torch.rand(2, 3, *(-(-side // multiple) * multiple for side in (61, 45)))


def _torchscript(net: nn.Module, out: Path, about: Mapping[str, str]) -> Runner:
    with warnings.catch_warnings():
        # torch announces the end of TorchScript; the check that follows is what counts
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(net, _example(net), check_trace=False)
        torch.jit.save(traced, str(out), _extra_files={"about.json": json.dumps(dict(about)).encode()})
        opened: Runner = torch.jit.load(str(out))
    return opened


def _onnx(net: nn.Module, out: Path, about: Mapping[str, str]) -> Runner:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise UsageError(
            "ONNX needs further libraries", found=str(error), remedy='install dilkit with the extra "onnx"'
        ) from None
    sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    log = logging.getLogger("torch.onnx")  # it tells of operations of torchvision, which no net here has
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                net, (_example(net),), input_names=["image"], output_names=["restored"],
                dynamic_shapes=(sizes,), dynamo=True, verbose=False,
            )  # fmt: skip
        assert program is not None
        program.save(str(out))
    except Exception as error:  # torch's exporter raises errors of many kinds
        said = [line for line in str(error).splitlines() if "Error" in line or "not supported" in line]
        raise DilkitError(
            "torch cannot write this net as ONNX", where=out,
            found=(said or [type(error).__name__])[-1].strip()[:300],
            remedy="--torchscript, which writes more nets; none whose steps depend on the pixels",
        ) from error  # fmt: skip
    finally:
        log.setLevel(level)
    _name_axes(out, about, onnx)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


def _name_axes(path: Path, about: Mapping[str, str], onnx: Any) -> None:
    """Call the input's free axes batch, height and width, and note what is known of the net."""
    model = onnx.load(str(path))
    given = model.graph.input[0].type.tensor_type.shape.dim
    names = {given[i].dim_param: name for i, name in ((0, "batch"), (2, "height"), (3, "width"))}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
    model.producer_name, model.producer_version = "dilkit", __version__
    onnx.helper.set_model_props(model, dict(about))
    onnx.save(model, str(path))


def _accept(name: str, exporter: Exporter) -> None:
    right = isinstance(exporter, Exporter) and all(s.startswith(".") for s in exporter.suffixes)
    if not right or not exporter.suffixes or ".safetensors" in exporter.suffixes:
        raise UsageError(
            "not an exporter", where=name, found=repr(exporter)[:80],
            expected="an Exporter with endings such as .onnx, and not .safetensors",
        )  # fmt: skip


EXPORTERS: Registry[Exporter] = Registry("exporter", check=_accept, is_one=lambda x: isinstance(x, Exporter))
EXPORTERS.add(Exporter("onnx", (".onnx",), _onnx))
EXPORTERS.add(Exporter("torchscript", (".pt", ".ts"), _torchscript))


def check_exporter(exporter: Exporter, folder: str | Path) -> float:
    """The conformance check of an exporter: a small net written into `folder` and compared with itself.

    Raises:
        UsageError: it is not registered by its kind's rules.
        DilkitError: what was written does not do what the net does, or nothing was written.
    """
    _accept(exporter.name, exporter)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)).eval()
    out = Path(folder) / f"check{exporter.suffixes[0]}"
    runner = exporter.write(net, out, {"producer": "dilkit"})
    if not out.exists():
        raise DilkitError("the exporter wrote no file", where=exporter.name, expected=out)
    return check_export(net, runner, random_shapes(0))
