"""Checkpoints: one safetensors file that is enough to rebuild the net and says what the net has seen, and the
training state beside it. Files are either whole or not there."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from dilkit._version import __version__
from dilkit.confounders.duplicates import SeenImages
from dilkit.distortions import ConfounderSet, confounder_set
from dilkit.errors import DilkitError, UsageError, reason
from dilkit.models import from_config
from dilkit.recipe import Recipe, resolved, validate
from dilkit.zoo import resolve


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a temporary name beside `path`, flush it to disk, then replace `path`.

    Where writing fails (a full disk), what was there before stays, and nothing half-written is left.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; some writers make files of their own mode
        write(temporary)
        temporary.chmod(mode)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def link(source: Path, name: Path) -> None:
    """Give a finished file a second name, replacing what had it; a copy where links are not possible."""

    def write(temporary: Path) -> None:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            temporary.write_bytes(source.read_bytes())

    write_atomically(name, write)


FORMAT = 1
EMA = "ema/"
"""What the names of the moving average's tensors begin with."""
_KEY = "dilkit"
_IMAGES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}
_STATE = {"step", "passes", "seconds", "best", "objective", "optimizer", "schedule", "rng", "weights"}
"""What every training state has."""
T = TypeVar("T")


@dataclass(frozen=True)
class Provenance:
    """What a net has seen in its life. It only grows: by training, resuming, fine-tuning and selection.

    Attributes:
        confounders: the distortions trained on, each as an expression; `labels` are theirs in the datasets.
        images: those trained on.
        selection: those a checkpoint was selected by.
        parents: the checkpoints its first weights came from, oldest first: name and digest.
        unknown: what cannot be known, in words. A table of nets with unknown pasts says so.
    """

    confounders: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    images: SeenImages | None = None
    selection: SeenImages | None = None
    parents: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def __or__(self, later: Provenance) -> Provenance:
        """What was seen before and later."""

        def both(a: SeenImages | None, b: SeenImages | None) -> SeenImages | None:
            return a | b if a is not None and b is not None else a if b is None else b

        return Provenance(
            tuple(dict.fromkeys((*self.confounders, *later.confounders))),
            tuple(dict.fromkeys((*self.labels, *later.labels))),
            both(self.images, later.images),
            both(self.selection, later.selection),
            tuple(dict.fromkeys((*self.parents, *later.parents))),
            tuple(dict.fromkeys((*self.unknown, *later.unknown))),
        )

    def holds(self, image: NDArray[Any]) -> bool | None:
        """Whether an image, (H, W, 3), looks like one that was trained on or selected by; None where it
        does not and not all of those are known."""
        known = [seen for seen in (self.images, self.selection) if seen is not None]
        if any(seen.holds(image) for seen in known):
            return True
        return None if self.images is None or self.unknown else False

    def to_metadata(self) -> dict[str, Any]:
        """JSON-able, as it stands in a checkpoint."""
        return {
            "confounders": " | ".join(self.confounders) or None,
            "labels": list(self.labels),
            "images": None if self.images is None else self.images.to_json(),
            "selection": None if self.selection is None else self.selection.to_json(),
            "parents": list(self.parents),
            "unknown": list(self.unknown),
        }

    @classmethod
    def from_metadata(cls, meta: Mapping[str, Any]) -> Provenance:
        """What a checkpoint says, of any age.

        Raises:
            DilkitError: its list of images is damaged.
        """
        text, labels = meta.get("confounders"), meta.get("labels")
        labels = tuple(str(label) for label in labels) if isinstance(labels, list) else ()
        unknown = [str(each) for each in meta.get("unknown") or ()]
        if not isinstance(text, str):
            unknown.append("the distortions it was trained on")
        if meta.get("images") is None:
            unknown.append("the images it was trained on")
        images, selection = (
            None if meta.get(key) is None else SeenImages.from_json(meta[key])
            for key in ("images", "selection")
        )
        return cls(
            confounders=_each(text, labels) if isinstance(text, str) else (),
            labels=labels,
            images=images,
            selection=selection,
            parents=tuple(str(parent) for parent in meta.get("parents") or ()),
            unknown=tuple(dict.fromkeys(unknown)),
        )


