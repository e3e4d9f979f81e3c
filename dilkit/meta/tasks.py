"""Many tasks from one theta: in parallel by torch.func.vmap where the net allows it, one by one elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from dilkit.errors import UsageError
from dilkit.meta.arguments import BatchLoss, requiring_grad
from dilkit.meta.hvp import twice_differentiable
from dilkit.meta.inner import Inner, at_step, fresh
from dilkit.meta.setting import Setting
from dilkit.meta.swap import Slots


def why_not(net: nn.Module, rule: Inner, tasks: Sequence[tuple[Any, Any]]) -> str | None:
    """Why these tasks cannot go through the net side by side; None where they can, as far as can be seen."""
    if rule.hyper():
        return "the inner optimiser is learnable"
    if any(True for _ in requiring_grad("tasks", tasks)):
        return "batches require grad"
    for module in net.modules():
        if (
            isinstance(module, nn.modules.batchnorm._BatchNorm)
            and module.training
            and module.track_running_stats
        ):
            return "batch norm in training mode moves statistics"
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            return "dropout draws anew for each task"
    if any(len(places) > 1 for places in Slots.of(net).params.values()):
        return "tied weights"
    first, spec = tree_flatten(tasks[0])
    for task in tasks[1:]:
        leaves, other = tree_flatten(task)
        if other != spec or [_shape(x) for x in leaves] != [_shape(x) for x in first]:
            return "tasks of different shapes"
    return None


def _shape(x: Any) -> Any:
    return tuple(x.shape) if isinstance(x, Tensor) else x


class _Called:
    """The module on given weights, as far as a loss can tell."""

    def __init__(self, net: nn.Module, params: dict[str, Tensor]) -> None:
        self._net, self._params = net, params

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return functional_call(self._net, self._params, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        raise UsageError(
            f"the loss uses the module's {name!r}: only calling the module works for tasks in parallel",
            remedy="parallel=False",
        )


def side_by_side(
    setting: Setting, loss: BatchLoss, outer_loss: BatchLoss, tasks: Sequence[tuple[Any, Any]], *, steps: int
) -> tuple[dict[str, Tensor], Tensor, Tensor, dict[str, Tensor]]:
    """The gradient for theta of the mean over the tasks, their inner losses (tasks, steps), their outer
    losses (tasks,), and the adapted weights with the tasks as first dimension. The whole graph is kept.
    """
    net, names, rule = setting.net, setting.names, setting.rule
    theta = [p.detach() for p in setting.theta]
    flat = [tree_flatten(task) for task in tasks]
    spec = flat[0][1]
    moving = [isinstance(x, Tensor) for x in flat[0][0]]
    data = [
        torch.stack([leaves[i] for leaves, _ in flat]) if tensor else flat[0][0][i]
        for i, tensor in enumerate(moving)
    ]

    def on(function: BatchLoss, phi: list[Tensor], batch: Any) -> tuple[Tensor, Tensor]:
        value = function(_Called(net, dict(zip(names, phi, strict=True))), batch)  # type: ignore[arg-type]
        return value, value

    def adapted(theta: list[Tensor], *data: Any) -> tuple[Tensor, Any]:
        support, query = tree_unflatten(list(data), spec)
        phi, state, met = list(theta), fresh(names), []
        for k in range(steps):
            slope, value = grad(lambda p: on(loss, p, support), has_aux=True)(phi)
            phi, state = at_step(rule, k).update(names, phi, slope, state)
            met.append(value)
        value, _ = on(outer_loss, phi, query)
        return value, (torch.stack(met), value, phi)

    with twice_differentiable(net):
        over = (None, *(0 if tensor else None for tensor in moving))
        grads, (inner, outer, phi) = vmap(grad(adapted, has_aux=True), in_dims=over)(theta, *data)
    by_name = {n: g.mean(0).detach() for n, g in zip(names, grads, strict=True)}
    return by_name, inner.detach(), outer.detach(), {n: p.detach() for n, p in zip(names, phi, strict=True)}
