"""Conformance checks for plug-ins, for use in a plug-in's own tests; `dilkit check KIND NAME` runs the same.

    from dilkit.testing import check_distortion
    check_distortion("vhs_noise", strength=0.3)

Each check runs a registered thing on small inputs and raises a UsageError for the promise that is not kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dilkit.distortions import REGISTRY, PrimitiveKind, SampleKey, Word, pixel_hash
from dilkit.distortions.params import REQUIRED, Param
from dilkit.distortions.randomness import Window
from dilkit.errors import UsageError
from dilkit.evaluation.extra_metrics import METRICS, check_metric
from dilkit.evaluation.protocols import check_protocol, find_protocol
from dilkit.objectives.conformance import check_objective

__all__ = [
    "CHECKS", "check_distortion", "check_loss", "check_metric", "check_model", "check_objective",
    "check_protocol", "check_sink",
]  # fmt: skip

SIDE = 44
"""Height of the image that distortions are tried on; it is 3 pixels narrower."""


def check_distortion(name: str, **settings: Any) -> None:
    """Check that a distortion gives a window the pixels of the whole, and is a function of its key alone.

    Virtual datasets make windows. A kind that looks further than its `locality` says, or that draws from
    anywhere but its `draw`, would give them other pixels than the whole image has.

    Args:
        name: of a registered distortion.
        settings: its parameters. Those left out take their default; where there is none, both ends and the
            middle of their range are tried.

    Raises:
        DilkitError: the first promise that is not kept.
    """
    kind = REGISTRY.get(name)
    strange = set(settings) - {param.name for param in kind.params}
    if strange:
        raise UsageError(f"the distortion {name!r} has no parameter {min(strange)!r}", found=sorted(strange))
    for given in _settings_to_try(kind, settings):
        word = kind(**given)
        for image in (_photograph(SIDE, SIDE - 3, 1), np.zeros((SIDE, SIDE - 3, 3), np.float32)):
            _check_word(word, kind, image)


def _settings_to_try(kind: PrimitiveKind, settings: dict[str, Any]) -> list[dict[str, Any]]:
    lacking = [p for p in kind.params if p.default is REQUIRED and p.name not in settings]
    tried = [{**settings, **{p.name: _value(p, at) for p in lacking}} for at in (0.5, 0.0, 1.0)]
    return tried if lacking else [dict(settings)]


def _value(param: Param, at: float) -> Any:
    """A value of a parameter's range, from its low end (0) to its high end (1)."""
    if param.choices:
        return param.choices[round(at * (len(param.choices) - 1))]
    if param.type is bool:
        return at >= 0.5
    low = param.low if math.isfinite(param.low) else 0.0
    high = param.high if math.isfinite(param.high) else low + 10.0
    value = low + at * (high - low)
    return round(value) if param.type is int else value


def _check_word(word: Word, kind: PrimitiveKind, image: Any) -> None:
    def refuse(promise: str, remedy: str, found: object = None) -> None:
        message = f"the distortion {kind.name!r} {promise}"
        raise UsageError(message, where=str(word), found=found, remedy=remedy)

    key, before = SampleKey(7, pixel_hash(image)), image.copy()
    whole = word.apply(image, key)
    if not np.array_equal(image, before):
        refuse("changes its input", "work on a copy")
    if whole.dtype != np.float32 or whole.ndim != 3 or whole.shape[2] != 3:
        refuse("returns no (H, W, 3) float32 image", "cast its result", f"{whole.shape} {whole.dtype}")
    if not np.isfinite(whole).all():
        refuse("returns NaN or infinity", "bound its result")
    if word.apply(image, key).tobytes() != whole.tobytes():
        refuse("gives other pixels for the same key", "take all randomness from `draw`, keep no state")
    np.random.seed(1)  # noqa: NPY002 - the hidden randomness that is looked for
    if word.apply(image, key).tobytes() != whole.tobytes():
        refuse("draws from NumPy's global generator", "take all randomness from its `draw`")
    if not kind.random and word.apply(image, SampleKey(8, key.pixels)).tobytes() != whole.tobytes():
        refuse("depends on its key, though it is not declared random", "declare random=True")
    if whole.shape != image.shape:
        return  # a kind that changes the size is never asked for a window
    height, width = image.shape[:2]
    for window in (
        Window(0, 0, height, width),
        Window(0, 0, 7, 5),
        Window(13, 11, 8, 9),
        Window(height - 6, width - 7, 6, 7),
        Window(height // 2, 0, 1, width),
        Window(0, width // 2, height, 1),
    ):
        part = word.apply(image, key, window)
        cut = whole[window.y : window.y + window.h, window.x : window.x + window.w]
        if part.tobytes() != cut.tobytes():
            off = float(np.abs(part - cut).max()) if part.shape == cut.shape else math.nan
            refuse(
                f"gives the window {window} other pixels than the whole image has",
                "declare how far an output pixel looks (`locality`), or GLOBAL; draw fields by position",
                f"up to {off:.3g} off",
            )


def _photograph(height: int, width: int, seed: int) -> Any:
    """(H, W, 3) float32 in [0, 1]: smooth shapes with edges and some grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / a + b) * np.cos(y / b) for a, b in ((5.0, 3.0), (9.0, 7.0), (3.0, 11.0))]
    image = np.stack(waves, -1) * 0.35 + 0.5 + rng.normal(0, 0.02, (height, width, 3))
    image[height // 3 : height // 2, width // 3 :] += 0.2
    return np.clip(image, 0, 1).astype(np.float32)


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
    (grad,) = torch.autograd.grad(value, output, allow_unused=True)
    if grad is None or not torch.isfinite(grad).all() or not grad.any():
        refuse("has no usable gradient for the output", None if grad is None else "zero or not finite")
    if float(loss(target.clone(), target)) > float(value):
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

    from dilkit.training.records import SINKS

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
