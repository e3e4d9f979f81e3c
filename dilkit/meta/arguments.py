"""From what a user passes to what an engine walks: losses, batches and the plan of trajectories."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from dilkit.errors import UsageError
from dilkit.meta.guards import one_of
from dilkit.meta.trajectory import Closure, Term

BatchLoss = Callable[[nn.Module, Any], Tensor]
"""loss(module, batch) -> scalar."""
Batches = Mapping[str, Any] | Sequence[Any]
Shape = Literal["chain", "star", "pooled"]
Outer = Literal["all", "others", "same"]

_OUTPUTS = frozenset(
    [
        "input",
        "inputs",
        "output",
        "outputs",
        "out",
        "pred",
        "preds",
        "prediction",
        "predictions",
        "y_pred",
        "y_hat",
        "yhat",
        "logits",
        "estimate",
    ]
)


def criterion(function: Callable[..., Tensor]) -> BatchLoss:
    """A loss of (output, target) as a loss of (module, batch): batches are (input, ..., target)."""

    def loss(module: nn.Module, batch: Any) -> Tensor:
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            found = f"{len(batch)} entries" if isinstance(batch, tuple | list) else type(batch).__name__
            raise UsageError(
                "a plain criterion needs batches of (input, target)",
                found=found,
                remedy="or pass a loss of (module, batch)",
            )
        *inputs, target = batch
        return function(module(*inputs), target)

    return loss


def as_loss(loss: Any) -> BatchLoss:
    """A loss of (module, batch) from itself, or from a plain criterion: a loss module, a function of
    torch.nn.functional, or one whose first argument is called `input`, `output`, `pred`, `logits` or so.

    Raises:
        UsageError: neither of them.
    """
    if not callable(loss):
        raise UsageError(
            "the loss is called as loss(module, batch), or as a criterion(output, target)",
            found=type(loss).__name__,
        )
    function = loss
    while isinstance(function, functools.partial):
        function = function.func
    if not isinstance(function, nn.Module) and str(getattr(function, "__module__", "")).startswith("torch"):
        return criterion(loss)
    try:
        signature = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss)
    except (TypeError, ValueError):
        return criterion(loss) if isinstance(loss, nn.Module) else loss
    names = list(signature.parameters)
    first = names[0] if names else ""
    if first in _OUTPUTS or (isinstance(loss, nn.Module) and first not in ("module", "net", "model")):
        return criterion(loss)
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise UsageError(
            "the loss is called as loss(module, batch)",
            found=f"{getattr(loss, '__name__', type(loss).__name__)}{signature}",
            remedy="take those two arguments; other things it needs by functools.partial",
        ) from error
    made: BatchLoss = loss
    return made


def named(batches: Any, what: str = "batches") -> dict[str, Any]:
    """Batches by name, numbered from 0 where they have none.

    Raises:
        UsageError: a single batch, or something that is neither a mapping nor a sequence.
    """
    if isinstance(batches, Mapping):
        return {str(name): batch for name, batch in batches.items()}
    pair = isinstance(batches, tuple) and batches and all(isinstance(x, Tensor) for x in batches)
    if pair or isinstance(batches, Tensor):
        raise UsageError(
            f"`{what}` is a list of batches, or a dict by name; this looks like one batch",
            found="a tuple of tensors" if pair else "a tensor",
            remedy=f"{what}=[batch], and steps=K for K steps on it",
        )
    if not isinstance(batches, Sequence) or isinstance(batches, str):
        raise UsageError(
            f"`{what}` is a list of batches, or a dict by name",
            found=type(batches).__name__,
            remedy="of a data loader, list(itertools.islice(loader, n))",
        )
    return {str(i): batch for i, batch in enumerate(batches)}


def requiring_grad(what: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors in a nest of mappings and sequences that require grad, by path: `batches.d0[1]`."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            yield what, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from requiring_grad(f"{what}[{key!r}]", part)
    elif isinstance(value, tuple | list):
        for i, part in enumerate(value):
            yield from requiring_grad(f"{what}[{i}]", part)


def outside_tensors(
    named: Mapping[str, Tensor] | None,
    inside: Mapping[str, Any],
    query: Mapping[str, Any],
    *,
    order: str = "exact",
    shared: bool = False,
) -> dict[str, Tensor]:
    """Tensors to differentiate by beside the module's: those named, and batches that require grad.

    Raises:
        UsageError: what requires no grad; reptile; batches that require grad in several processes (`shared`).
    """
    found = dict(named or {})
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor) or not tensor.requires_grad:
            raise UsageError(f"outside tensor {name!r} does not require grad", remedy="requires_grad_(True)")
    known = set(map(id, found.values()))
    data: dict[str, Tensor] = {}
    for what, group in (("batches", inside), ("outer_batches", query)):
        for name, batch in group.items():
            for path, tensor in requiring_grad(f"{what}.{name}", batch):
                if id(tensor) not in known:
                    known.add(id(tensor))
                    data[path] = tensor
    if (found or data) and order == "reptile":
        raise UsageError(
            "reptile has no outer loss by which tensors outside the module could be differentiated",
            found=", ".join([*found, *data]),
            remedy="order='exact' or 'fomaml', or detach them",
        )
    if data and shared:
        raise UsageError(
            "batches that require grad cannot be averaged over processes: each has its own",
            found=", ".join(data),
            remedy="detach them, or name tensors that all processes share in `outside`",
        )
    return found | data


@dataclass(frozen=True)
class PlannedTrajectory:
    """One trajectory: the terms of each inner step, and of the outer loss after step k, by k."""

    steps: list[list[Term]]
    outer: dict[int, list[Term]]


def plan_trajectories(
    loss: BatchLoss,
    inside: Mapping[str, Any],
    outside: Mapping[str, Any],
    outer_loss: BatchLoss,
    *,
    shape: Shape,
    steps: int,
    outer: Outer,
    weights: Sequence[float] | None,
) -> list[PlannedTrajectory]:
    """The trajectories of one meta-gradient (see `Meta.grad` for the arguments)."""
    one_of("trajectory", shape, ("chain", "star", "pooled"))
    one_of("outer", outer, ("all", "others", "same"))
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise UsageError("steps is a whole number, at least 1", found=steps)
    if not inside:
        raise UsageError("a trajectory needs at least one batch")
    length = steps * len(inside) if shape == "chain" else steps
    if shape == "pooled" and outer != "all":
        raise UsageError(
            "a pooled step is on all batches: `outer='all'` is the only one that means something"
        )
    missing = [name for name in inside if name not in outside]
    if missing and outer != "all":
        raise UsageError(
            f"`outer={outer!r}` needs an outer batch of each name", found=sorted(outside), expected=missing
        )
    if outer == "others" and len(outside) < 2:
        raise UsageError("`outer='others'` needs at least two batches")
    if weights is not None and (len(weights) != length or not any(weights)):
        raise UsageError(
            "`outer_weights` gives one weight for each inner step of a trajectory, not all zero",
            found=list(weights),
            expected=f"{length} numbers",
        )

    def measured(label: str, weight: float) -> list[Term]:
        chosen = [label] if outer == "same" else [n for n in outside if outer == "all" or n != label]
        return [Term(n, _on(outer_loss, outside[n]), weight / len(chosen)) for n in chosen]

    share = 1 / len(inside) if shape == "pooled" else 1.0
    terms = {name: Term(name, _on(loss, batch), share) for name, batch in inside.items()}
    weights = weights or [0.0] * (length - 1) + [1.0]
    if shape == "pooled":
        paths = [("", [list(terms.values())] * steps)]
    elif shape == "star":
        paths = [(name, [[term]] * steps) for name, term in terms.items()]
    else:
        paths = [("", [[term] for term in terms.values()] * steps)]
    out = []
    for label, path in paths:
        after = {
            k: measured(label or path[k - 1][0].name, weight)
            for k, weight in enumerate(weights, start=1)
            if weight
        }
        out.append(PlannedTrajectory(path, after))
    return out


def _on(loss: BatchLoss, batch: Any) -> Closure:
    return lambda module: loss(module, batch)