def _each(text: str, labels: Collection[str]) -> tuple[str, ...]:
    """The words of an expression that have one of the labels; the whole of it where it cannot be read
    here."""
    try:
        words = confounder_set(text)
    except DilkitError:
        return (text,)
    named = [word for word in words if word.label in labels]
    return tuple(str(ConfounderSet.of([word])) for word in named or words)


@dataclass(frozen=True)
class Loaded:
    """A net rebuilt from its checkpoint (on the CPU, in eval mode), its recipe and what was noted with it.

    `metadata` has `step`, `passes`, `versions`, and the provenance.
    """

    net: nn.Module
    recipe: Recipe
    metadata: dict[str, Any]

    @property
    def provenance(self) -> Provenance:
        """What the net has seen."""
        return Provenance.from_metadata(self.metadata)


def versions() -> dict[str, str]:
    """What made the numbers: dilkit, torch, Python and the machine's kind."""
    return {
        "dilkit": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def save_weights(
    path: Path, net: nn.Module, average: AveragedModel | None, recipe: Recipe, notes: Mapping[str, Any]
) -> str:
    """Write the weights and everything needed to rebuild the net; the digest of the file is returned."""
    named = dict(net.state_dict())
    if average is not None:
        named |= {EMA + name: t for name, t in average.module.state_dict().items()}
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in named.items()}
    meta = {"format": FORMAT, "recipe": resolved(recipe), "versions": versions(), **notes}
    text = json.dumps(meta, sort_keys=True)
    write_atomically(path, lambda p: _save_tensors(tensors, p, text))
    return digest(path)


def _save_tensors(tensors: dict[str, Tensor], path: Path, text: str) -> None:
    try:
        save_file(tensors, path, metadata={_KEY: text})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else 0
        raise OSError(code, os.strerror(code) if code else str(error), str(path)) from None


