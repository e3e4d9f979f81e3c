"""The grid: every net on every image under every distortion and draw, each input made and measured once.

Rows are kept on disk as they are found, so that an evaluation cut short goes on where it stopped.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd
import torch
from torch import nn

from dilkit.checkpoint import Provenance
from dilkit.devices import pick_device
from dilkit.distortions import Word, as_float, confounder_set, pixel_hash
from dilkit.distortions.novelty import (
    GIVEN,
    Novelty,
    degree_of,
    novelty,
    reached,
    told_degree,
    type_of,
)
from dilkit.errors import UsageError
from dilkit.evaluation.degrade import Degradation, Noise
from dilkit.evaluation.extra_metrics import Compare, make_metrics
from dilkit.evaluation.rows import KEY, frame
from dilkit.evaluation.testsets import Data, Pixels, TestImage, find_images, find_pairs
from dilkit.inference.foreign import Adapted
from dilkit.inference.forward import (
    LARGE,
    Array,
    Tiling,
    restore_batch,
    restore_image,
    to_images,
    to_tensor,
)
from dilkit.inference.nets import Net, Nets, open_nets, origin
from dilkit.metrics import Channel, Measure, Reference, measured_levels
from dilkit.models.noise_map import NoiseMap

Progress = Callable[[int, int], None]
"""(cells done, cells in all)."""

_LARGE_TILES = Tiling(1024, 64, 32)


def evaluate(
    nets: Nets,
    data: Data,
    distort: Any = None,
    *,
    inputs: str | Path | None = None,
    clip: bool,
    quantize: bool,
    seed: int = 0,
    noise: Noise = "keyed",
    draws: int = 1,
    channel: Channel = "rgb",
    border: int = 0,
    measure: Measure = "uint8",
    metrics: Sequence[str] = (),
    trust_code: bool = False,
    device: str = "auto",
    batch: int | None = None,
    workers: int = 2,
    journal: Path | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Measure nets on distorted images.

    Args:
        nets: checkpoints, opened nets, or modules by label; `"input"` is the distorted input itself. Modules
            are moved to the device and put in eval mode.
        data: sources of clean images, images in memory by name, or pair folders, without distortions.
        distort: the distortions, as text, word, set or list;
        inputs: or instead, a folder of images already distorted, each named as its clean image in `data`.
        clip, quantize: what is done to a distorted image before it is a net's input. There is no default: a
            net trained under one policy and tested under another suffers a hidden shift.
        seed, noise, draws: randomness of the distortions, and how many draws of each.
        channel, border, measure: how images are compared (see `dilkit.metrics`).
        metrics: further metrics by name (see `dilkit.evaluation.extra_metrics`), each a column of its own.
        trust_code: whether code that a checkpoint or a name of a net asks for may be run (see `open_nets`).
        batch: inputs of one shape per forward pass; 8 on a GPU, 1 on the CPU by default.
        workers: threads that make inputs and measure outputs beside the forward passes.
        journal: a file where rows are kept as they are found; the same call goes on from it after a kill.
            It is removed at the end.

    Returns:
        One row per net, set, image, distortion and draw, in that order (`rows.COLUMNS`);
        the settings are in `.attrs["settings"]`.

    Raises:
        UsageError: a checkpoint, source, expression or setting that cannot be used; a net none of whose
            outputs has the size of its clean image.
        DilkitError: an image that cannot be read, or a net that fails on one.
    """
    if draws < 1 or workers < 1 or (batch is not None and batch < 1):
        raise UsageError("draws, workers and batch are at least 1")
    images = find_images(data) if inputs is None else find_pairs(data, inputs)
    paired = all(image.given is not None for image in images)
    if (distort is None) != paired or (paired and inputs is None and distort is not None):
        raise UsageError("give distortions to make, or a folder of distorted images, and not both")
    words = confounder_set(distort if distort is not None else "clean")
    if not len(words):
        raise UsageError("there is no distortion to evaluate", remedy="`clean` is the word for none")
    degrade = Degradation(seed, clip, quantize, noise)
    degrade.check(dict(zip(words.labels, words, strict=True)))
    compare = Measurement(channel, border, measure, make_metrics(metrics))
    chosen = pick_device(device)
    opened = open_nets(nets, chosen, trust_code=trust_code)
    settings: dict[str, Any] = {
        "distort": None if distort is None else str(words), "inputs": None if inputs is None else str(inputs),
        "clip": clip, "quantize": quantize,
        "seed": seed, "noise": noise, "draws": draws,
        "channel": channel, "border": border, "measure": measure, "metrics": list(metrics),
        "images": len(images), "device": str(chosen), "nets": {net.label: origin(net) for net in opened},
    }  # fmt: skip
    grid = Grid(images, (None,) if paired else words.words, opened, degrade, compare, chosen)
    identity = {**settings, "files": [[i.set, i.name, i.stamp] for i in images], "device": ""}
    with Journal(journal, identity) as kept:
        cells = grid.cells(draws, kept.rows)
        total = len(images) * len(words) * draws
        for done, found in enumerate(
            grid.run(cells, batch or (1 if chosen.type == "cpu" else 8), workers), 1
        ):
            for row in found:
                kept.add(row)
            if progress is not None:
                progress(total - len(cells) + done, total)
    for net in opened:
        settings["nets"][net.label]["adaptation"] = net.adaptation  # a multiple may have come to light
    rows = frame(sorted(kept.rows.values(), key=grid.place), settings)
    kept.finish()
    refuse_mismatches(rows, grid.mismatches)
    return rows


