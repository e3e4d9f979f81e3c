"""The distortions themselves, a file a family; each registers its kinds when it is imported."""

from __future__ import annotations

from dilkit.distortions.families import (
    blur,
    camera,
    compression,
    frost,
    noise,
    pointwise,
    resampling,
    warp,
    weather,
)

__all__ = ["blur", "camera", "compression", "frost", "noise", "pointwise", "resampling", "warp", "weather"]
