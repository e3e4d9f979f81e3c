"""Restoration nets: one file each, built by name or from any `package.module:Class`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dilkit.errors import UsageError, nearest
from dilkit.models.config import MODELS, CustomConfig, ModelConfig, Trust, config_class

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MODELS", "ModelConfig", "build", "from_config"]


def build(name: str, *, trust_code: bool = False, **args: Any) -> nn.Module:
    """Build a model by its name.

    Args:
        name: one of `MODELS`, or `package.module:Class` with its arguments in `args={...}`.
        trust_code: call what `package.module:name` names even where it is not an `nn.Module` class.
        args: the fields of that model's config, and `equivariant`.

    Raises:
        UsageError: no such model, or an argument it does not take.
    """
    found = config_class(name)
    if found is None:
        raise UsageError(
            f"unknown model {name!r}",
            expected=", ".join(sorted(MODELS)) + ", or package.module:Class",
            nearest=nearest(name, MODELS),
        )
    try:
        config = found.model_validate({"name": name, **args})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][-1]) if first["loc"] else ""
        raise UsageError(
            f"model {name}: {first['msg']}",
            where=f"model.{key}" if key else "model",
            found=first["input"],
            nearest=nearest(key, found.model_fields) if first["type"] == "extra_forbidden" else None,
        ) from None
    return from_config(config, trust="code" if trust_code else "modules")


def from_config(config: ModelConfig, *, trust: Trust = "modules") -> nn.Module:
    """Build the model a validated config describes, as far as it is trusted (see `Trust`)."""
    from dilkit.models.equivariant import Contrast, ImpulseClamp, Scale, WithClipMaps, clip_channels
    from dilkit.models.noise_map import NoiseMap

    further = int(config.noise_map)
    if config.clip_maps != "none":
        further += clip_channels(config.clip_maps)
    more = {"channels": 3 + further} if further else {}
    if isinstance(config, CustomConfig):
        from dilkit.models.custom import build_custom

        net = build_custom(config, trust, more)
    else:
        net = config.build(**more)
    if config.dropout is not None or config.masked is not None:
        from dilkit.models.regularisers import regularised

        net = regularised(net, config.dropout, config.masked)
    if config.equivariant in ("contrast", "both"):
        net = Contrast(net, config.noise_scale, config.clip_maps)
    elif config.noise_map:
        return NoiseMap(net)
    elif more:
        net = WithClipMaps(net, config.clip_maps)
    if config.equivariant in ("scale", "both"):
        if getattr(config, "scale", 1) != 1:
            raise UsageError(
                "the wrapper of scale is for nets that keep the size of an image",
                where="model.equivariant",
                found=f"scale {getattr(config, 'scale', 1)}",
            )
        net = Scale(net, config.blur_limit)
    return ImpulseClamp(net) if config.front_end == "impulse_clamp" else net
