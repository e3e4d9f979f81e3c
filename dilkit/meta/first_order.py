"""First-order chains of virtual updates, at the price of the loop one would write by hand."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dilkit.errors import DilkitError, UsageError
from dilkit.meta.guards import inspect_graph, one_of, refuse_module, require_finite, require_scalar, size
from dilkit.meta.setting import Reduce
from dilkit.meta.trajectory import Closure, Record, Term, virtual_update

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class FirstOrderChain:
    """phi_0 = theta, phi_k = inner step of phi_{k-1} on the k-th loss; direction theta - phi_K (Reptile).

    The steps run on a copy of the net that is made once and refilled from theta each time, so theta, its
    gradients and its buffers cannot be touched by a step that fails. The state of the inner optimiser
    (Adam's moments) persists from one run to the next, as in the authors' script.

    Args:
        optimizer: makes the inner optimiser, given the parameters of the copy.
        buffers: `commit_last` writes the buffers met at the end of the chain (the running statistics of a
            BatchNorm) back to the net once the chain has succeeded: without it they would never move and
            eval mode would use their initial values. `isolate` drops them, as the released script would.
        reduce: averages the gradients of each inner step over the processes.
    """

    def __init__(
        self,
        optimizer: MakeOptimizer,
        *,
        buffers: Literal["commit_last", "isolate"] = "commit_last",
        reduce: Reduce | None = None,
    ) -> None:
        one_of("buffers", buffers, ("commit_last", "isolate"))
        self._make, self._buffers, self._reduce = optimizer, buffers, reduce
        self._owner: weakref.ref[nn.Module] | None = None
        self._held: tuple[nn.Module, torch.optim.Optimizer] | None = None
        self._pending: Mapping[str, Any] | None = None

    def run(
        self, net: nn.Module, steps: Sequence[Mapping[str, Closure]], *, where: str | None = None
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """One virtual step on the mean of each group of named closures, taken one at a time.

        Returns:
            theta - phi_K for every trainable parameter by name, and for each step the detached losses it met
            (at phi_{k-1}). `where` says which outer step, in errors.

        Raises:
            DilkitError: naming the closure whose loss or gradient is NaN or infinite. The net is untouched;
                the inner state is lost and starts afresh.
            UsageError: a loss that reaches the net's own parameters instead of those of the module it is
                given.
        """
        theta = {name: p for name, p in net.named_parameters() if p.requires_grad}
        refuse_module(net, theta)
        twin, optimizer = self._refill(net)
        copied = Copied(twin, optimizer, theta, self._reduce)
        met: list[dict[str, Tensor]] = []
        scalars: dict[str, Tensor] = {}
        for k, closures in enumerate(steps):
            record = Record()
            virtual_update(copied, [Term(n, f, 1 / len(closures)) for n, f in closures.items()], record)
            scalars |= {f"{what} (virtual step {k + 1})": x for what, x in record.scalars.items()}
            names = " + ".join(closures)
            scalars[f"the gradient of {names} (virtual step {k + 1})"] = copied.norm
            met.append(record.inner)
        try:
            require_finite(scalars, where=where)
        except DilkitError:
            self.load_state_dict({})
            raise
        direction = torch._foreach_sub([p.detach() for p in theta.values()], copied.phi())
        if self._buffers == "commit_last":
            _copy_buffers(twin, net)
        return dict(zip(theta, direction, strict=True)), met

    def state_dict(self) -> dict[str, Any]:
        """The inner optimiser's state, by position of the parameter; empty before the first run."""
        return self._held[1].state_dict() if self._held else dict(self._pending or {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; it is put to use, and its shapes checked, at the next run."""
        self._pending = state or None
        self._owner = self._held = None

    def _refill(self, net: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
        if self._held is None:
            twin = _twin(net)
            self._held = twin, self._make([p for p in twin.parameters() if p.requires_grad])
            if self._pending:
                _restore(self._held[1], self._pending)
            self._owner = weakref.ref(net)
        elif self._owner is None or self._owner() is not net:
            raise UsageError(
                "this objective holds the inner state of another net", remedy="build one objective per net"
            )
        twin = self._held[0]
        with torch.no_grad():
            torch._foreach_copy_(list(twin.parameters()), list(net.parameters()))
        _copy_buffers(net, twin)
        for ours, theirs in zip(twin.modules(), net.modules(), strict=True):
            ours.training = theirs.training
        return self._held


class Copied:
    """Virtual weights that are those of a copy of the module, stepped in place by an optimiser of torch."""

    def __init__(
        self,
        twin: nn.Module,
        optimizer: torch.optim.Optimizer,
        theta: Mapping[str, Tensor],
        reduce: Reduce | None,
    ) -> None:
        self._twin, self._optimizer, self._reduce = twin, optimizer, reduce
        self._own = {id(p): name for name, p in theta.items()}
        self._params = [p for p in twin.parameters() if p.requires_grad]
        self.k = 0
        self.norm = torch.zeros(())
        optimizer.zero_grad(set_to_none=True)

    def descend(self, term: Term) -> tuple[Tensor, None]:
        if torch.is_autocast_enabled():
            torch.clear_autocast_cache()
        loss = term.loss(self._twin)
        require_scalar(loss, term.name)
        inspect_graph(loss, own=self._own, known=None, reentrant=True)
        # terms share a step equally; dividing by their number keeps the bits of a plain mean
        (loss if term.weight == 1.0 else loss / round(1 / term.weight)).backward()
        return loss.detach(), None

    def update(self) -> None:
        if self._reduce is not None:
            for p in self._params:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            self._reduce([p.grad for p in self._params if p.grad is not None])
        self.norm = size(p.grad for p in self._params if p.grad is not None)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.k += 1

    def measure(self, term: Term) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError("a chain of first order has no outer loss")

    def phi(self) -> list[Tensor]:
        return [p.detach() for p in self._params]


def _twin(net: nn.Module) -> nn.Module:
    """A deep copy, without the gradients; plain tensor attributes (old weight norm's) detached."""
    grads = [(p, p.grad) for p in net.parameters()]
    memo = {
        id(value): value.detach().clone()
        for module in net.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    for p, _ in grads:
        p.grad = None
    try:
        return copy.deepcopy(net, memo)
    finally:
        for p, grad in grads:
            p.grad = grad


def _restore(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entries in state.get("state", {}).items():
        fits = index < len(params) and all(
            value.ndim == 0 or value.shape == params[index].shape
            for value in entries.values()
            if isinstance(value, Tensor)
        )
        if not fits:
            raise UsageError(
                "the saved state of the inner optimiser does not fit this net",
                where=f"parameter {index}",
                remedy="resume with the model the state was saved with",
            )
    groups = optimizer.state_dict()["param_groups"]
    try:
        optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
    except (KeyError, ValueError) as error:
        raise DilkitError(f"the saved state of the inner optimiser cannot be read: {error}") from error


def _copy_buffers(source: nn.Module, target: nn.Module) -> None:
    with torch.no_grad():
        for a, b in zip(source.buffers(), target.buffers(), strict=True):
            b.copy_(a)
