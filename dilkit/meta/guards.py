"""A NaN or an infinity stops the step that made it, with the name of what made it.

What would make a virtual gradient silently wrong, found and refused.

The random state a forward pass may draw from, taken and put back so that a pass can be replayed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dilkit.errors import DilkitError, UsageError


class NonFinite(DilkitError):
    """A loss or a gradient is NaN or infinite."""


def size(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of absolute values: a scalar that is finite if, and hardly ever unless, all elements are."""
    tensors = list(tensors)
    if not tensors:
        return torch.zeros(())
    return torch.stack(torch._foreach_norm(tensors, 1)).sum()


def require_finite(scalars: Mapping[str, Tensor], *, where: str | None = None) -> None:
    """Check every scalar in one synchronisation with the device.

    Args:
        scalars: what to check, in order of making, under names like "the loss of awgn(5)".
        where: the step, for the message.

    Raises:
        NonFinite: naming the first scalar that is NaN or infinite.
    """
    if bool(torch.stack([s.detach() for s in scalars.values()]).isfinite().all()):
        return
    name, value = next((n, float(s)) for n, s in scalars.items() if not math.isfinite(float(s)))
    raise NonFinite(
        f"{name} is not finite",
        where=where,
        found=value,
        remedy="lower the learning rates, or look at what this batch holds",
    )


def refuse_outside_parameters(loss: Tensor, theta: Mapping[str, Tensor]) -> None:
    """The loss was computed on virtual weights: if it reaches a real one, that one is held outside the tree.

    Raises:
        UsageError: naming the parameter that a list, closure or attribute holds beside the module's own.
    """
    own = {id(p): name for name, p in theta.items()}
    seen: set[Any] = set()
    stack = [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) in own:
            raise UsageError(
                f"parameter {own[id(variable)]!r} is used from outside the module's tree "
                "(a list, a closure, a plain attribute), so it ignores virtual weights",
                remedy="reach it through the module: self.NAME, nn.ParameterList or nn.ModuleList",
            )
        if type(node).__name__ == "CheckpointFunctionBackward":
            raise UsageError(
                "layers checkpointed with use_reentrant=True cannot be differentiated twice",
                remedy="pass use_reentrant=False to torch.utils.checkpoint.checkpoint",
            )
        stack.extend(fn for fn, _ in node.next_functions)


def versions(tensors: Iterable[Tensor]) -> list[int]:
    return [t._version for t in tensors]


def refuse_modified(names: Sequence[str], tensors: Sequence[Tensor], before: Sequence[int]) -> None:
    """Raise if the forward pass has changed a weight in place."""
    for name, tensor, version in zip(names, tensors, before, strict=True):
        if tensor._version != version:
            raise UsageError(
                f"the forward pass changes parameter {name!r} in place",
                remedy="compute the changed weight as a new tensor, or do it outside the forward pass",
            )


def require_replayed(pairs: Mapping[str, tuple[Tensor, Tensor]], *, tolerance: float) -> None:
    """Raise if a recomputed loss differs from the one first seen (one synchronisation for all).

    Raises:
        DilkitError: the forward pass draws from a source that cannot be replayed.
    """
    if not pairs:
        return
    first = torch.stack([a.detach().double() for a, _ in pairs.values()])
    again = torch.stack([b.detach().double() for _, b in pairs.values()])
    off = (first - again).abs() > tolerance * first.abs().clamp(min=1e-12)
    if bool(off.any()):
        index = int(off.nonzero()[0])
        raise DilkitError(
            f"the loss of {list(pairs)[index]} came out otherwise when it was recomputed: the forward pass "
            "depends on something that is not replayed (a private generator, a counter, a file)",
            found=float(again[index]),
            expected=float(first[index]),
            remedy="draw from torch's, NumPy's or Python's global generator, keep state in buffers, "
            "or differentiate without recomputing (keep='all')",
        )


def replay_tolerance(loss: Tensor, net: nn.Module) -> float:
    """How far a replay may be off: rounding, and what autocast or a compiler reorders."""
    if loss.dtype == torch.float64:
        return 1e-9
    low = torch.is_autocast_enabled(loss.device.type) or loss.dtype != torch.float32 or is_compiled(net)
    return 2e-2 if low else 1e-4


def is_compiled(net: nn.Module) -> bool:
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in net.modules()
    )


@dataclass(frozen=True)
class RandomState:
    """torch on the CPU and on the accelerators in use, `random`, and NumPy's global generator."""

    cpu: Tensor
    cuda: dict[int, Tensor]
    python: Any
    numpy: Any


def capture(devices: frozenset[int] = frozenset()) -> RandomState:
    """The state now; `devices` are the CUDA devices in use."""
    return RandomState(
        torch.get_rng_state(),
        {d: torch.cuda.get_rng_state(d) for d in devices},
        random.getstate(),
        np.random.get_state(),  # noqa: NPY002
    )


def restore(state: RandomState) -> None:
    torch.set_rng_state(state.cpu)
    for device, value in state.cuda.items():
        torch.cuda.set_rng_state(value, device)
    random.setstate(state.python)
    np.random.set_state(state.numpy)  # noqa: NPY002


@contextmanager
def replayed(state: RandomState) -> Iterator[None]:
    """Inside, the draws of `state` again; afterwards, as if nothing had been drawn."""
    now = capture(frozenset(state.cuda))
    restore(state)
    try:
        yield
    finally:
        restore(now)
