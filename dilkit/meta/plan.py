"""From batches to trajectories: which losses are stepped on, and which are measured where."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from dilkit.errors import UsageError
from dilkit.meta.trajectory import Term

Shape = Literal["chain", "star"]
Outer = Literal["all", "others", "same"]


@dataclass(frozen=True)
class Plan:
    """One trajectory: the terms of each inner step, and of the outer loss after step k, by k."""

    steps: list[list[Term]]
    outer: dict[int, list[Term]]


def plan(
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Mapping[str, Any] | Sequence[Any],
    *,
    shape: Shape,
    outer: Outer,
    outer_batches: Mapping[str, Any] | Sequence[Any] | None,
    outer_loss: Callable[[nn.Module, Any], Tensor],
    outer_weights: Sequence[float] | None,
) -> list[Plan]:
    """The trajectories of one meta-gradient (see `Meta.grad` for the arguments)."""
    inside = _named(batches)
    outside = inside if outer_batches is None else _named(outer_batches)
    if not inside:
        raise UsageError("a trajectory needs at least one batch")
    _check(shape, outer, inside, outside, outer_weights)

    def measured(label: str, weight: float) -> list[Term]:
        chosen = {
            "all": list(outside),
            "same": [label],
            "others": [name for name in outside if name != label],
        }[outer]
        return [Term(n, _on(outer_loss, outside[n]), weight / len(chosen)) for n in chosen]

    steps = {name: [Term(name, _on(loss, batch))] for name, batch in inside.items()}
    if shape == "star":
        return [Plan([step], {1: measured(name, 1.0)}) for name, step in steps.items()]
    weights = outer_weights or [0.0] * (len(inside) - 1) + [1.0]
    after = {
        k: measured(name, weight)
        for k, (name, weight) in enumerate(zip(inside, weights, strict=True), start=1)
        if weight
    }
    return [Plan(list(steps.values()), after)]


def _check(
    shape: Shape,
    outer: Outer,
    inside: Mapping[str, Any],
    outside: Mapping[str, Any],
    weights: Sequence[float] | None,
) -> None:
    for what, value, known in (
        ("trajectory", shape, ("chain", "star")),
        ("outer", outer, ("all", "others", "same")),
    ):
        if value not in known:
            raise UsageError(f"unknown {what}", found=value, expected=", ".join(known))
    missing = [] if outer == "all" else [name for name in inside if name not in outside]
    if missing:
        raise UsageError(
            f"`outer={outer!r}` needs an outer batch of each name", found=sorted(outside), expected=missing
        )
    if outer == "others" and len(outside) < 2:
        raise UsageError("`outer='others'` needs at least two batches")
    if weights is not None and (shape == "star" or len(weights) != len(inside) or not any(weights)):
        raise UsageError(
            "`outer_weights` gives one weight for each step of a chain, not all zero",
            found=list(weights),
            expected=f"{len(inside)} numbers, with trajectory='chain'",
        )


def _named(batches: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    return dict(batches) if isinstance(batches, Mapping) else {str(i): b for i, b in enumerate(batches)}


def _on(loss: Callable[[nn.Module, Any], Tensor], batch: Any) -> Callable[[nn.Module], Tensor]:
    return lambda module: loss(module, batch)
