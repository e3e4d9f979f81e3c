"""Gradients, and Hessian-vector products by reverse over reverse: exact wherever double backward is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel

from dilkit.errors import UsageError
from dilkit.meta.guards import is_compiled


@contextmanager
def twice_differentiable(net: nn.Module) -> Iterator[None]:
    """Attention through its unfused kernel (the fused ones have one derivative), compiled modules eagerly.

    Raises:
        UsageError: an operation met inside has no second derivative in torch.
    """
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if is_compiled(net):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            yield
        except RuntimeError as error:
            text = str(error)
            if "is not implemented" in text and "derivative for" in text:
                raise UsageError(
                    "an operation of this module or loss cannot be differentiated twice",
                    found=text.split("\n")[0],
                    remedy="replace it, or use order='fomaml' or 'reptile'",
                ) from error
            raise


def gradient(loss: Tensor, at: Sequence[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    """grad(loss) by the tensors `at`, zero for what the loss does not use."""
    if not loss.requires_grad:
        return [torch.zeros_like(p) for p in at]
    return list(
        torch.autograd.grad(
            loss, list(at), create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
    )


Graph = list[Tensor | GradientEdge]
"""Gradients that were made with their graph. An edge stands for a gradient without holding its values."""


def graph_of(grads: Sequence[Tensor]) -> Graph:
    """Where `product` can start from; the gradients themselves are no longer needed."""
    return [g if g.is_leaf else get_gradient_edge(g) for g in grads]


def product(
    graph: Sequence[Tensor | GradientEdge], at: Sequence[Tensor], v: Sequence[Tensor]
) -> list[Tensor]:
    """d<grads, v> by the tensors `at`, of gradients that were made with their graph: H v where `at` are the
    weights, the mixed derivative where they are other tensors of the loss.
    """
    live = [(g, x) for g, x in zip(graph, v, strict=True) if isinstance(g, GradientEdge) or g.requires_grad]
    if not live:
        return [torch.zeros_like(p) for p in at]
    return list(
        torch.autograd.grad(
            [g for g, _ in live],  # type: ignore[arg-type]
            list(at),
            grad_outputs=[x for _, x in live],
            allow_unused=True,
            materialize_grads=True,
        )
    )
