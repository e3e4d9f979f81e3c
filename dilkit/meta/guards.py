"""What would make a virtual gradient silently wrong, found on every pass and refused.

Also the two things a replay needs: the random state a forward pass draws from, and the proof that the replay
gave the same loss.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dilkit.errors import DilkitError, UsageError, nearest


class NonFinite(DilkitError):
    """A loss or a gradient is NaN or infinite."""


def one_of(what: str, value: object, known: Sequence[object]) -> None:
    """Raise where the setting `what` has a value that means nothing.

    Raises:
        UsageError: naming the values there are.
    """
    if value not in known:
        names = [str(k) for k in known]
        raise UsageError(
            f"unknown {what} {value!r}",
            expected=", ".join(names),
            nearest=nearest(value, names) if isinstance(value, str) else None,
        )


def size(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of their norms: a scalar that is finite if, and hardly ever unless, all elements are."""
    tensors = list(tensors)
    if not tensors:
        return torch.zeros(())
    return torch.stack(torch._foreach_norm(tensors)).sum()


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


_ONCE = once_differentiable(lambda ctx: None).__code__


def inspect_graph(
    loss: Tensor,
    *,
    own: Mapping[int, str],
    known: frozenset[int] | None,
    stop: frozenset[Any] = frozenset(),
    twice: bool = False,
    reentrant: bool = False,
) -> None:
    """Walk the graph of one loss and refuse what would make its derivatives silently wrong.

    Args:
        own: id -> name of the module's real parameters. The loss was computed on virtual weights: if it
            reaches a real one, that one is held outside the tree.
        known: ids of the tensors that may be reached: virtual weights and declared outside tensors. Any other
            leaf that requires grad would be dropped from the answer. None allows all.
        stop: nodes not to look behind.
        twice: whether the graph is going to be differentiated twice.
        reentrant: whether reentrant checkpointing may be in it (plain `.backward()` on real parameters).

    Raises:
        UsageError: naming what was reached and what to do.
    """
    seen: set[Any] = set(stop)
    stack = [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            _refuse_leaf(leaf, own, known)
            continue
        function = getattr(type(node), "_forward_cls", None)
        if function is not None:
            _refuse_function(function, twice=twice, reentrant=reentrant)
        stack.extend(fn for fn, _ in node.next_functions)


def _refuse_leaf(leaf: Tensor, own: Mapping[int, str], known: frozenset[int] | None) -> None:
    if id(leaf) in own:
        raise UsageError(
            f"parameter {own[id(leaf)]!r} is used from outside the module's tree "
            "(a list, a closure, a plain attribute), so it ignores virtual weights",
            remedy="reach it through the module: self.NAME, nn.ParameterList or nn.ModuleList; in a loss, "
            "call the module it is given",
        )
    if known is not None and id(leaf) not in known:
        raise UsageError(
            f"the loss depends on a tensor of shape {tuple(leaf.shape)} that requires grad and is "
            "neither the module's nor the batch's: its gradient would be dropped",
            remedy="name it in outside={'NAME': tensor}, or detach it (loss networks: requires_grad_(False))",
        )


def _refuse_function(function: Any, *, twice: bool, reentrant: bool) -> None:
    if function.__module__ == "torch.utils.checkpoint" and not reentrant:
        raise UsageError(
            "layers checkpointed with use_reentrant=True cannot be differentiated twice",
            remedy="pass use_reentrant=False to torch.utils.checkpoint.checkpoint",
        )
    backward = function.__dict__.get("backward")
    if twice and getattr(getattr(backward, "__func__", backward), "__code__", None) is _ONCE:
        raise UsageError(
            f"{function.__name__} is an autograd function marked once_differentiable: second derivatives "
            "through it would be silently wrong",
            remedy="write its backward in differentiable operations, or use order='fomaml' or 'reptile'",
        )


class Untouched:
    """Whether a forward pass leaves weights alone: their versions and storages, and on demand their values.

    `weight.data = ...` in a hook changes the storage and no version; `weight.data.mul_(...)` changes neither.
    """

    def __init__(self, names: Sequence[str], tensors: Sequence[Tensor], *, values: bool = False) -> None:
        self._names, self._tensors, self._values = names, tensors, values
        self._marks = [(t._version, t.data_ptr()) for t in tensors]
        self._norms = self._measured()

    def require(self) -> None:
        """Raises:
        UsageError: naming the weight that has been changed.
        """
        changed = [(t._version, t.data_ptr()) != m for t, m in zip(self._tensors, self._marks, strict=True)]
        if self._values and not any(changed):
            off = self._measured().ne(self._norms)
            changed = off.tolist() if bool(off.any()) else changed
        for name, moved in zip(self._names, changed, strict=True):
            if moved:
                raise UsageError(
                    f"the forward pass changes parameter {name!r} in place",
                    remedy="compute the changed weight as a new tensor, or do it outside the forward pass",
                )

    def _measured(self) -> Tensor:
        if not self._values:
            return torch.zeros(())
        with torch.no_grad():
            return torch.stack(torch._foreach_norm([t.detach() for t in self._tensors])).nan_to_num()


def refuse_module(net: nn.Module, params: Mapping[str, Tensor]) -> None:
    """Refuse modules whose weights cannot be swapped without changing what they do.

    Raises:
        UsageError: with the reason and what to do.
    """
    if not params:
        raise UsageError("the module has no trainable parameter", remedy="requires_grad_(True) on some of it")
    if torch.is_inference_mode_enabled():
        raise UsageError("gradients cannot be taken inside torch.inference_mode()")
    for name, p in params.items():
        if type(p).__name__ in ("DTensor", "FlatParameter"):
            raise UsageError(
                f"parameter {name!r} is sharded (FSDP or tensor parallel)",
                remedy="meta-gradients need whole weights on each process: use DDP, or gather them first "
                "(FullyShardedDataParallel.summon_full_params, DTensor.full_tensor)",
            )
        if p.grad_fn is not None:
            raise UsageError(
                f"parameter {name!r} depends on other tensors (virtual weights inside virtual weights): "
                "derivatives of third order are not offered, and would be dropped",
                remedy="detach the virtual weights before taking another meta-gradient inside them",
            )
        if p._backward_hooks:
            raise UsageError(
                f"parameter {name!r} has a gradient hook (register_hook): virtual weights would ignore it",
                remedy="take the hook off and use dilkit.meta.optimizer(..., transform=...) instead",
            )


def require_scalar(loss: object, name: str) -> None:
    """Raises:
    UsageError: a loss that is not one number, or that does not depend on the module's weights.
    """
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        remedy = "reduce it: .mean()" if isinstance(loss, Tensor) else "return a tensor"
        raise UsageError("a loss returns a scalar tensor", where=name, found=found, remedy=remedy)
    if not loss.requires_grad:
        raise UsageError(
            f"the loss of {name} does not depend on any trainable weight of the module",
            remedy="compute it with the module the loss is given; no detach, item or no_grad on the way",
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
            "depends on something that is not replayed (a private generator, a counter, a tensor kept in a "
            "plain attribute, a file, a batch that it changes in place)",
            found=float(again[index]),
            expected=float(first[index]),
            remedy="draw from torch's, NumPy's or Python's global generator, keep state in buffers, clone "
            "the batch in the loss, or differentiate without recomputing (keep='all')",
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
    """torch on the CPU and on the accelerators in use, `random`, and NumPy's global generator if loaded."""

    cpu: Tensor
    cuda: dict[int, Tensor]
    python: Any
    numpy: Any

    @classmethod
    def now(cls, devices: frozenset[int] = frozenset()) -> RandomState:
        """The state now; `devices` are the CUDA devices in use."""
        numpy = sys.modules.get("numpy")
        return cls(
            torch.get_rng_state(),
            {d: torch.cuda.get_rng_state(d) for d in devices},
            random.getstate(),
            None if numpy is None else numpy.random.get_state(),
        )

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        for device, value in self.cuda.items():
            torch.cuda.set_rng_state(value, device)
        random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy"].random.set_state(self.numpy)


@contextmanager
def replayed(state: RandomState) -> Iterator[None]:
    """Inside, the draws of `state` again; afterwards, as if nothing had been drawn."""
    now = RandomState.now(frozenset(state.cuda))
    state.restore()
    try:
        yield
    finally:
        now.restore()
