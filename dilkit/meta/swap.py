"""Virtual worlds: a module run under other tensors than its own, and put back whatever happens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils import parametrize

from dilkit.errors import UsageError, nearest

Place = tuple[nn.Module, str]


@dataclass(frozen=True)
class Slots:
    """Where a module keeps its tensors; a tied weight or a shared buffer has one name and several places.

    `params` are the trainable ones, in the order of `named_parameters`; frozen ones stay where they are.
    `strays` are tensors kept as plain attributes (the weight that old-style weight norm recomputes).
    """

    params: dict[str, list[Place]]
    buffers: dict[str, list[Place]]
    strays: list[Place]

    def param_values(self) -> list[Tensor]:
        return [places[0][0]._parameters[places[0][1]] for places in self.params.values()]  # type: ignore[misc]

    def buffer_values(self) -> list[Tensor]:
        return [places[0][0]._buffers[places[0][1]] for places in self.buffers.values()]  # type: ignore[misc]


def slots(net: nn.Module) -> Slots:
    """Find the tensors of `net`."""
    params: dict[str, list[Place]] = {}
    buffers: dict[str, list[Place]] = {}
    strays: list[Place] = []
    names: dict[int, str] = {}
    for prefix, module in net.named_modules():
        dot = f"{prefix}." if prefix else ""
        for key, p in module._parameters.items():
            if p is not None and p.requires_grad:
                params.setdefault(names.setdefault(id(p), dot + key), []).append((module, key))
        for key, b in module._buffers.items():
            if b is not None:
                buffers.setdefault(names.setdefault(id(b), dot + key), []).append((module, key))
        strays += [(module, key) for key, value in vars(module).items() if isinstance(value, Tensor)]
    return Slots(params, buffers, strays)


@contextmanager
def swapped(where: Slots, params: Sequence[Tensor], buffers: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the module runs on `params` and `buffers` (which it may change); outside, on its own."""
    if parametrize._cache_enabled:
        raise UsageError(
            "virtual weights would be ignored inside torch.nn.utils.parametrize.cached()",
            remedy="leave that context first",
        )
    own_params, own_buffers = where.param_values(), where.buffer_values()
    own_strays = [vars(module)[key] for module, key in where.strays]
    try:
        _install(where, params, buffers)
        yield
    finally:
        _install(where, own_params, own_buffers)
        for (module, key), value in zip(where.strays, own_strays, strict=True):
            vars(module)[key] = value


def _install(where: Slots, params: Sequence[Tensor], buffers: Sequence[Tensor]) -> None:
    for places, tensor in zip(where.params.values(), params, strict=True):
        for module, key in places:
            module._parameters[key] = tensor  # type: ignore[assignment]
    for places, tensor in zip(where.buffers.values(), buffers, strict=True):
        for module, key in places:
            module._buffers[key] = tensor


def clones(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.detach().clone() for t in tensors]


def ordered(where: Slots, phi: Mapping[str, Tensor]) -> list[Tensor]:
    """The virtual weights in the order of `where.params`; a name left out keeps the module's own weight.

    Raises:
        UsageError: a name the module has not, or a shape that differs.
    """
    unknown = next((name for name in phi if name not in where.params), None)
    if unknown is not None:
        raise UsageError(
            f"the module has no trainable parameter {unknown!r}", nearest=nearest(unknown, where.params)
        )
    out = []
    for name, own in zip(where.params, where.param_values(), strict=True):
        value = phi.get(name, own)
        if value.shape != own.shape:
            raise UsageError(
                f"virtual weight {name!r} has another shape than the module's",
                found=tuple(value.shape),
                expected=tuple(own.shape),
            )
        out.append(value)
    return out