def _save_state(state: Mapping[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(state, file)


def digest(path: Path) -> str:
    with path.open("rb") as handle:
        state = blake2b(digest_size=16)
        while block := handle.read(1 << 22):
            state.update(block)
    return state.hexdigest()


def read(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, and the metadata: plain values, of which `recipe` is a map. Nothing is built or run.

    Raises:
        UsageError: no such file, or not one of our checkpoints.
    """
    path = resolve(path)
    with _opened(path) as file:
        meta = _metadata(file, path)
        return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118


def initial_weights(path: Path) -> tuple[dict[str, Tensor], Provenance]:
    """The weights to start another net from, and what they have seen.

    Safetensors files of other programs are taken too; what they have seen is unknown.
    """
    with _opened(path) as file:
        foreign = _KEY not in (file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        past = Provenance(unknown=("parent unknown",)) if foreign else None
        past = past or Provenance.from_metadata(_metadata(file, path))
    return net_tensors(tensors), past | Provenance(parents=(f"{path.name} {digest(path)}",))


def find_checkpoint(source: str | Path) -> Path:
    """The checkpoint of a run folder, or of `zoo:NAME`: the best that was selected has a path of its own.

    Raises:
        UsageError: a folder without one, or a file that is plainly something else.
    """
    path = resolve(source).expanduser()
    if path.is_dir():
        inside = path / "checkpoints" / "last.safetensors"
        if inside.is_file():
            return inside
        if (path / "last.safetensors").is_file():
            return path / "last.safetensors"
        raise UsageError(
            "the folder holds no checkpoint", where=source, expected="RUN/checkpoints/last.safetensors"
        )
    if path.is_file() and path.suffix in (".h5", ".hdf5"):
        raise UsageError(
            "a dataset, not a net", where=source, remedy="give a checkpoint; test images are given by --data"
        )
    if path.is_file() and path.suffix.lower() in _IMAGES:
        raise UsageError(
            "an image, not a net",
            where=source,
            expected="a checkpoint: RUN/checkpoints/last.safetensors",
            remedy='test images follow --data one by one, or as a glob in quotes: --data "photos/*.png"',
        )
    if path.is_file() and path.suffix in (".pth", ".pt", ".ckpt", ".onnx"):
        named = f"spandrel:{source}, or module:package.module:Class(weights={source}) with --trust-code"
        raise UsageError(
            "not a checkpoint of dilkit's",
            where=source,
            remedy=f"onnx:{source}" if path.suffix == ".onnx" else named,
        )
    return path


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The safetensors file, whatever is wrong with it told in one way."""
    if not path.is_file():
        raise UsageError(
            "no such checkpoint", where=path, remedy="a run keeps RUN/checkpoints/last.safetensors"
        )
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UsageError(
            "the checkpoint is damaged or not a safetensors file", where=path, found=reason(error)
        ) from None


def _metadata(file: Any, path: Path) -> dict[str, Any]:
    text = (file.metadata() or {}).get(_KEY)
    if text is None:
        raise UsageError("not a dilkit checkpoint: it does not carry its recipe", where=path)
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict) or not isinstance(meta.get("recipe"), dict):
        raise UsageError("the checkpoint's metadata is damaged: it holds no recipe", where=path)
    if meta.get("format") not in range(1, FORMAT + 1):
        raise UsageError(
            "a checkpoint of another format",
            where=path,
            found=repr(meta.get("format"))[:40],
            expected=f"1 to {FORMAT}",
            remedy="update dilkit",
        )
    return meta


def net_tensors(tensors: Mapping[str, T], prefix: str = "") -> dict[str, T]:
    """The net's own tensors (or whatever is kept by their names), or those of its moving average
    (`prefix=EMA`)."""
    if prefix:
        return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    return {k: t for k, t in tensors.items() if not k.startswith(EMA)}


def load(
    path: Path | str,
    *,
    weights: Literal["auto", "net", "ema"] = "auto",
    trust_code: bool | Collection[str] = False,
) -> Loaded:
    """Rebuild a net from the one file.

    Only models of the registry are built; nothing else that the file names is imported, and a net whose
    tensors are not those in the file is refused before memory is taken for it.

    Args:
        path: the file, or `zoo:NAME` for a net that ships with dilkit.
        weights: the trained weights, their moving average, or (`auto`) the average where there is one; what
            was taken is in `metadata["weights"]`.
        trust_code: also import and call the `package.module:name` that the file names as its model: any, or
            those of the names given.

    Raises:
        UsageError: not a checkpoint, its model is code that is not trusted, or its weights are not those of
            the model its recipe names.
    """
    path = resolve(path)
    with _opened(path) as file:
        meta = _metadata(file, path)
        recipe = validate(meta.pop("recipe"), str(path))
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        averaged = any(name.startswith(EMA) for name in shapes)
        if weights == "ema" and not averaged:
            raise UsageError(
                "the checkpoint has no moving average", where=path, remedy="train with ema=0.999"
            )
        prefix = EMA if averaged and weights != "net" else ""
        named = isinstance(trust_code, Collection) and recipe.model.name in trust_code
        trusted = named or trust_code is True
        try:
            if not trusted:
                _refuse_misfit(recipe, net_tensors(shapes, prefix), path)
            net = from_config(recipe.model, trust="code" if trusted else "registered")
        except UsageError as error:
            error.where = path if error.where == "model.name" else error.where
            raise
        load_weights(
            net, {name: file.get_tensor(prefix + name) for name in net_tensors(shapes, prefix)}, path
        )
    multiple = meta.get("multiple")
    if isinstance(multiple, int) and 1 < multiple <= 1024 and not hasattr(net, "multiple"):
        net.multiple = multiple  # type: ignore[assignment]
    return Loaded(net.eval(), recipe, {**meta, "weights": "ema" if prefix else "net"})


_BUFFERS = 1 << 28
"""Bytes that a net may take besides what is in its file; the largest net that is known takes 20 MB."""


def _refuse_misfit(recipe: Recipe, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Build the net without memory (torch's device `meta`) and compare it with what the file holds."""
    try:
        with torch.device("meta"):
            net = from_config(recipe.model, trust="registered")
    except (RuntimeError, NotImplementedError) as error:  # a net of a plug-in that computes while it is built
        if "meta" in str(error).lower():
            return
        raise UsageError(
            "the model of the checkpoint cannot be built", where=path, found=str(error).splitlines()[0]
        ) from None
    _compare({name: tuple(t.shape) for name, t in net.state_dict().items()}, shapes, type(net).__name__, path)
    kept = net.state_dict().keys()
    extra = sum(t.numel() * t.element_size() for name, t in net.named_buffers() if name not in kept)
    if extra > _BUFFERS:
        raise UsageError(
            "the model would take more memory than any known net besides its weights",
            where=path,
            found=f"{extra / 2**20:.0f} MB of buffers",
            expected=f"at most {_BUFFERS >> 20} MB",
        )


def load_weights(net: nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Load weights into a net they belong to.

    Raises:
        UsageError: their names or shapes are not those of the net.
    """
    own = {name: tuple(t.shape) for name, t in net.state_dict().items()}
    _compare(own, {name: tuple(t.shape) for name, t in tensors.items()}, type(net).__name__, path)
    net.load_state_dict(dict(tensors))


def _compare(
    own: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], kind: str, path: Path | str
) -> None:
    missing, strange = sorted(own.keys() - found.keys()), sorted(found.keys() - own.keys())
    shapes = sorted(k for k in own.keys() & found.keys() if own[k] != found[k])
    if missing or strange or shapes:
        first = f"{shapes[0]} {found[shapes[0]]}" if shapes else (strange or missing)[0]
        raise UsageError(
            "the checkpoint is of another model",
            where=path,
            found=f"{len(strange)} unknown, {len(missing)} missing, {len(shapes)} misshapen; first: {first}",
            expected=f"the {len(own)} tensors of {kind}",
            remedy="check the model section of the recipe",
        )


def _state_complaint(error: Exception) -> str:
    """What is wrong with a training state, without torch's advice to load it in a way that runs code."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named:
        return f"refused: it names code to run, {named[1].rstrip('.')[:80]}; no training state of dilkit does"
    return f"damaged ({reason(error) if isinstance(error, OSError) else type(error).__name__})"


@dataclass(frozen=True)
class Folder:
    """RUN/checkpoints: `step-N.safetensors` with `step-N.state` beside it, and `last.safetensors`."""

    path: Path
    keep: int = 2
    archive: int | None = None

    def save(
        self,
        net: nn.Module,
        average: AveragedModel | None,
        recipe: Recipe,
        notes: Mapping[str, Any],
        state: Mapping[str, Any],
    ) -> Path:
        """Weights first, then the state that names their digest, then `last`; a kill between any two of them
        leaves the checkpoint before usable."""
        weights = self.path / f"step-{notes['step']:08d}.safetensors"
        whole = {**state, "weights": save_weights(weights, net, average, recipe, notes)}
        write_atomically(weights.with_suffix(".state"), lambda p: _save_state(whole, p))
        link(weights, self.path / "last.safetensors")
        for old in self._states()[self.keep :]:
            old.unlink(missing_ok=True)
            if self.archive is None or int(old.stem.removeprefix("step-")) % self.archive:
                old.with_suffix(".safetensors").unlink(missing_ok=True)
        return self.path / "last.safetensors"

    def save_best(
        self, net: nn.Module, average: AveragedModel | None, recipe: Recipe, notes: Mapping[str, Any]
    ) -> None:
        """The best checkpoint so far, by the rule the recipe names."""
        save_weights(self.path / "best.safetensors", net, average, recipe, notes)

    def newest(self) -> tuple[Path, dict[str, Any], list[str]]:
        """(weights, training state, complaints about damaged ones that were passed over).

        Raises:
            DilkitError: there is none that is whole.
        """
        complaints: list[str] = []
        for path in self._states():
            weights = path.with_suffix(".safetensors")
            try:
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                if not isinstance(state, dict) or not state.keys() >= _STATE:
                    complaints.append(f"{path}: not a training state of dilkit")
                elif digest(weights) == state["weights"]:
                    return weights, state, complaints
                else:
                    complaints.append(f"{weights}: damaged (its digest is not the one noted)")
            except Exception as error:  # noqa: BLE001  (torch.load raises many kinds on a damaged file)
                complaints.append(f"{path}: {_state_complaint(error)}")
        raise DilkitError(
            "there is no whole checkpoint to resume from",
            where=self.path,
            found="; ".join(complaints) or None,
        )

    def empty(self) -> bool:
        return not self._states()

    def _states(self) -> list[Path]:
        return sorted(self.path.glob("step-*.state"), reverse=True)
