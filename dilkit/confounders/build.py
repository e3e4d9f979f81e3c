"""Make a confounder dataset: plan, read the clean images in, distort them, close the file.

`OUT.tmp` is laid out in full from the start and filled in place, by this process or several, with plain
writes at known offsets; `OUT.journal` gains a line when a part has reached the disk. Killed at any moment,
the next run with the same settings does only what the journal lacks. When all is there the file gets its
checksum, is flushed and given its name in one step.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import cv2
import h5py
import numpy as np
import numpy.typing as npt
import threadpoolctl
import xxhash
from PIL import Image

from dilkit._version import __version__
from dilkit.confounders import format as layout
from dilkit.confounders.duplicates import hashes_of, perceptual_hash, refuse_duplicates
from dilkit.confounders.format import Regions, cut, pixels_of, regions, to_blocks, write_all
from dilkit.confounders.images import (
    Alpha,
    Failure,
    Pairs,
    Pixels,
    UnreadableImage,
    check_pairs,
    expand,
    failure,
    survey,
)
from dilkit.confounders.plan import (
    REAL,
    Coupling,
    Plan,
    PlannedView,
    Small,
    Storage,
    as_settings,
    make_plan,
    renderer,
)
from dilkit.distortions import ConfounderSet, SampleKey, Word, as_float, confounder_set, pixel_hash
from dilkit.distortions.render import keep_freed_memory
from dilkit.errors import DilkitError, UsageError, reason

Done = tuple[str, int]
"""A phase and the number of a part."""

Compared = list[str | bool]
"""What its images were compared with: excluded sources, and whether they may look like each other."""


class UnfinishedFile:
    """A dataset in the making and its journal; open it with `with`, one process at a time."""

    def __init__(self, out: Path, plan: Plan, *, restart: bool = False, every: float = 0.2) -> None:
        self.out = out
        self.path = out.with_name(out.name + ".tmp")
        self.journal_path = _journal_path(out)
        self.plan = plan
        self.failures: list[Failure] = []
        self.done: set[Done] = set()
        self._base = {"base": plan.stamp, "plan": plan.identity, "version": __version__}
        self._restart = restart
        self._every = every
        self._pending: list[Done] = []
        self._last_flush = time.monotonic()
        self._writing: Future[None] | None = None
        self._writer = ThreadPoolExecutor(1, "dilkit-journal")
        self._journal: IO[str]

    def __enter__(self) -> Self:
        try:
            self._journal = self.journal_path.open("a+", encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"cannot write there: {reason(error)}", where=self.out, remedy="choose another --out"
            ) from None
        try:
            # lockf, not flock: forked workers must not keep the lock
            fcntl.lockf(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(self._journal.fileno()).st_nlink:
                raise BlockingIOError("it was completed since the journal was opened")
        except OSError:
            self._journal.close()
            raise UsageError("another run is writing this dataset", where=self.out) from None
        try:
            self.resumed = self._resume()
            if not self.resumed:
                self._begin()
            self._find()
        except BaseException:
            self._journal.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.path.exists():
                self._finish()
        except OSError:
            if kind is None:
                raise
        finally:
            self._writer.shutdown()
            self._journal.close()

    def record(self, done: Done) -> None:
        """A part is written; it is journalled with the next flush."""
        self.done.add(done)
        self._pending.append(done)
        if time.monotonic() - self._last_flush >= self._every:
            self.flush()

    def leave_out(self, failures: list[Failure]) -> None:
        """Start again without images that turned out to be unreadable."""
        self._wait()
        self.failures += failures
        self.plan = self.plan.without(failures)
        self.done.clear()
        self._pending.clear()
        if len(self.plan):
            self._begin()
            self._find()
        else:
            self.discard()

    def complete(self, compared: Compared) -> None:
        """Everything is written: make it durable, then give it its name."""
        self._finish()
        self._write([{"checksum": layout.close_checksum(self.path), "compared": compared}])
        give_name(self.path, self.out)
        self.journal_path.unlink(missing_ok=True)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.journal_path.unlink(missing_ok=True)

    def _find(self) -> None:
        with h5py.File(self.path, "r", locking=False) as file:
            self.regions = regions(file)
        self._journal.seek(0)
        self.begun = self._journal.readline()

    def _begin(self) -> None:
        self.path.unlink(missing_ok=True)
        self._journal.truncate(0)
        try:
            layout.create(self.path, self.plan)
        except OSError as error:
            needed = sum(self.plan.nbytes().values())
            self.discard()
            raise DilkitError(
                f"no room for the dataset: {reason(error)}",
                where=self.out,
                expected=f"{needed / 1e6:,.0f} MB free, and some for the index",
                remedy="free some space, choose another disk, or use --storage virtual",
            ) from None
        left_out = [[f.name, f.reason] for f in self.failures]
        self._write([{**self._base, "left out": left_out, "stamps": self.plan.stamps}])

    def _resume(self) -> bool:
        self._journal.seek(0)
        lines = [_parsed(line) for line in self._journal]
        if not lines or lines[0] is None or not self.path.exists():
            return False
        if lines[0].get("base") != self._base["base"]:
            if self._restart:
                return False
            raise self._refusal(lines[0])
        if self._restart:
            return False
        self.failures = [Failure(*pair) for pair in lines[0]["left out"]]
        self.plan = self.plan.without(self.failures)
        self.done = {(line["phase"], part) for line in lines[1:] if line for part in line.get("parts", ())}
        return True

    def _refusal(self, begun: dict[str, Any]) -> UsageError:
        """Why the journal's first line does not let this run go on."""
        other, found = "with other settings or sources", None
        if begun.get("version") != __version__:
            other = f"of dilkit {begun.get('version')}"
        elif begun.get("plan") == self._base["plan"]:
            other = "of images that were changed since, or with another licence"
            left_out = {name for name, _ in begun.get("left out", ())}
            kept = [i for i, image in enumerate(self.plan.images) if image.name not in left_out]
            before = begun.get("stamps", [])
            changed = [
                self.plan.images[i].name
                for i, stamp in zip(kept, before, strict=False)
                if self.plan.stamps[i] != stamp
            ]
            if changed:
                more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
                found = "changed: " + ", ".join(changed[:5]) + more
        return UsageError(
            f"an unfinished dataset {other} is in the way",
            where=self.path,
            found=found,
            remedy=f"repeat the earlier command, or give --restart, or delete {self.path.name}",
        )

    def flush(self) -> None:
        """Begin to hand what is written to the disk, then say so in the journal; one such job at a time."""
        if not self._pending or (self._writing is not None and not self._writing.done()):
            return
        self._wait()
        phases: dict[str, list[int]] = {}
        for phase, part in self._pending:
            phases.setdefault(phase, []).append(part)
        self._pending = []
        self._last_flush = time.monotonic()
        lines: list[dict[str, Any]] = [{"phase": phase, "parts": parts} for phase, parts in phases.items()]
        self._writing = self._writer.submit(self._sync_and_write, lines)

    def _finish(self) -> None:
        self._wait()
        self.flush()
        self._wait()

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _sync_and_write(self, lines: list[dict[str, Any]]) -> None:
        with self.path.open("r+b") as file:
            os.fdatasync(file.fileno()) if hasattr(os, "fdatasync") else os.fsync(file.fileno())
        self._write(lines)

    def _write(self, lines: list[dict[str, Any]]) -> None:
        self._journal.write("".join(json.dumps(line) + "\n" for line in lines))
        self._journal.flush()
        os.fsync(self._journal.fileno())


