"""A trained net for other programs, checked against the net itself after it is written."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from dilkit.errors import DilkitError, UsageError

Format = Literal["onnx", "torchscript", "safetensors"]
SUFFIXES: dict[str, Format] = {
    ".onnx": "onnx",
    ".pt": "torchscript",
    ".ts": "torchscript",
    ".safetensors": "safetensors",
}
TOLERANCE = 1e-4
"""Largest difference of any output value, on inputs in [0, 1]."""

Runner = Callable[[Tensor], Tensor]


def export(
    checkpoint: str | Path,
    out: str | Path,
    *,
    shapes: Sequence[tuple[int, int, int]] | None = None,
    seed: int = 0,
) -> float:
    """Write the net of a checkpoint in the format that the ending of `out` names.

    `.onnx` (any batch and image size), `.pt` or `.ts` (TorchScript), `.safetensors` (the weights that would
    be loaded, with the recipe: a checkpoint that needs no training state).

    Args:
        shapes: (batch, height, width) to check on; by default five at random.

    Returns:
        The largest difference to the net over all of them.

    Raises:
        UsageError: not a checkpoint, another ending, a library that is missing, or an output that exists.
        DilkitError: what was written does not do what the net does; the file is removed.
    """
    from dilkit import checkpoint as files

    out = Path(out)
    if out.suffix not in SUFFIXES:
        raise UsageError("not a format to export to", where=out, expected=", ".join(SUFFIXES))
    if out.exists():
        raise UsageError("the output exists", where=out, remedy="remove it, or choose another name")
    loaded = files.load(checkpoint)
    out.parent.mkdir(parents=True, exist_ok=True)
    kind = SUFFIXES[out.suffix]
    if kind == "safetensors":
        notes = {name: value for name, value in loaded.metadata.items() if name not in ("format", "versions")}
        files.save_weights(out, loaded.net, None, loaded.recipe, notes)
        runner: Runner = files.load(out).net
    else:
        runner = _WRITERS[kind](loaded.net, out)
    try:
        return check(loaded.net, runner, shapes or random_shapes(seed), seed)
    except DilkitError:
        out.unlink(missing_ok=True)
        raise


def random_shapes(seed: int, count: int = 5) -> list[tuple[int, int, int]]:
    """(batch, height, width), odd and even, upright and wide."""
    random = np.random.default_rng(seed)
    return [
        (int(random.integers(1, 4)), int(random.integers(24, 97)), int(random.integers(24, 97)))
        for _ in range(count)
    ]


@torch.inference_mode()
def check(net: nn.Module, other: Runner, shapes: Sequence[tuple[int, int, int]], seed: int = 0) -> float:
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


def _torchscript(net: nn.Module, out: Path) -> Runner:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # torch announces the end of TorchScript; the check below is what counts
        traced = torch.jit.trace(net, torch.rand(1, 3, 64, 48), check_trace=False)
        torch.jit.save(traced, str(out))
        opened: Runner = torch.jit.load(str(out))
    return opened


def _onnx(net: nn.Module, out: Path) -> Runner:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise UsageError(
            "ONNX needs further libraries", found=str(error), remedy='install dilkit with the extra "onnx"'
        ) from None
    sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net, (torch.rand(2, 3, 64, 48),), input_names=["image"], output_names=["restored"],
            dynamic_shapes=(sizes,), dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None
    program.save(str(out))
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


_WRITERS: dict[str, Callable[[nn.Module, Path], Runner]] = {"onnx": _onnx, "torchscript": _torchscript}
