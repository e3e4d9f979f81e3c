"""Conformance checks for plug-ins, for use in a plug-in's own tests; `dilkit check KIND NAME` runs the same.

    from dilkit.testing import check_distortion
    check_distortion("vhs_noise", strength=0.3)

Each check runs a registered thing on small inputs and raises a UsageError for the promise that is not kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dilkit.distortions.contract import check_distortion
from dilkit.errors import UsageError
from dilkit.evaluation.extra_metrics import METRICS, check_metric
from dilkit.evaluation.protocols import check_protocol, find_protocol
from dilkit.objectives.conformance import check_objective

__all__ = [
    "CHECKS", "check_distortion", "check_loss", "check_metric", "check_model", "check_objective",
    "check_protocol", "check_sink",
]  # fmt: skip


def check_loss(name: str) -> None:
    """Check that a loss is a finite scalar with a gradient, least where output and target are equal.

    Raises:
        UsageError: the first promise that is not kept.
    """
    import torch

    from dilkit.losses import LOSSES

    loss = LOSSES.get(name)
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 3, 32, 32, generator=generator)
    output = (target + 0.1 * torch.randn(target.shape, generator=generator)).requires_grad_()
    value = loss(output, target)

    def refuse(promise: str, found: object) -> None:
        raise UsageError(f"the loss {name!r} {promise}", found=found)

    if value.shape != () or not value.dtype.is_floating_point:
        refuse("returns no scalar", f"{tuple(value.shape)} {value.dtype}")
    if not torch.isfinite(value):
        refuse("is not finite", float(value))
    (grad,) = torch.autograd.grad(value, output, allow_unused=True) if value.requires_grad else (None,)
    if grad is None or not torch.isfinite(grad).all() or not grad.any():
        refuse("has no usable gradient for the output", None if grad is None else "zero or not finite")
    if float(loss(target.clone(), target)) > float(value.detach()):
        refuse("is larger for a perfect output than for a noisy one", float(value))


def check_model(name: str, **settings: Any) -> None:
    """Check that a model can be built, restores any image size, and can be trusted with virtual updates.

    Raises:
        UsageError: the first promise that is not kept.
    """
    import torch

    from dilkit.meta.check import examine
    from dilkit.models import build

    torch.manual_seed(0)
    net = build(name, **settings).eval()
    with torch.no_grad():
        out = net(torch.rand(1, 3, 32, 48))
    if out.ndim != 4 or out.shape[:2] != (1, 3):
        raise UsageError(
            f"the model {name!r} does not map (B, 3, H, W) to (B, 3, H, W)", found=tuple(out.shape)
        )
    bad = [f for f in examine(net.train(), (2, 3, 32, 32), seed=0) if f.verdict == "fail"]
    if bad:
        raise UsageError(
            f"the model {name!r} cannot be trusted with virtual updates",
            found="; ".join(f"{f.name}: {f.found}" for f in bad),
            remedy="; ".join(f.remedy for f in bad if f.remedy) or None,
        )


def check_sink(name: str) -> None:
    """Check that a sink takes the rows of a short run in a folder of its own.

    Raises:
        UsageError: it cannot be made, or refuses a row.
    """
    import tempfile
    from pathlib import Path

    from dilkit.training.sinks import SINKS

    make = SINKS.get(name)
    with tempfile.TemporaryDirectory() as folder:
        try:
            sink = make(Path(folder))
            for step in (1, 2):
                sink.add({"step": step, "loss": 0.5 / step, "val/awgn(5)": 30.0 + step, "lr": 1e-4})
            close = getattr(sink, "close", None)
            if callable(close):
                close()
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"the sink {name!r} fails: {type(error).__name__}: {error}", where="two rows of a run"
            ) from error


CHECKS: dict[str, Callable[..., None]] = {
    "distortion": check_distortion,
    "objective": check_objective,
    "loss": check_loss,
    "model": check_model,
    "metric": lambda name: check_metric(METRICS.get(name)),
    "protocol": lambda name: check_protocol(find_protocol(name)),
    "sink": check_sink,
}
"""Kind -> its check, called with the name of a registered thing and its settings."""