def completed(out: Path, plan: Plan, compared: Compared) -> list[Failure] | None:
    """What was left out of `out`, if a run of just this plan made it and was killed before it said so."""
    journal = _journal_path(out)
    if not (out.is_file() and journal.is_file()):
        return None
    with journal.open(encoding="utf-8") as file:
        lines = [_parsed(line) or {} for line in file] or [{}]
    last = {"checksum": layout.stored_checksum(out), "compared": compared}
    if lines[0].get("base") != plan.stamp or lines[-1] != last:
        return None
    journal.unlink(missing_ok=True)
    return [Failure(*pair) for pair in lines[0]["left out"]]


def _journal_path(out: Path) -> Path:
    return out.with_name(out.name + ".journal")


def give_name(path: Path, out: Path) -> None:
    """Move a finished file to its place, durably."""
    path.replace(out)
    folder = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _parsed(line: str) -> dict[str, Any] | None:
    """A line of the journal; None for one that a crash has torn."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and line.endswith("\n") else None


# -- What one process does to a part -----------------------------------------------------------------------


class Decoded(NamedTuple):
    """An image of the plan with its real counterparts, or why it cannot be used."""

    image: int
    pixels: Pixels | None
    real: dict[str, Pixels]
    looks: int
    problem: Failure | None


@dataclass
class PartWriter:
    """What one process needs to read and write the parts of one dataset."""

    path: Path
    plan: Plan
    regions: Regions
    file: int = -1
    _decoded: Decoded | None = None
    _offsets: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    def open(self) -> PartWriter:
        self.file = os.open(self.path, os.O_RDWR)
        self._offsets = {"clean": self.plan.offsets()}
        self._offsets |= {view.label: self.plan.offsets(view) for view in self.plan.views}
        return self

    def close(self) -> None:
        os.close(self.file)

    def decode(self, image: int) -> Decoded:
        """An image, read once for all the parts that are made of it in turn."""
        if self._decoded is None or self._decoded.image != image:
            self._decoded = None  # before the next is read, so that memory is that of one
            self._decoded = _decode(self.plan, image)
        return self._decoded

    def forget(self) -> None:
        self._decoded = None

    def write(self, name: str, row: int, values: npt.NDArray[Any]) -> None:
        """Put rows of an index or digest array in their place."""
        region = self.regions[name]
        width = region.nbytes // region.shape[0]
        write_all(self.file, np.ascontiguousarray(values, region.dtype), region.offset + row * width)

    def read(self, name: str, row: int, rows: int = 1) -> bytes:
        """Rows of an index or digest array."""
        region = self.regions[name]
        width = region.nbytes // region.shape[0]
        return os.pread(self.file, rows * width, region.offset + row * width)

    def write_pixels(self, item: int, pixels: Pixels, view: PlannedView | None = None, draw: int = 0) -> int:
        """Put the pixels of a clean item, or of its view, in their place; gives their digest."""
        region = self.regions["clean" if view is None else pixels_of(view.label, draw)]
        pixels = np.ascontiguousarray(pixels)
        laid = to_blocks(pixels, region.block) if region.block else pixels
        start = self._offsets["clean" if view is None else view.label][item]
        write_all(self.file, laid, region.offset + int(start) * 3 * np.dtype(region.dtype).itemsize)
        return xxhash.xxh3_64_intdigest(pixels.data)

    def read_clean(self, item: int) -> Pixels:
        region = self.regions["clean"]
        _, _, h, w = self.plan.window(item)
        pixel = 3 * np.dtype(region.dtype).itemsize
        raw = os.pread(self.file, h * w * pixel, region.offset + int(self._offsets["clean"][item]) * pixel)
        return cut(np.frombuffer(raw, region.dtype), (h, w), region.block or w)


def ingest(writer: PartWriter, part: int) -> list[Failure]:
    """Read the images of a part, cut and write their items and real views, with hashes; gives those that
    failed."""
    plan, failures = writer.plan, []
    first, last = plan.parts[part]
    digests = np.zeros(last - first, "<u8")
    looks = np.zeros(last - first, "<u8")
    hashes = [b""] * (last - first)
    real = {view.label: np.zeros(last - first, "<u8") for view in plan.views if view.real}
    for item in range(first, last):
        decoded = writer.decode(int(plan.image[item]))
        if decoded.problem is not None and decoded.problem not in failures:
            failures.append(decoded.problem)
        if decoded.pixels is None:
            hashes[item - first] = bytes(writer.regions["index/pixel_hash"].shape[1])
            continue
        y, x, h, w = plan.window(item)
        tile = np.ascontiguousarray(decoded.pixels[y : y + h, x : x + w])
        digests[item - first] = writer.write_pixels(item, tile)
        hashes[item - first] = pixel_hash(tile)
        looks[item - first] = decoded.looks
        for view in plan.views:
            if view.label in decoded.real:
                vy, vx, vh, vw = (side // view.scale for side in (y, x, h, w))
                cut_out = decoded.real[view.label][vy : vy + vh, vx : vx + vw]
                real[view.label][item - first] = writer.write_pixels(item, cut_out, view)
    writer.write("index/digest", first, digests)
    writer.write("index/perceptual_hash", first, looks)
    writer.write("index/pixel_hash", first, np.frombuffer(b"".join(hashes), np.uint8))
    for label, values in real.items():
        writer.write(f"digest/{label}", first, values)
    return failures


def _decode(plan: Plan, image: int) -> Decoded:
    try:
        pixels = plan.load(image)
        loaded = {view.label: plan.load_real(image, view) for view in plan.views if view.real}
    except UnreadableImage as error:
        return Decoded(image, None, {}, 0, failure(plan.images[image], error))
    real = {label: found for label, found in loaded.items() if found is not None}
    return Decoded(image, pixels, real, perceptual_hash(pixels), None)


def distort(writer: PartWriter, part: int) -> list[Failure]:
    """Make and write every synthetic view of a part's items; it cannot fail but by an exception."""
    plan, settings = writer.plan, writer.plan.settings
    writer.forget()
    first, last = plan.parts[part]
    synthetic = [
        (view, renderer(word, view.dtype, view.scale), np.zeros((last - first, plan.draws(view)), "<u8"))
        for view, word in zip(plan.views, plan.confounders, strict=True)
        if not view.real
    ]
    for item in range(first, last):
        image, name = as_float(writer.read_clean(item)), writer.read("index/pixel_hash", item)
        for view, render, digests in synthetic:
            for draw in range(plan.draws(view)):
                key = SampleKey(settings.seed, name, draw, settings.coupling)
                digests[item - first, draw] = writer.write_pixels(item, render(image, key, None), view, draw)
    for view, _, digests in synthetic:
        writer.write(f"digest/{view.label}", first, digests)
    return []


