"""What would make a virtual gradient silently wrong, found and refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dilkit.errors import DilkitError, UsageError


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
