"""A trained net put to use: files in, files out, of any size."""

from __future__ import annotations

import errno
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dilkit.confounders.images import SUFFIXES
from dilkit.devices import pick_device
from dilkit.errors import DilkitError, UsageError
from dilkit.inference.forward import Tiling, multiple_of, restore_batch, restore_tiled, to_images, to_tensor
from dilkit.inference.image_files import LOSSLESS, Picture, read_picture, write_picture
from dilkit.inference.nets import open_net

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
    """What became of a job; `error` is empty if it went well, `stopped` says that no other could go well."""

    job: Job
    error: str = ""
    stopped: bool = False


def restore(
    net: str | Path | nn.Module,
    inputs: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    tiling: Tiling | None = TILING,
    existing: Existing = "refuse",
    trust_code: bool = False,
    device: str = "auto",
    processes: int = 1,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Restore image files.

    Depth (8 or 16 bits), grey, alpha, colour profile, EXIF and the folder structure are kept; formats that
    lose something (JPEG, WebP) become PNG. Inputs are never overwritten; a file is either whole or not there.

    Args:
        net: a checkpoint, a run folder, a foreign net as `dilkit.inference.foreign` names it, or, in one
            process only, a module.
        inputs: image files and folders (searched through).
        out: the folder to write into.
        tiling: how an image larger than a tile is cut; None takes every image whole.
        trust_code: whether code that a checkpoint or a name of a net asks for may be run.
        existing: what to do about outputs that are there already.
        processes: images restored at a time, each by a process of its own.

    Returns:
        One outcome per image, in order; those that failed say why, the others are done.

    Raises:
        UsageError: nothing to do, an output that is an input or exists, or a wrong net.
        DilkitError: the disk is full; it says how many images are done, and those are whole.
    """
    if Path(out).exists() and not Path(out).is_dir():
        raise UsageError(
            "the output is a file", where=out, expected="a folder", remedy="choose another --out"
        )
    jobs = plan_jobs(inputs, Path(out))
    there = [job for job in jobs if job.target.exists()]
    if there and existing == "refuse":
        raise UsageError(
            f"{len(there)} of the outputs exist already",
            where=there[0].target,
            remedy="--existing skip or --existing replace",
        )
    if existing == "skip":
        jobs = [job for job in jobs if job not in there]
    chosen = pick_device(device)
    found: list[Outcome] = []
    with _outcomes(net, jobs, tiling, chosen, processes, trust_code) as outcomes:
        for outcome in outcomes:
            found.append(outcome)
            if progress is not None:
                progress(len(found), len(jobs))
            if outcome.stopped:
                done = sum(not each.error for each in found)
                raise DilkitError(
                    f"no space left: {done} of {len(jobs)} images were restored and are whole",
                    where=Path(out),
                    found=outcome.error,
                    remedy="make room, then go on with --existing skip",
                )
    return found


def plan_jobs(inputs: str | Path | Iterable[str | Path], out: Path) -> list[Job]:
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
    net: nn.Module, picture: Picture, device: str | torch.device = "cpu", tiling: Tiling | None = None
) -> Picture:
    """Restore an image as it was read. Memory: the input, the output, and one band of tiles."""
    height, width = picture.shape
    cut = tiling or Tiling(max(height, width) + 1, 0, 1)
    cut = cut.aligned(multiple_of(net))

    def run(part: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return to_images(restore_batch(net, to_tensor([part], device)))[0]

    out: npt.NDArray[Any] | None = None
    for first, rows in restore_tiled(picture.part, run, (height, width), cut):
        if out is None:
            scale = rows.shape[1] // width
            out = np.empty((height * scale, width * scale, *picture.pixels.shape[2:]), picture.pixels.dtype)
        out[first : first + len(rows)] = picture.rows_like(rows)
    assert out is not None
    alpha = picture.alpha
    if alpha is not None and alpha.shape != out.shape[:2]:
        alpha = cv2.resize(alpha, (out.shape[1], out.shape[0]), interpolation=cv2.INTER_LINEAR)
    return replace(picture, pixels=out, alpha=alpha)


_FULL = {errno.ENOSPC, errno.EDQUOT}


def _restore_file(net: nn.Module, job: Job, tiling: Tiling | None, device: torch.device) -> Outcome:
    try:
        write_picture(job.target, restore_picture(net, read_picture(job.source), device, tiling))
    except OSError as error:
        return Outcome(job, str(error) or type(error).__name__, error.errno in _FULL)
    except (DilkitError, MemoryError) as error:
        return Outcome(job, str(error) or type(error).__name__)
    return Outcome(job)


@contextmanager
def _outcomes(
    net: str | Path | nn.Module,
    jobs: Sequence[Job],
    tiling: Tiling | None,
    device: torch.device,
    processes: int,
    trust_code: bool,
) -> Iterator[Iterator[Outcome]]:
    """The outcomes of the jobs in order, of this process or of others."""
    opened = open_net(net, trust_code=trust_code).module  # a wrong one is refused before any process starts
    if opened is None:
        raise UsageError("the input itself is no net to restore with")
    if processes == 1 or isinstance(net, nn.Module):
        opened.to(device).eval()
        yield (_restore_file(opened, job, tiling, device) for job in jobs)
        return
    del opened
    context = multiprocessing.get_context("spawn")
    threads = max(1, (multiprocessing.cpu_count() or 1) // processes)
    start = (str(net), str(device), threads, trust_code)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_start, initargs=start) as pool:
        try:
            yield pool.map(_in_process, jobs, [tiling] * len(jobs))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_process: dict[str, Any] = {}
"""The net and the device of a process of the pool."""


def _start(net: str, device: str, threads: int, trust_code: bool) -> None:
    torch.set_num_threads(threads)
    module = open_net(net, trust_code=trust_code).module
    assert module is not None
    _process.update(net=module.to(device).eval(), device=torch.device(device))


def _in_process(job: Job, tiling: Tiling | None) -> Outcome:
    return _restore_file(_process["net"], job, tiling, _process["device"])


def write_preview(path: Path, before: Path, after: Path, side: int = 640) -> Path:
    """The middle of both images at their own pixels, beside each other, as a PNG file.

    Args:
        before, after: image files; where the second is larger (super-resolution), the first is enlarged.
        side: the most pixels of a panel's side.

    Raises:
        UnreadableImage: one of them cannot be read.
    """
    old, new = (read_picture(each).part(slice(None), slice(None)).clip(0, 1) for each in (before, after))
    if old.shape != new.shape:
        old = np.asarray(cv2.resize(old, new.shape[1::-1], interpolation=cv2.INTER_NEAREST), np.float32)
    h, w = (min(side, n) for n in new.shape[:2])
    y, x = (new.shape[0] - h) // 2, (new.shape[1] - w) // 2
    line, gap = 22, 8  # pixels of the text above the panels, and between them
    sheet = np.full((h + line, 2 * w + gap, 3), 255, np.uint8)
    for left, name, image in ((0, "before", old), (w + gap, "after", new)):
        sheet[line:, left : left + w] = np.rint(255 * image[y : y + h, x : x + w, ::-1])
        where, font = (left + 2, line - 7), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(sheet, name, where, font, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", sheet)[1].tobytes())
    return path
