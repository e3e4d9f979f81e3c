"""The nets that are put to use: opened, with a label for tables and what is known of their past."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import nn

from dilkit import checkpoint
from dilkit.checkpoint import Provenance
from dilkit.distortions import ConfounderSet, confounder_set
from dilkit.errors import UsageError, printable
from dilkit.inference.foreign import Adapted, Function, is_foreign, open_foreign
from dilkit.inference.forward import multiple_of

INPUT = "input"
"""The net that changes nothing: the distorted input itself."""
_LABELLED = re.compile(r"([^=:(@]+)=(.+)", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Net:
    """Attributes:
    module: (B, 3, H, W) float32 -> (B, 3, H, W); None changes nothing.
    trained: the confounder set of its training, or None where that is not known.
    source: what it was opened from, as a path or as `dilkit.inference.foreign` names it.
    metadata: of a checkpoint: its recipe, and what was noted with it.
    digest: of a foreign net's file.
    """

    label: str
    module: nn.Module | None
    trained: ConfounderSet | None = None
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """blake2b of all weights and buffers by name, or of a foreign net's file; empty for the input itself,
        and of a function one that never comes again."""
        if self.module is None:
            return ""
        if isinstance(self.module, Function):
            return uuid4().hex
        state = blake2b(digest_size=16)
        if self.digest:
            state.update(self.digest.encode())
        for name, tensor in self.module.state_dict().items():
            state.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return state.hexdigest()

    @property
    def symmetries(self) -> tuple[str, ...]:
        """The symmetry groups that the net has: by its wrapper, or because it was trained on their orbits;
        `square` by the quarter turns and mirror images that training shows unless told otherwise."""
        recipe = self.metadata.get("recipe", {})
        wrapper, data = recipe.get("model", {}).get("equivariant"), recipe.get("data", {})
        found = ["contrast", "scale"] if wrapper == "both" else [wrapper] if wrapper else []
        found += [orbit["name"] for orbit in data.get("orbit") or ()]
        found += ["square"] if data.get("symmetry") else []
        return tuple(dict.fromkeys(found))

    @property
    def device(self) -> torch.device:
        """Where its first parameter is; the CPU where it has none."""
        first = None if self.module is None else next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def adaptation(self) -> str:
        """What stands between images and the net, in words; empty for none."""
        if self.module is None:
            return ""
        said = str(self.module.adaptation) if isinstance(self.module, Adapted) else ""
        found = multiple_of(self.module)
        if found > 1 and "padded" not in said:
            said += (", " if said else "") + f"padded by reflection to multiples of {found}"
        return said


Nets = str | Path | Net | Iterable["str | Path | Net"] | Mapping[str, Any]
"""Checkpoints, run folders or foreign nets, by path or opened; or, by label, also modules and functions."""


def open_nets(
    nets: Nets, device: str | torch.device = "cpu", *, trust_code: bool | Collection[str] = False
) -> tuple[Net, ...]:
    """Open every net; labels are run folders' names, made longer where two are alike.

    Args:
        trust_code: whether code outside dilkit, which a checkpoint or a name asks for, may be run; or the
            names (`package.module:Class`) that a checkpoint may.

    Raises:
        UsageError: a file that holds no net, or two nets of one label.
    """
    if isinstance(nets, Mapping):
        opened = [_of(label, net, trust_code) for label, net in nets.items()]
    else:
        given: list[Any] = [nets] if isinstance(nets, str | Path | Net) else list(nets)
        labels = iter(labels_of([x for x in given if not isinstance(x, Net)]))
        opened = [net if isinstance(net, Net) else _open(next(labels), net, trust_code) for net in given]
    names = [net.label for net in opened]
    if len(set(names)) < len(names):
        raise UsageError(
            "two nets have the same label", found=", ".join(names), remedy="name them: LABEL=FILE"
        )
    for net in opened:
        if net.module is not None:
            net.module.to(device).eval()
    return tuple(opened)


def parse_nets(texts: Iterable[str], *, trust_code: bool = False) -> tuple[Net, ...]:
    """Nets as the command line names them: `NET` or `LABEL=NET`, where NET is a checkpoint, a run folder, a
    foreign net (see `dilkit.inference.foreign`) or `input`, the input itself."""
    named: list[tuple[str, str]] = []
    for text in texts:
        labelled = None if Path(text).exists() else _LABELLED.fullmatch(text)
        named.append((labelled[1], labelled[2]) if labelled else ("", text))
    labels = iter(labels_of([source for label, source in named if not label]))
    return tuple(_open(label or next(labels), source, trust_code) for label, source in named)


def open_net(source: str | Path | nn.Module | Callable[..., Any], *, trust_code: bool = False) -> Net:
    """One net, from whatever names one; a module and a function are taken as they are.

    Raises:
        UsageError: a file that holds no net.
    """
    if isinstance(source, str | Path):
        return _open(labels_of([source])[0], source, trust_code)
    return _of("net", source, trust_code)


def trained_on(recipe: Mapping[str, Any], metadata: Mapping[str, Any]) -> ConfounderSet | None:
    """The confounder set of a training run: as recorded with it, else as its recipe says."""
    expression = metadata.get("confounders") or recipe.get("data", {}).get("distort")
    if expression is None:
        return None
    whole = confounder_set(expression)
    labels = metadata.get("labels") or whole.labels
    return ConfounderSet.of(word for word in whole if word.label in labels)


def origin(net: Net) -> dict[str, Any]:
    """Where a net comes from, JSON-able."""
    past, unknown = past_of(net.metadata) if net.module is not None else ([], False)
    if net.module is not None and not net.metadata:
        foreign = is_foreign(net.source)
        what = (
            f"foreign weights ({net.source.partition(':')[0]})"
            if foreign
            else net.source or "a net in memory"
        )
        past, unknown = [f"{what}: what {'they' if foreign else 'it'} saw is not recorded"], True
    return {
        "source": net.source,
        "weights": net.fingerprint,
        "trained": None if net.trained is None else str(net.trained),
        "past": past,
        "past_unknown": unknown,
    }


def past_of(metadata: Mapping[str, Any]) -> tuple[list[str], bool]:
    """What a checkpoint's metadata says of a net's past, in words: what it was initialised from, and what is
    not known; and whether anything is not."""
    past = Provenance.from_metadata(metadata)
    said = [f"initialised from {printable(parent)}" for parent in past.parents]
    said += [f"not known: {printable(each)}" for each in past.unknown]
    return said, bool(past.unknown)


def _of(label: str, net: Any, trust_code: bool | Collection[str]) -> Net:
    if isinstance(net, Net):
        return net
    if isinstance(net, nn.Module):
        return Net(label, net)
    if isinstance(net, str | Path):
        return _open(label, net, trust_code)
    if callable(net):
        return Net(label, Function(net), source="a Python function")
    raise UsageError(
        "not a net", where=label, found=type(net).__name__, expected="a path, a module or a function"
    )


def _open(label: str, source: str | Path, trust_code: bool | Collection[str]) -> Net:
    if str(source) == INPUT:
        return Net(INPUT, None)
    if is_foreign(str(source)):
        module, digest = open_foreign(str(source), trust_code=trust_code is True)
        return Net(label, module, source=str(source), digest=digest)
    loaded = checkpoint.load(checkpoint.find_checkpoint(source), trust_code=trust_code)
    recipe = loaded.recipe.model_dump(mode="json")
    metadata = {**loaded.metadata, "recipe": recipe}
    return Net(label, loaded.net, trained_on(recipe, metadata), str(source), metadata)


def labels_of(sources: Iterable[str | Path]) -> list[str]:
    """The shortest endings of the paths that tell them apart: run folders, then file names."""
    given = list(sources)
    parts = [_meaningful(source) for source in given]
    for length in range(1, max(map(len, parts), default=1) + 1):
        labels = ["/".join(part[-length:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [str(source) for source in given]


def _meaningful(source: str | Path) -> list[str]:
    """RUN/checkpoints/last.safetensors -> [.., RUN]; another step's file keeps its name; of a foreign net the
    file's or the class's name."""
    text = str(source)
    if is_foreign(text):
        scheme, _, rest = text.partition("@")[0].partition(":")
        return [rest.partition("(")[0].rpartition(":")[2]] if scheme == "module" else [Path(rest).stem]
    bare = Path(source) if Path(source).is_dir() else Path(source).with_suffix("")
    whole = [p for p in bare.parts if p not in ("checkpoints", "/", ".")]
    return whole[:-1] if whole and whole[-1] in ("last", "best") and len(whole) > 1 else whole or [text]
