"""A module run under other tensors than its own, and put back whatever happens."""

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

    Attributes:
        params: the trainable ones, in the order of `named_parameters`; frozen ones stay where they are.
        buffers: all of them.
        plain: tensors kept as plain attributes, such as the weight that old-style weight norm recomputes.
    """

    params: dict[str, list[Place]]
    buffers: dict[str, list[Place]]
    plain: list[Place]

    @classmethod
    def of(cls, net: nn.Module) -> Slots:
        params: dict[str, list[Place]] = {}
        buffers: dict[str, list[Place]] = {}
        plain: list[Place] = []
        names: dict[int, str] = {}
        for prefix, module in net.named_modules():
            dot = f"{prefix}." if prefix else ""
            for key, p in module._parameters.items():
                if p is not None and p.requires_grad:
                    params.setdefault(names.setdefault(id(p), dot + key), []).append((module, key))
            for key, b in module._buffers.items():
                if b is not None:
                    buffers.setdefault(names.setdefault(id(b), dot + key), []).append((module, key))
            plain += [(module, key) for key, value in vars(module).items() if isinstance(value, Tensor)]
        return cls(params, buffers, plain)

    def param_values(self) -> list[Tensor]:
        return [places[0][0]._parameters[places[0][1]] for places in self.params.values()]  # type: ignore[misc]

    def buffer_values(self) -> list[Tensor]:
        return [places[0][0]._buffers[places[0][1]] for places in self.buffers.values()]  # type: ignore[misc]

    def set_params(self, values: Sequence[Tensor]) -> None:
        for places, tensor in zip(self.params.values(), values, strict=True):
            for module, key in places:
                module._parameters[key] = tensor  # type: ignore[assignment]

    def set_buffers(self, values: Sequence[Tensor]) -> None:
        for places, tensor in zip(self.buffers.values(), values, strict=True):
            for module, key in places:
                module._buffers[key] = tensor

    def ordered(self, phi: Mapping[str, Tensor]) -> list[Tensor]:
        """Virtual weights in the order of `params`; a name left out keeps the module's own weight.

        Raises:
            UsageError: a name that is no trainable parameter, or a shape that differs from it.
        """
        unknown = next((name for name in phi if name not in self.params), None)
        if unknown is not None:
            raise UsageError(
                f"the module has no trainable parameter {unknown!r}", nearest=nearest(unknown, self.params)
            )
        out = []
        for name, own in zip(self.params, self.param_values(), strict=True):
            value = phi.get(name, own)
            if value.shape != own.shape:
                raise UsageError(
                    f"the shape of virtual weight {name!r} differs from the module's",
                    found=tuple(value.shape),
                    expected=tuple(own.shape),
                )
            out.append(value)
        return out


@contextmanager
def swapped(slots: Slots, params: Sequence[Tensor], buffers: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the module runs on `params` and `buffers` (which it may change); outside, on its own.

    Plain tensor attributes that the forward pass makes from weights are put back too; others are hidden
    state, which moves on as it would in any loop.
    """
    if parametrize._cache_enabled:
        raise UsageError(
            "virtual weights would be ignored inside torch.nn.utils.parametrize.cached()",
            remedy="leave that context first",
        )
    own_params, own_buffers = slots.param_values(), slots.buffer_values()
    plain = [(module, key, vars(module)[key]) for module, key in slots.plain]
    try:
        slots.set_params(params)
        slots.set_buffers(buffers)
        yield
    finally:
        slots.set_params(own_params)
        slots.set_buffers(own_buffers)
        for module, key, own in plain:
            now = vars(module).get(key)
            if own.requires_grad or (isinstance(now, Tensor) and now.requires_grad):
                vars(module)[key] = own


def clones(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies without history."""
    return [t.detach().clone() for t in tensors]
