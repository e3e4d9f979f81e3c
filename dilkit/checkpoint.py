"""Files that are either whole or not there.

Checkpoints: one safetensors file that is enough to rebuild the net, and the training state beside it.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from dilkit import __version__
from dilkit.errors import DilkitError, UsageError
from dilkit.models import from_config
from dilkit.recipe import Recipe, resolved, validate


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write to a temporary name beside `path`, flush it to disk, then replace `path`.

    Where writing fails (a full disk), what was there before stays, and nothing half-written is left.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda p: _write_text(p, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def link(source: Path, name: Path) -> None:
    """Give a finished file a second name, replacing what had it; a copy where links are not possible."""

    def write(temporary: Path) -> None:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            temporary.write_bytes(source.read_bytes())

    write_atomically(name, write)


def claim_output(out: Path, *, resume: bool) -> None:
    """Make a run's folder, or refuse: it has files in it already, or cannot be written. Empty folders in it,
    such as a start that was refused leaves, are no matter."""
    if out.exists() and not out.is_dir():
        raise UsageError("the output is a file, a run needs a folder", where=out)
    if not resume and any(path.is_symlink() or not path.is_dir() for path in out.rglob("*")):
        raise UsageError(
            "the output folder is not empty",
            where=out,
            remedy="--resume goes on with the run in it; otherwise give another --out",
        )
    probe = out / ".writable"
    try:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"cannot write to the output folder: {error.strerror}", where=out) from None


FORMAT = 1
EMA = "ema/"
"""What the names of the moving average's tensors begin with."""
_KEY = "dilkit"


@dataclass(frozen=True)
class Loaded:
    """A net rebuilt from its checkpoint (on the CPU, in eval mode), its recipe and what was noted with it.

    `metadata` has `step`, `passes`, `confounders` (the expression trained on), `labels` and `versions`.
    """

    net: nn.Module
    recipe: Recipe
    metadata: dict[str, Any]


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
    write_atomically(path, lambda p: save_file(tensors, p, metadata={_KEY: text}))
    return digest(path)


def digest(path: Path) -> str:
    with path.open("rb") as handle:
        state = blake2b(digest_size=16)
        while block := handle.read(1 << 22):
            state.update(block)
    return state.hexdigest()


def read(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, and the metadata.

    Raises:
        UsageError: no such file, or not one of our checkpoints.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(
            "no such checkpoint", where=path, remedy="a run keeps RUN/checkpoints/last.safetensors"
        )
    try:
        with safe_open(path, framework="pt") as file:
            notes = (file.metadata() or {}).get(_KEY)
            if notes is None:
                raise UsageError("not a dilkit checkpoint: it does not carry its recipe", where=path)
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(notes)  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UsageError(
            "the checkpoint is damaged or not a safetensors file", where=path, found=str(error)
        ) from None


def net_tensors(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The net's own tensors, or those of its moving average (`prefix=EMA`)."""
    if prefix:
        return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    return {k: t for k, t in tensors.items() if not k.startswith(EMA)}


def load(path: Path | str, *, weights: Literal["auto", "net", "ema"] = "auto") -> Loaded:
    """Rebuild a net from the one file.

    Args:
        weights: the trained weights, their moving average, or (`auto`) the average where there is one; what
            was taken is in `metadata["weights"]`.

    Raises:
        UsageError: not a checkpoint, or its weights are not those of the model its recipe names.
    """
    tensors, meta = read(path)
    recipe = validate(meta.pop("recipe"), str(path))
    net = from_config(recipe.model)
    averaged = net_tensors(tensors, EMA)
    if weights == "ema" and not averaged:
        raise UsageError("the checkpoint has no moving average", where=path, remedy="train with ema=0.999")
    chosen = averaged if averaged and weights != "net" else net_tensors(tensors)
    fit(net, chosen, path)
    return Loaded(net.eval(), recipe, {**meta, "weights": "ema" if chosen is averaged else "net"})


def fit(net: nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Load weights into a net they belong to."""
    own = net.state_dict()
    missing, strange = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    if missing or strange or shapes:
        first = f"{shapes[0]} {tuple(tensors[shapes[0]].shape)}" if shapes else (strange or missing)[0]
        raise UsageError(
            "the checkpoint is of another model",
            where=path,
            found=f"{len(strange)} unknown, {len(missing)} missing, {len(shapes)} misshapen; first: {first}",
            expected=f"the {len(own)} tensors of {type(net).__name__}",
            remedy="check the model section of the recipe",
        )
    net.load_state_dict(dict(tensors))


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
        write_atomically(weights.with_suffix(".state"), lambda p: torch.save(whole, p))
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
                if digest(weights) == state["weights"]:
                    return weights, state, complaints
                complaints.append(f"{weights}: damaged (its digest is not the one noted)")
            except Exception as error:  # noqa: BLE001  (torch.load raises many kinds on a damaged file)
                complaints.append(f"{path}: damaged ({type(error).__name__}: {error})".splitlines()[0])
        raise DilkitError(
            "there is no whole checkpoint to resume from",
            where=self.path,
            found="; ".join(complaints) or None,
        )

    def empty(self) -> bool:
        return not self._states()

    def _states(self) -> list[Path]:
        return sorted(self.path.glob("step-*.state"), reverse=True)