@dataclass(frozen=True)
class Cell:
    """Indices of the image, the word and the draw."""

    image: int
    word: int
    draw: int


@dataclass(frozen=True)
class Measurement:
    """How an image is compared with its clean one."""

    channel: Channel
    border: int
    measure: Measure
    further: dict[str, Compare]

    def reference(self, clean: Pixels) -> Reference:
        return Reference(clean, self.channel, self.border, self.measure)

    def values(self, clean: Reference, other: Array) -> dict[str, float]:
        """Every metric by name; NaN where the two differ in size (the input of super-resolution)."""
        if other.shape != clean.image.shape:
            return dict.fromkeys(("psnr", "ssim", *self.further), math.nan)
        psnr, ssim = clean.both(other)
        found = {"psnr": psnr, "ssim": ssim}
        if self.further:
            a, b = (
                measured_levels(x, border=self.border, measure=self.measure) for x in (other, clean.image)
            )
            found |= {name: compare(a, b) for name, compare in self.further.items()}
        return found


@dataclass(frozen=True, eq=False)
class Clean:
    """A clean image, read once for all its cells."""

    pixels: Pixels
    hash: str
    reference: Reference
    leaks: list[bool | None]


@dataclass(frozen=True, eq=False)
class Input:
    cell: Cell
    clean: Clean
    image: Array


Found = list[dict[str, Any]]
"""The rows of one cell, one per net."""


class Grid:
    """What all cells share. Inputs are made and outputs measured by a few threads, beside the net."""

    def __init__(
        self,
        images: Sequence[TestImage],
        words: Sequence[Word | None],
        nets: Sequence[Net],
        degrade: Degradation,
        compare: Measurement,
        device: torch.device,
    ) -> None:
        self.images, self.words, self.nets = images, words, nets
        self.degrade, self.compare, self.device = degrade, compare, device
        self.novelty: list[list[Novelty]] = [
            [novelty(w, net.trained, net.symmetries) for w in words] for net in nets
        ]
        self._past = [
            Provenance.from_metadata(net.metadata) if "images" in net.metadata else None for net in nets
        ]
        self._nets = {net.label: i for i, net in enumerate(nets)}
        self._images = {(image.set, image.name): i for i, image in enumerate(images)}
        self.labels = [GIVEN if word is None else word.label for word in words]
        self.mismatches: dict[str, Mismatch] = {}
        """By net, the first that was found."""
        self._words = {label: i for i, label in enumerate(self.labels)}

    def place(self, row: dict[str, Any]) -> tuple[int, ...]:
        """Where a row stands in the table."""
        image = self._images[row["set"], row["image"]]
        return self._nets[row["net"]], image, self._words[row["distortion"]], row["draw"]

    def cells(self, draws: int, known: Iterable[tuple[Any, ...]]) -> list[Cell]:
        """The cells that are not wholly known, images of one shape next to each other."""
        there = set(known)
        order = sorted(range(len(self.images)), key=lambda i: (self.images[i].shape, i))
        return [
            Cell(i, w, d)
            for i in order
            for w, label in enumerate(self.labels)
            for d in range(draws)
            if any(
                (net.label, self.images[i].set, self.images[i].name, label, d) not in there
                for net in self.nets
            )
        ]

    def run(self, cells: Sequence[Cell], batch: int, workers: int) -> Iterator[Found]:
        """The rows of each cell, as they are found."""
        ahead = 2 * workers + batch
        with ThreadPoolExecutor(workers) as pool:
            scored: deque[Future[Found]] = deque()
            try:
                for group in _groups(self._inputs(pool, cells, ahead), batch):
                    outputs = [self._restore(net, group) for net in self.nets]
                    for input_, *restored in zip(group, *outputs, strict=True):
                        scored.append(pool.submit(self._score, input_, restored))
                    while len(scored) > ahead:
                        yield scored.popleft().result()
                while scored:
                    yield scored.popleft().result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _inputs(self, pool: ThreadPoolExecutor, cells: Sequence[Cell], ahead: int) -> Iterator[Input]:
        waiting: deque[Future[Input]] = deque()
        for index, group in itertools.groupby(cells, key=lambda cell: cell.image):
            clean = pool.submit(self._read, self.images[index])
            for cell in group:
                waiting.append(pool.submit(self._make, cell, clean))
                while len(waiting) > ahead:
                    yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _read(self, image: TestImage) -> Clean:
        pixels = image.read()
        leaks = [None if past is None else past.holds(pixels) for past in self._past]
        return Clean(pixels, pixel_hash(pixels).hex(), self.compare.reference(pixels), leaks)

    def _make(self, cell: Cell, clean: Future[Clean]) -> Input:
        found, word = clean.result(), self.words[cell.word]
        if word is None:
            return Input(cell, found, as_float(self.images[cell.image].read_given()))
        return Input(cell, found, self.degrade(found.pixels, word, cell.draw))

    def _restore(self, net: Net, group: list[Input]) -> Sequence[Array | None]:
        if net.module is None:
            return [None] * len(group)
        if is_told(net.module):
            return [restore_told(net.module, x.image, self.words[x.cell.word], self.device) for x in group]
        if group[0].image.shape[0] * group[0].image.shape[1] > LARGE:
            return [restore_image(net.module, x.image, self.device, _LARGE_TILES) for x in group]
        return to_images(restore_batch(net.module, to_tensor([x.image for x in group], self.device)))

    def _score(self, input_: Input, restored: Sequence[Array | None]) -> Found:
        cell, clean = input_.cell, input_.clean
        image, word = self.images[cell.image], self.words[cell.word]
        before = self.compare.values(clean.reference, input_.image)
        found: Found = []
        for n, (net, output) in enumerate(zip(self.nets, restored, strict=True)):
            after = before if output is None else self.compare.values(clean.reference, output)
            if output is not None and output.shape != clean.pixels.shape:
                self.mismatches.setdefault(net.label, (output.shape, clean.pixels.shape))
            new = self.novelty[n][cell.word]
            by = {"reached_by": reached(word, net.trained, net.symmetries)} if new == "reached" else {}
            found.append(
                {
                    "net": net.label, "set": image.set, "image": image.name, "pixels": clean.hash,
                    "height": clean.pixels.shape[0], "width": clean.pixels.shape[1],
                    "distortion": self.labels[cell.word], "type": type_of(word), "degree": degree_of(word),
                    "draw": cell.draw, "novelty": new, "seen": None if new == "unknown" else new == "seen",
                    "leak": clean.leaks[n],
                    **after, **{f"input_{name}": value for name, value in before.items()},
                    **by,
                }
            )  # fmt: skip
        return found


