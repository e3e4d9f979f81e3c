"""What is evaluated: a net, its label in the tables, and what it is known to have been trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dilkit.distortions import ConfounderSet, confounder_set
from dilkit.errors import UsageError

INPUT = "input"
"""The net that changes nothing: the distorted input itself."""


@dataclass(frozen=True, eq=False)
class Net:
    """Attributes:
    module: (B, 3, H, W) float32 -> (B, 3, H, W); None changes nothing.
    trained: the confounder set of its training, or None where that is not known.
    """

    label: str
    module: nn.Module | None
    trained: ConfounderSet | None = None
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """blake2b of all weights and buffers by name; empty for the input itself."""
        if self.module is None:
            return ""
        state = blake2b(digest_size=16)
        for name, tensor in self.module.state_dict().items():
            state.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return state.hexdigest()


Nets = str | Path | Net | Iterable["str | Path | Net"] | Mapping[str, Any]
"""Checkpoints, by path or opened; or, by label, checkpoints or torch modules."""


def open_nets(nets: Nets, device: str = "cpu") -> tuple[Net, ...]:
    """Open every checkpoint; labels are run folders' names, made longer where two are alike.

    Raises:
        UsageError: a file that is no checkpoint of dilkit's, or two nets of one label.
    """
    if isinstance(nets, Mapping):
        opened = [_named(label, net) for label, net in nets.items()]
    else:
        given: list[Any] = [nets] if isinstance(nets, str | Path | Net) else list(nets)
        labels = iter(_labels([Path(x) for x in given if isinstance(x, str | Path)]))
        opened = [net if isinstance(net, Net) else _open(next(labels), net) for net in given]
    names = [net.label for net in opened]
    if len(set(names)) < len(names):
        raise UsageError(
            "two nets have the same label", found=", ".join(names), remedy="name them: LABEL=FILE"
        )
    for net in opened:
        if net.module is not None:
            net.module.to(device).eval()
    return tuple(opened)


def parse_nets(texts: Iterable[str]) -> tuple[Net, ...]:
    """Checkpoints as the command line names them: `FILE` or `LABEL=FILE`; `input` is the input itself."""
    given = list(texts)
    named = [
        text.partition("=") if "=" in text and not Path(text).exists() else ("", "", text) for text in given
    ]
    labels = iter(_labels([Path(path) for label, _, path in named if not label]))
    return tuple(_open(label or next(labels), path) for label, _, path in named)


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
    return {
        "source": net.source,
        "weights": net.fingerprint,
        "trained": None if net.trained is None else str(net.trained),
    }


def _named(label: str, net: Any) -> Net:
    if isinstance(net, str | Path):
        return _open(label, net)
    return net if isinstance(net, Net) else Net(label, net)


def _open(label: str, path: str | Path) -> Net:
    if str(path) == INPUT:
        return Net(INPUT, None)
    from dilkit import checkpoint

    loaded = checkpoint.load(Path(path))
    recipe = loaded.recipe.model_dump(mode="json")
    return Net(
        label,
        loaded.net,
        trained_on(recipe, loaded.metadata),
        str(path),
        {**loaded.metadata, "recipe": recipe},
    )


def _labels(paths: list[Path]) -> list[str]:
    """The shortest endings of the paths that tell them apart: run folders, then file names."""
    parts = [_meaningful(path) for path in paths]
    for length in range(1, max(map(len, parts), default=1) + 1):
        labels = ["/".join(part[-length:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [str(path) for path in paths]


def _meaningful(path: Path) -> list[str]:
    """RUN/checkpoints/last.safetensors -> [.., RUN]; another step's file keeps its name."""
    whole = [p for p in path.with_suffix("").parts if p not in ("checkpoints", "/", ".")]
    return whole[:-1] if whole[-1] in ("last", "best") and len(whole) > 1 else whole
