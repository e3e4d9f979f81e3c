"""Every family of primitives; importing this module registers them all."""

from dilkit.distortions import blur, compression, noise, pointwise

__all__ = ["blur", "compression", "noise", "pointwise"]