Task = Callable[[PartWriter, int], list[Failure]]
"""(writer, part) -> the images that failed."""

_writer: PartWriter | None = None
"""Of this worker process."""


class Workers:
    """This process or several, working on one dataset; open it with `with`. Processes start at the first task
    and stay to the end.

    Args:
        workers: processes of this machine.
        executor: does the work instead, in pieces of several parts.
        begun: the first line of the journal, by which a worker elsewhere knows that the file is still this
            run's.
    """

    def __init__(
        self, writer: PartWriter, workers: int, executor: Executor | None = None, begun: str = ""
    ) -> None:
        self._writer = writer
        self._workers = min(workers, len(writer.plan.parts))
        self._executor, self._begun = executor, begun
        self._pool: ProcessPoolExecutor | None = None
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        self._closing.enter_context(ONE_THREAD)
        if self._executor is not None:
            return self
        if self._workers > 1:
            forked = sys.platform == "linux"
            context = get_context("fork" if forked else "spawn")
            first = (self._writer, os.getpid(), forked)
            self._pool = ProcessPoolExecutor(self._workers, context, _start_worker, first)
        else:
            self._closing.callback(self._writer.open().close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._pool is not None:
                _dismiss(self._pool)
        finally:
            self._closing.close()

    def do(self, task: Task, parts: list[int]) -> Iterator[tuple[int, list[Failure]]]:
        """Do a task on every part, in any order; yields each part when it is written.

        Raises:
            DilkitError: a worker process died; of an executor's, one piece of work was lost several times.
        """
        if self._executor is not None:
            yield from self._elsewhere(self._executor, task, parts)
            return
        if self._pool is None:
            for part in parts:
                yield part, task(self._writer, part)
            return
        try:
            futures = {self._pool.submit(_in_worker, task, part): part for part in parts}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise DilkitError(
                "a worker process died (killed, or out of memory)",
                where=self._writer.path,
                remedy="repeat the command, which goes on from what is written; "
                "fewer --workers need less memory",
            ) from None

    def _elsewhere(
        self, executor: Executor, task: Task, parts: list[int]
    ) -> Iterator[tuple[int, list[Failure]]]:
        size = max(1, -(-len(parts) // _PIECES))
        work = _PieceOfWork(
            self._writer.path.absolute(), self._writer.plan, self._writer.regions, self._begun
        )
        pieces = [parts[first : first + size] for first in range(0, len(parts), size)]
        under_way = [(executor.submit(work.do, task, piece), piece, 1) for piece in pieces]
        try:
            while under_way:
                ended = [one for one in under_way if one[0].done()]
                under_way = [one for one in under_way if one not in ended]
                for future, piece, tried in ended:
                    try:
                        found = future.result()
                    except (DilkitError, OSError):
                        raise
                    except Exception as error:  # a lost worker raises what its executor pleases
                        if tried == _TRIALS:
                            raise DilkitError(
                                f"a piece of the work was lost {tried} times",
                                where=self._writer.path,
                                found=f"{type(error).__name__}: {error}".split("\n")[0],
                                remedy="look into the worker's log, then repeat the command: it goes on from "
                                "what is written",
                            ) from error
                        under_way.append((executor.submit(work.do, task, piece), piece, tried + 1))
                        continue
                    yield from zip(piece, found, strict=True)
                if not ended:
                    time.sleep(0.02)
        finally:
            for future, *_ in under_way:
                future.cancel()


_PIECES, _TRIALS = 32, 4
"""Into how many pieces an executor's work is divided in each phase, each of which carries the plan; how often
a piece is tried that was lost with its worker."""


@dataclass(frozen=True)
class _PieceOfWork:
    """What a worker of an executor needs, perhaps on another machine that sees the same folder."""

    path: Path
    plan: Plan
    regions: Regions
    begun: str

    def do(self, task: Task, parts: list[int]) -> list[list[Failure]]:
        """The task on some parts, which are on the disk when it returns."""
        try:
            with _journal_path(self.path.with_suffix("")).open(encoding="utf-8") as journal:
                if journal.readline() != self.begun:
                    raise DilkitError("another run has begun this dataset anew", where=self.path)
            writer = PartWriter(self.path, self.plan, self.regions).open()
        except FileNotFoundError:
            raise DilkitError(
                "a worker does not see the dataset",
                where=self.path,
                found=f"on {socket.gethostname()}",
                remedy="choose an --out, and sources, on a file system that all workers share",
            ) from None
        try:
            with ONE_THREAD:
                found = [task(writer, part) for part in parts]
                os.fsync(writer.file)
            return found
        finally:
            writer.close()


def _dismiss(pool: ProcessPoolExecutor) -> None:
    """Wait for what is in hand; where that is interrupted, too, nobody may write any more on return."""
    workers = list((pool._processes or {}).values())
    try:
        pool.shutdown(wait=True, cancel_futures=True)
    except BaseException:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()
        raise


def _in_worker(task: Task, part: int) -> list[Failure]:
    assert _writer is not None
    return task(_writer, part)


def _start_worker(writer: PartWriter, parent: int, forked: bool) -> None:
    """A worker leaves interrupts to its parent, dies with it, and uses one thread, as a forked one does."""
    global _writer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    if not forked:
        _limit_threads()
    keep_freed_memory()
    _writer = writer.open()


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _limit_threads() -> Any:
    Image.core.set_blocks_max(2)  # type: ignore[attr-defined]  # 32 MB for its next image: fresh pages are slow
    cv2.setNumThreads(1)
    return threadpoolctl.threadpool_limits(1)


class _OneThread:
    """One OpenCV and BLAS thread as long as anybody in this process wants it, from whichever thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = 0

    def __enter__(self) -> None:
        with self._lock:
            self._wanted += 1
            if self._wanted == 1:
                self._before, self._limits = cv2.getNumThreads(), _limit_threads()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._wanted -= 1
            if not self._wanted:
                self._limits.restore_original_limits()
                cv2.setNumThreads(self._before)


ONE_THREAD = _OneThread()


Progress = Callable[[str, int, int], None]
"""(phase, items done, items in all)"""


@dataclass(frozen=True)
class Built:
    """What `augment` made.

    Attributes:
        images: how many clean images went in.
        items: tiles (or whole images), each with a view per confounder.
        failures: images left out, and why.
        sizes: how many sizes the items have.
        skipped: names of images smaller than a tile, where these are skipped.
        resumed: whether it went on from an interrupted run.
    """

    path: Path
    images: int
    items: int
    sizes: int
    labels: tuple[str, ...]
    nbytes: int
    failures: tuple[Failure, ...]
    skipped: tuple[str, ...]
    resumed: bool
    seconds: float


def augment(
    sources: str | Path | Iterable[str | Path],
    distort: str | Word | ConfounderSet | Sequence[Any],
    out: str | Path,
    *,
    tile: int = 256,
    stride: int | None = None,
    pairs: Sequence[str | Pairs] = (),
    small: Small = "keep",
    alpha: Alpha = "refuse",
    seed: int = 0,
    storage: Storage = "stored",
    coupling: Coupling = "independent",
    draws: int = 1,
    crop_multiple: int = 1,
    validation: float = 0.0,
    licence: str = "",
    limit: int | None = None,
    allow_misaligned: bool = False,
    shard: tuple[int, int] | None = None,
    exclude: Sequence[str | Path] = (),
    allow_duplicates: bool = False,
    workers: int = 1,
    executor: Executor | None = None,
    overwrite: bool = False,
    restart: bool = False,
    progress: Progress | None = None,
    checkpoint_every: float = 0.2,
) -> Built:
    """Make a paired confounder dataset: every clean tile under every distortion, in one HDF5 file.

    The same bytes come out for any number of workers and after any interruption. An interrupted call is
    continued by repeating it.

    Args:
        sources: folders, globs, files, `samples:train|test`, `deadleaves:N` (see `images.expand`); may be
            empty where there are pairs.
        distort: a confounder set, or anything `confounder_set` takes; may be empty where there are pairs.
        out: the HDF5 file to make.
        tile, stride: in pixels; `tile=0` takes whole images; the stride is the tile where it is not given.
            The last tile of a row or column ends at the border.
        pairs: sets of real pairs (`NAME=CLEAN:DEGRADED`, see `images.Pairs`), each a confounder of that name;
            their clean images are distorted as those of the sources are.
        small: images smaller than a tile are kept whole, or skipped and counted.
        alpha: refuse transparent images, or lay them on a plain background.
        seed: the root of all randomness.
        storage: `virtual` keeps the clean images and the recipe; views are made when they are read.
        coupling: `common` gives all degrees of one distortion the same random field.
        draws: how many draws of each random word are stored.
        crop_multiple: cut the sides of items to multiples of it, at the right and the bottom.
        validation: share of the images (not tiles) marked `validation` instead of `train`.
        licence: of source files, recorded with each.
        limit: take only the first so many images, and of each set of pairs.
        allow_misaligned: take pairs that are shifted or show different things.
        shard: (k, n) makes the k-th of n parts alone, for `merge`; `out` is the file of this part.
        exclude: sources (a test set) that no image may look like.
        allow_duplicates: accept images that look like each other.
        workers: processes of this machine.
        executor: does the work instead of them: any `concurrent.futures.Executor`, Dask's among them, whose
            workers see `out` and the sources under the same paths. What is lost with a worker is done again.
        overwrite: replace `out`, when the new file is complete.
        restart: forget an unfinished run.
        progress: called with (phase, done, total).
        checkpoint_every: seconds between journal entries.

    Raises:
        UsageError: a wrong setting, or `out` exists.
        DilkitError: no image could be read, the disk is full, or a worker died.
    """
    began = time.monotonic()
    out = Path(out)
    plan, failures = plan_for(
        sources,
        distort,
        tile=tile,
        stride=tile if stride is None else stride,
        small=small,
        alpha=alpha,
        seed=seed,
        storage=storage,
        coupling=coupling,
        validation=validation,
        licence=licence,
        limit=limit,
        pairs=pairs,
        draws=draws,
        crop_multiple=crop_multiple,
        allow_misaligned=allow_misaligned,
    )
    require_images(plan, failures, plan.skipped)
    if shard is not None:
        plan = part_of(plan, *shard)
    compared: Compared = [*map(str, exclude), allow_duplicates]
    left_out = completed(Path(os.path.realpath(out)), plan, compared)
    if left_out is not None:
        kept = plan.without(left_out)
        return _built(out, kept, [*failures, *left_out], plan.skipped, True, began)
    out = check_target(out, overwrite)
    excluded = hashes_of(exclude, plan.settings.alpha) if exclude else {}
    try:
        with UnfinishedFile(out, plan, restart=restart, every=checkpoint_every) as unfinished:
            _fill(unfinished, workers, executor, progress, excluded, allow_duplicates)
            failures += unfinished.failures
            require_images(unfinished.plan, failures, plan.skipped)
            unfinished.complete(compared)
    except OSError as error:
        raise DilkitError(
            f"writing failed: {reason(error)}",
            where=out,
            remedy="make room, then repeat the command: it goes on from what is written",
        ) from error
    return _built(out, unfinished.plan, failures, plan.skipped, unfinished.resumed, began)


def _built(
    path: Path, plan: Plan, failures: list[Failure], skipped: tuple[str, ...], resumed: bool, began: float
) -> Built:
    return Built(
        path=path,
        images=len(plan.images),
        items=len(plan),
        sizes=len(np.unique(plan.box[:, 2:], axis=0)),
        labels=tuple(view.label for view in plan.views),
        nbytes=path.stat().st_size,
        failures=tuple(failures),
        skipped=skipped,
        resumed=resumed,
        seconds=time.monotonic() - began,
    )


def plan_for(
    sources: str | Path | Iterable[str | Path],
    distort: str | Word | ConfounderSet | Sequence[Any],
    *,
    licence: str = "",
    limit: int | None = None,
    pairs: Sequence[str | Pairs] = (),
    allow_misaligned: bool = False,
    **settings: Any,
) -> tuple[Plan, list[Failure]]:
    """What `augment` would make, and the images whose headers cannot be read."""
    synthetic, sets = confounder_set(distort), [Pairs.parse(pair) for pair in pairs]
    confounders = ConfounderSet.of(
        [*synthetic, *(word for pair in sets for word in confounder_set(f"{REAL}('{pair.name}')"))]
    )
    if not len(confounders):
        raise UsageError("there is no distortion in the set", found=confounders, expected="at least one")
    if limit is not None and limit < 1:
        raise UsageError("the limit must be positive", where="limit", found=limit)
    chosen = as_settings(**settings)
    given = [sources] if isinstance(sources, (str, Path)) else sources
    surveyed, failures = survey(expand(given, seed=chosen.seed, licence=licence, limit=limit, pairs=sets))
    scales = check_pairs(surveyed, alpha=chosen.alpha, aligned=not allow_misaligned)
    return make_plan(surveyed, confounders, chosen, scales, failures), failures


def part_of(plan: Plan, k: int, n: int) -> Plan:
    """The k-th of n shards; a UsageError where it does not exist or one would be empty."""
    if not 1 <= k <= n:
        raise UsageError("no such shard", where="shard", found=f"{k}/{n}", expected="k/n with 1 <= k <= n")
    if n > len(plan.images):
        raise UsageError(
            f"{len(plan.images)} images do not fill {n} shards",
            where="shard",
            found=f"{k}/{n}: some would be empty",
            expected=f"at most {len(plan.images)}",
        )
    return plan.part_of(k, n)


def check_target(out: Path, overwrite: bool) -> Path:
    """The file to write, that which a link points to; a UsageError where it exists, or cannot be made."""
    out = Path(os.path.realpath(out)) if out.is_symlink() else out
    if out.is_dir():
        raise UsageError("the output is a folder", where=out, expected="a file name such as train.h5")
    if out.exists() and not overwrite:
        raise UsageError(
            "the output exists already", where=out, remedy="choose another name or give --overwrite"
        )
    if out.exists() and not _is_hdf5(out):
        raise UsageError("the output exists and is not a dataset", where=out, remedy="choose another name")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write there: {reason(error)}", where=out, remedy="choose another --out"
        ) from None
    return out


def _is_hdf5(path: Path) -> bool:
    """So that nobody's picture or device is taken for an earlier dataset; an empty file is nobody's."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8) in (b"", b"\x89HDF\r\n\x1a\n")


def _fill(
    unfinished: UnfinishedFile,
    workers: int,
    executor: Executor | None,
    progress: Progress | None,
    excluded: dict[str, int],
    allow: bool,
) -> None:
    while len(unfinished.plan):
        writer = PartWriter(unfinished.path, unfinished.plan, unfinished.regions)
        with Workers(writer, workers, executor, unfinished.begun) as pool:
            failures = _phase(unfinished, "read", ingest, pool, progress)
            if not failures:
                if excluded or not allow:
                    _compare(unfinished, excluded, allow)
                if unfinished.plan.settings.storage == "stored":
                    _phase(unfinished, "distort", distort, pool, progress)
                return
        unfinished.leave_out(failures)


def _compare(unfinished: UnfinishedFile, excluded: dict[str, int], allow: bool) -> None:
    images, first = np.unique(unfinished.plan.image, return_index=True)
    seen = unfinished.regions["index/perceptual_hash"].map(unfinished.path)[first]
    names = [unfinished.plan.images[i].name for i in images]
    refuse_duplicates(names, seen.tolist(), excluded, allow=allow, again=" and give --restart")


def _phase(
    unfinished: UnfinishedFile, phase: str, task: Task, pool: Workers, progress: Progress | None
) -> list[Failure]:
    parts = unfinished.plan.parts
    todo = [k for k in range(len(parts)) if (phase, k) not in unfinished.done]
    done = len(unfinished.plan) - sum(parts[k][1] - parts[k][0] for k in todo)
    failures: dict[str, Failure] = {}
    report = progress or (lambda phase, done, total: None)
    report(phase, done, len(unfinished.plan))
    for part, failed in pool.do(task, todo):
        failures |= {failure.name: failure for failure in failed}
        if not failures:
            unfinished.record((phase, part))
        done += parts[part][1] - parts[part][0]
        report(phase, done, len(unfinished.plan))
    unfinished.flush()
    return [failures[name] for name in sorted(failures)]


def require_images(plan: Plan, failures: Sequence[Failure], skipped: Sequence[str]) -> None:
    """Raises DilkitError where nothing is left, saying why."""
    if len(plan):
        return
    lines = [f"{failure.name}: {failure.reason}" for failure in failures[:10]]
    lines += [f"{name}: smaller than a tile" for name in skipped[: 10 - len(lines)]]
    more = len(failures) + len(skipped) - len(lines)
    raise DilkitError(
        "no image could be used",
        found="\n            ".join(lines + ([f"and {more} more"] if more > 0 else [])),
        remedy="check the sources; --small keep takes images smaller than a tile" if skipped else None,
    )
