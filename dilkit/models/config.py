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


Blocks = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]


class SwinIR(ModelConfig):
    """Liang et al., ICCVW 2021: six groups of six layers of width 180; scale 2, 3, 4 for super-resolution."""

    name: Literal["swinir"] = "swinir"
    width: int = Field(default=180, ge=1)
    depths: Blocks = (6, 6, 6, 6, 6, 6)
    heads: Blocks = (6, 6, 6, 6, 6, 6)
    window: int = Field(default=8, ge=2)
    ratio: float = Field(default=2.0, gt=0)
    scale: Literal[1, 2, 3, 4] = 1
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    skip: bool = True


class NAFNet(ModelConfig):
    """Chen et al., ECCV 2022: the real-denoising net of width 32 by default."""

    name: Literal["nafnet"] = "nafnet"
    width: int = Field(default=32, ge=1)
    encoder: Blocks = (2, 2, 4, 8)
    middle: int = Field(default=12, ge=0)
    decoder: Blocks = (2, 2, 2, 2)
    skip: bool = True


class UNet(ModelConfig):
    """Ronneberger et al., MICCAI 2015, with padded convolutions."""

    name: Literal["unet"] = "unet"
    width: int = Field(default=64, ge=1)
    depth: int = Field(default=4, ge=1)
    bias: bool = True
    skip: bool = True


class Custom(ModelConfig):
    """Any `package.module:Class` of yours, called with `args`."""

    name: str = Field(pattern=r"^[\w.]+:\w+$")
    args: dict[str, Any] = Field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        return dict(self.args)


BUILTIN: dict[str, type[ModelConfig]] = {
    "dncnn": DnCNN,
    "rrdb": RRDB,
    "swinir": SwinIR,
    "nafnet": NAFNet,
    "unet": UNet,
}


def _tag(value: Any) -> str:
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    return "custom" if isinstance(name, str) and ":" in name else str(name)


AnyModel = Annotated[
    Annotated[DnCNN, Tag("dncnn")]
    | Annotated[RRDB, Tag("rrdb")]
    | Annotated[SwinIR, Tag("swinir")]
    | Annotated[NAFNet, Tag("nafnet")]
    | Annotated[UNet, Tag("unet")]
    | Annotated[Custom, Tag("custom")],
    Discriminator(_tag),
]
