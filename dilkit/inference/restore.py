"""A trained net put to use: files in, files out, of any size."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import nn

from dilkit.confounders.images import SUFFIXES
from dilkit.errors import DilkitError, UsageError
from dilkit.inference.forward import Tiling, pick_device, restore_batch, restore_tiled, to_images, to_tensor
from dilkit.inference.image_files import LOSSLESS, Picture, read_picture, write_picture

Existing = Literal["refuse", "skip", "replace"]
Progress = Callable[[int, int], None]


TILING = Tiling()


@dataclass(frozen=True)
class Job:
    """One image file and where its restored version goes."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a job; `error` is empty if it went well."""

    job: Job
    error: str = ""


def restore(
    checkpoint: str | Path | nn.Module,
    inputs: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    tiling: Tiling | None = TILING,
    existing: Existing = "refuse",
    device: str = "auto",
    processes: int = 1,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Restore image files.

    Depth (8 or 16 bits), grey, alpha, colour profile, EXIF and the folder structure are kept; formats that
    lose something (JPEG, WebP) become PNG. Inputs are never overwritten; a file is either whole or not there.

    Args:
        checkpoint: a checkpoint, or a net (in one process only).
        inputs: image files and folders (searched through).
        out: the folder to write into.
        tiling: how an image larger than a tile is cut; None takes every image whole.
        existing: what to do about outputs that are there already.
        processes: images restored at a time, each by a process of its own.

    Returns:
        One outcome per image, in order; those that failed say why, the others are done.

    Raises:
        UsageError: nothing to do, an output that is an input or exists, or a wrong checkpoint.
    """
    if Path(out).exists() and not Path(out).is_dir():
        raise UsageError(
            "the output is a file", where=out, expected="a folder", remedy="choose another --out"
        )
    jobs = plan(inputs, Path(out))
    there = [job for job in jobs if job.target.exists()]
    if there and existing == "refuse":
        raise UsageError(
            f"{len(there)} of the outputs exist already",
            where=there[0].target,
            remedy="--existing skip or --existing replace",
        )
    if existing == "skip":
        jobs = [job for job in jobs if job not in there]
    device = pick_device(device)
    found = []
    for outcome in _run(checkpoint, jobs, tiling, device, processes):
        found.append(outcome)
        if progress is not None:
            progress(len(found), len(jobs))
    return found


def plan(inputs: str | Path | Iterable[str | Path], out: Path) -> list[Job]:
    """The jobs, none of which writes over an input or another's output."""
    paths = [Path(inputs)] if isinstance(inputs, str | Path) else [Path(p) for p in inputs]
    folders = [p for p in paths if p.is_dir()]
    jobs: dict[Path, Job] = {}
    for path in paths:
        for source, inside in _files(path, keep_name=len(folders) > 1):
            target = out / inside
            if source.suffix.lower() not in LOSSLESS:
                target = target.with_suffix(".png")
            if target in jobs:
                target = target.with_name(source.name + ".png")
            if target in jobs:
                raise UsageError("two images would be written to one file", where=target, found=source)
            jobs[target] = Job(source, target)
    if not jobs:
        raise UsageError("there is no image to restore", remedy="give files or folders of images")
    sources = {job.source.resolve() for job in jobs.values()}
    for target in jobs:
        if target.resolve() in sources:
            raise UsageError("an input would be overwritten", where=target, remedy="choose another folder")
    return list(jobs.values())


def _files(path: Path, keep_name: bool) -> Iterator[tuple[Path, Path]]:
    """(file, its path below the output folder)."""
    if path.is_file():
        yield path, Path(path.name)
    elif path.is_dir():
        base = Path(path.resolve().name) if keep_name else Path()
        for file in sorted(path.rglob("*")):
            if file.is_file() and file.suffix.lower() in SUFFIXES:
                yield file, base / file.relative_to(path)
    else:
        raise UsageError("no such file or folder", where=path)


def restore_picture(
    net: nn.Module, picture: Picture, device: str = "cpu", tiling: Tiling | None = None
) -> Picture:
    """Restore an image as it was read. Memory: the input, the output, and one band of tiles."""
    height, width = picture.shape
    cut = tiling or Tiling(max(height, width) + 1, 0, 1)
    cut = cut.aligned(getattr(net, "multiple", 1))

    def run(part: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return to_images(restore_batch(net, to_tensor([part], device)))[0]

    out: npt.NDArray[Any] | None = None
    for first, rows in restore_tiled(picture.part, run, (height, width), cut):
        if out is None:
            scale = rows.shape[1] // width
            out = np.empty((height * scale, width * scale, *picture.pixels.shape[2:]), picture.pixels.dtype)
        out[first : first + len(rows)] = picture.rows_like(rows)
    assert out is not None
    return replace(picture, pixels=out, alpha=_resized(picture.alpha, out.shape[:2]))


def _resized(alpha: npt.NDArray[Any] | None, shape: tuple[int, ...]) -> npt.NDArray[Any] | None:
    import cv2

    if alpha is None or alpha.shape == shape:
        return alpha
    return cv2.resize(alpha, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


def _one(net: nn.Module, job: Job, tiling: Tiling | None, device: str) -> Outcome:
    try:
        write_picture(job.target, restore_picture(net, read_picture(job.source), device, tiling))
    except (DilkitError, OSError, MemoryError) as error:
        return Outcome(job, str(error) or type(error).__name__)
    return Outcome(job)


def _run(
    checkpoint: str | Path | nn.Module,
    jobs: Sequence[Job],
    tiling: Tiling | None,
    device: str,
    processes: int,
) -> Iterator[Outcome]:
    if processes == 1 or isinstance(checkpoint, nn.Module):
        net = _net(checkpoint, device)
        for job in jobs:
            yield _one(net, job, tiling, device)
        return
    _net(checkpoint, "cpu")  # a wrong checkpoint is refused before any process starts
    context = multiprocessing.get_context("spawn")
    start = (checkpoint, device, max(1, (multiprocessing.cpu_count() or 1) // processes))
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_start, initargs=start) as pool:
        yield from pool.map(_in_process, jobs, [tiling] * len(jobs))


_process: dict[str, Any] = {}


def _start(checkpoint: str | Path, device: str, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    _process.update(net=_net(checkpoint, device), device=device)


def _in_process(job: Job, tiling: Tiling | None) -> Outcome:
    return _one(_process["net"], job, tiling, _process["device"])


def _net(checkpoint: str | Path | nn.Module, device: str) -> nn.Module:
    if isinstance(checkpoint, nn.Module):
        return checkpoint.to(device).eval()
    from dilkit import checkpoint as files

    return files.load(Path(checkpoint)).net.to(device).eval()