def is_told(module: nn.Module) -> bool:
    """Whether a net is non-blind: told the degree of every test."""
    return isinstance(module, NoiseMap) or (isinstance(module, Adapted) and module.adaptation.sigma == "true")


def restore_told(module: nn.Module, image: Array, word: Word | None, device: str | torch.device) -> Array:
    """The output for one image; a non-blind net is told the degree of its distortion (a foreign one, the
    sigma of `awgn`)."""
    if isinstance(module, NoiseMap):
        module.degree = told_degree(word)
    elif isinstance(module, Adapted):
        module.known_sigma = degree_of(word) if type_of(word) == "awgn" else None
    return restore_image(module, image, device)


def _groups(inputs: Iterable[Input], size: int) -> Iterator[list[Input]]:
    """Runs of inputs of one shape, at most `size` of them."""
    group: list[Input] = []
    for each in inputs:
        if group and (len(group) == size or group[0].image.shape != each.image.shape):
            yield group
            group = []
        group.append(each)
    if group:
        yield group


Key = tuple[Any, ...]
"""(net, set, image, distortion, draw)."""


class Journal:
    """A JSONL file: the identity of the evaluation, then a row per line. Kept until `finish`.

    A journal of another evaluation is started over; a last line cut short by a kill is dropped.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self.path = path
        self._head = {
            "dilkit": "evaluation",
            "identity": blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).hexdigest(),
        }
        self.rows: dict[Key, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.rows = {self.key(row): row for row in self._read(self.path)}
            self._file = self.path.open("w", encoding="utf-8")
            for line in (self._head, *self.rows.values()):
                self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if self.path is not None:
            self._file.close()

    def key(self, row: Mapping[str, Any]) -> Key:
        return tuple(row[name] for name in KEY)

    def add(self, row: dict[str, Any]) -> None:
        self.rows[self.key(row)] = row
        if self.path is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def finish(self) -> None:
        """The rows are safe elsewhere: remove the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _read(self, path: Path) -> list[dict[str, Any]]:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return found[1:] if found and found[0] == self._head else []


Mismatch = tuple[tuple[int, ...], tuple[int, ...]]
"""The shapes of an output and of its clean image, where they differ."""


def refuse_mismatches(rows: pd.DataFrame, mismatches: Mapping[str, Mismatch]) -> None:
    """Refuse a net that fits nowhere.

    Args:
        rows: those of all nets.
        mismatches: by net, the first mismatch that was found.

    Raises:
        UsageError: no output of a net had the size of its clean image.
    """
    for label, (found, expected) in mismatches.items():
        if rows.loc[rows["net"] == label, "psnr"].isna().all():
            raise UsageError(
                "no output of the net has the size of its clean image, so there is nothing to measure",
                where=label,
                found="x".join(map(str, found)),
                expected="x".join(map(str, expected)),
                remedy="a net for super-resolution needs inputs as small as it enlarges them, such as"
                " downsample(4); a net that keeps the size needs distortions that keep it",
            )
