"""What each model may be told, without importing torch: the recipe's `model` section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag


class ModelConfig(BaseModel):
    """What every model shares. `equivariant` wraps the net as `m + c s g((y - m) / (c s))`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    equivariant: bool = False

    def arguments(self) -> dict[str, Any]:
        """The builder's own arguments."""
        return self.model_dump(exclude={"name", "equivariant"})


class DnCNN(ModelConfig):
    """Zhang et al., TIP 2017: depth 17 for one noise level, 20 for blind denoising, width 64."""

    name: Literal["dncnn"] = "dncnn"
    depth: int = Field(default=17, ge=2)
    width: int = Field(default=64, ge=1)
    norm: Literal["batch", "none"] = "batch"
    bias: bool = True
    skip: bool = True


class RRDB(ModelConfig):
    """Wang et al., ESRGAN, ECCVW 2018: 23 blocks of width 64, growth 32; x1 has no upsampling stage."""

    name: Literal["rrdb"] = "rrdb"
    width: int = Field(default=64, ge=1)
    blocks: int = Field(default=23, ge=1)
    growth: int = Field(default=32, ge=1)
    scale: Literal[1, 2, 4] = 1
    bias: bool = True
    skip: bool = False


class Custom(ModelConfig):
    """Any `package.module:Class` of yours, called with `args`."""

    name: str = Field(pattern=r"^[\w.]+:\w+$")
    args: dict[str, Any] = Field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        return dict(self.args)


BUILTIN: dict[str, type[ModelConfig]] = {"dncnn": DnCNN, "rrdb": RRDB}


def _tag(value: Any) -> str:
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    return "custom" if isinstance(name, str) and ":" in name else str(name)


AnyModel = Annotated[
    Annotated[DnCNN, Tag("dncnn")] | Annotated[RRDB, Tag("rrdb")] | Annotated[Custom, Tag("custom")],
    Discriminator(_tag),
]
