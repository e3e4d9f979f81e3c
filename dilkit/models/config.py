"""What each model may be told, and the registry of models. No torch here: a recipe is checked before torch is
loaded; a config imports its net when it builds one."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dilkit.errors import UsageError
from dilkit.registry import Registry

if TYPE_CHECKING:
    from torch import nn

Trust = Literal["registered", "modules", "code"]
"""Which nets may be built: those of the registry; also any `package.module:Class` that is an `nn.Module`;
also whatever else `package.module:name` may name, such as a function that makes a net."""

_Width = Annotated[int, Field(ge=1, le=4096)]
_Blocks = Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=16)]


def _contrast(value: Any) -> Any:
    return "contrast" if value is True else value


class ModelConfig(BaseModel):
    """Base of every model's config; the fields a subclass adds are the arguments of its net.

    A model of yours is a subclass with its `name`, and `net` (`module:Class`) or a `build` of its own,
    given to `dilkit.register`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    equivariant: Annotated[Literal[False, "contrast", "scale", "both"], BeforeValidator(_contrast)] = Field(
        default=False,
        description="Wrap the net so that it commutes with changes of contrast and offset (true: contrast), "
        "with enlargements of what is blurred more than `blur_limit` (scale), or both.",
    )
    blur_limit: float = Field(
        default=4.0,
        ge=0.5,
        le=64,
        description="Strongest blur in training, in pixels: in eval mode, `equivariant: scale` shrinks an "
        "image that is blurred more, and enlarges what the net changes in it.",
    )
    noise_scale: Literal["mean", "median", "quantile", "channel", "multiscale", "wide", "intensity"] = Field(
        default="mean",
        description="How `equivariant` estimates the noise: by mean, median or low quantile of the "
        "high-pass response; the quantile by channel; the strongest over averaged boxes of 1 and 2 pixels "
        "(multiscale), or 1, 2 and 4 (wide); wide, as a function of the local grey value (intensity).",
    )
    clip_maps: Literal["none", "two", "signed"] = Field(
        default="none",
        description="Channels that tell the net where the image is black or white: the share of channels at "
        "either end (two), or which of them (signed).",
    )
    noise_map: bool = Field(
        default=False,
        description="Tell the net the true degree of the distortion, over 255, as a further channel in "
        "training and test: a ceiling for nets that are not told. Without other wrappers.",
    )
    front_end: Literal["none", "impulse_clamp"] = Field(
        default="none",
        description="What is done to an image before the net, in eval mode only: impulse_clamp moves lone "
        "impulses into the range of their neighbours.",
    )
    dropout: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of the channels before the last convolution that are dropped in training.",
    )
    masked: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] | None = Field(
        default=None,
        description="Least and greatest share of the pixels after the first convolution that are masked in "
        "training.",
    )
    net: ClassVar[str] = ""

    @model_validator(mode="after")
    def _told_alone(self) -> ModelConfig:
        if self.noise_map and (self.equivariant or self.clip_maps != "none" or self.front_end != "none"):
            raise ValueError("noise_map goes without equivariant, clip_maps and front_end")
        return self

    def arguments(self) -> dict[str, Any]:
        """The arguments of the net itself."""
        return self.model_dump(exclude={"name", *ModelConfig.model_fields})

    def build(self, **more: Any) -> nn.Module:
        """The net itself, with new weights. `more` is `channels`, of its input, where they are not three."""
        module, _, attribute = self.net.partition(":")
        made: nn.Module = getattr(import_module(module), attribute)(**self.arguments(), **more)
        return made


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, ModelConfig)


def _check_model(name: str, config: type[ModelConfig]) -> None:
    if not _is_model(config):
        raise UsageError(
            f"the model {name!r} is not a config",
            found=repr(config),
            expected="a subclass of dilkit.models.ModelConfig",
        )
    if config.build is ModelConfig.build and not config.net:
        raise UsageError(
            f"the model {name!r} does not say what it builds",
            expected="net = 'module:Class', or a method build(self)",
        )


def _name_of(config: type[ModelConfig]) -> str:
    return str(config.model_fields["name"].default)


class _Models(Registry[type[ModelConfig]]):
    def add(
        self, value: type[ModelConfig], name: str | None = None, *, origin: str = ""
    ) -> type[ModelConfig]:
        """Register a config under the default of its field `name`."""
        return super().add(value, name or (_name_of(value) if _is_model(value) else None), origin=origin)


MODELS = _Models("model", check=_check_model, is_one=_is_model)
"""Every model by name: `MODELS.get("dncnn")` is its config class."""


@MODELS.add
class DnCNNConfig(ModelConfig):
    """Zhang et al., TIP 2017: depth 17 for one noise level, 20 for blind denoising, width 64."""

    net: ClassVar[str] = "dilkit.models.dncnn:DnCNN"
    name: Literal["dncnn"] = "dncnn"
    depth: int = Field(default=17, ge=2, le=256, description="Number of convolutions.")
    width: _Width = Field(default=64, description="Channels of the hidden layers.")
    norm: Literal["batch", "none"] = Field(default="batch", description="Normalisation of the hidden layers.")
    bias: bool = Field(default=True, description="Additive constants in the convolutions.")
    skip: bool = Field(default=True, description="Predict the residual, as published.")


@MODELS.add
class RRDBConfig(ModelConfig):
    """Wang et al., ESRGAN, ECCVW 2018: 23 blocks of width 64, growth 32; x1 has no upsampling stage."""

    net: ClassVar[str] = "dilkit.models.rrdb:RRDBNet"
    name: Literal["rrdb"] = "rrdb"
    width: _Width = Field(default=64, description="Channels between the blocks.")
    blocks: int = Field(default=23, ge=1, le=256, description="Residual-in-residual blocks.")
    growth: _Width = Field(default=32, description="Channels each convolution adds in a dense block.")
    scale: Literal[1, 2, 4] = Field(default=1, description="Upscaling factor.")
    bias: bool = Field(default=True, description="Additive constants in the convolutions.")
    skip: bool = Field(default=False, description="Add the input to the output.")


@MODELS.add
class SwinIRConfig(ModelConfig):
    """Liang et al., ICCVW 2021: six groups of six layers of width 180; scale 2, 3, 4 for super-resolution."""

    net: ClassVar[str] = "dilkit.models.swinir:SwinIR"
    name: Literal["swinir"] = "swinir"
    width: _Width = Field(default=180, description="Channels of a token, a multiple of the heads.")
    depths: _Blocks = Field(default=(6, 6, 6, 6, 6, 6), description="Layers of each group.")
    heads: _Blocks = Field(default=(6, 6, 6, 6, 6, 6), description="Attention heads of each group.")
    window: int = Field(default=8, ge=2, le=32, description="Side of the attention windows, in pixels.")
    ratio: float = Field(
        default=2.0, gt=0, le=16, description="Hidden width of the feed-forward, over width."
    )
    scale: Literal[1, 2, 3, 4] = Field(default=1, description="Upscaling factor.")
    drop_path: float = Field(default=0.1, ge=0, lt=1, description="Stochastic depth of the last layer.")
    skip: bool = Field(default=True, description="Add the input to the output; scale 1 only.")


@MODELS.add
class NAFNetConfig(ModelConfig):
    """Chen et al., ECCV 2022: the real-denoising net of width 32 by default."""

    net: ClassVar[str] = "dilkit.models.nafnet:NAFNet"
    name: Literal["nafnet"] = "nafnet"
    width: int = Field(default=32, ge=1, le=1024, description="Channels at full size; doubled at each level.")
    encoder: _Blocks = Field(default=(2, 2, 4, 8), max_length=8, description="Blocks of each level down.")
    middle: int = Field(default=12, ge=0, le=64, description="Blocks at the smallest size.")
    decoder: _Blocks = Field(default=(2, 2, 2, 2), max_length=8, description="Blocks of each level up.")
    skip: bool = Field(default=True, description="Predict the residual, as published.")


@MODELS.add
class UNetConfig(ModelConfig):
    """Ronneberger et al., MICCAI 2015, with padded convolutions."""

    net: ClassVar[str] = "dilkit.models.unet:UNet"
    name: Literal["unet"] = "unet"
    width: int = Field(default=64, ge=1, le=1024, description="Channels at full size; doubled at each level.")
    depth: int = Field(default=4, ge=1, le=8, description="Levels below full size.")
    bias: bool = Field(default=True, description="Additive constants in the convolutions.")
    skip: bool = Field(default=True, description="Add the input to the output.")


@MODELS.add
class ResUNetConfig(ModelConfig):
    """A small residual U-Net after DRUNet (Zhang et al., TPAMI 2022), without bias-free blocks."""

    net: ClassVar[str] = "dilkit.models.resunet:ResUNet"
    name: Literal["resunet"] = "resunet"
    widths: Annotated[tuple[_Width, ...], Field(min_length=1, max_length=8)] = Field(
        default=(16, 32, 60), description="Channels of each level, from full size down."
    )
    down: _Blocks = Field(default=(1, 1, 2), description="Blocks of each level down; the last is the bottom.")
    up: Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(max_length=8)] = Field(
        default=(1, 1), description="Blocks of each level on the way up, from full size down."
    )
    skip: bool = Field(default=True, description="Predict the residual.")


@MODELS.add
class IDFConfig(ModelConfig):
    """Kim et al., ICCV 2025: one small block that filters ten times, with a kernel for each pixel."""

    net: ClassVar[str] = "dilkit.models.idf:IDF"
    name: Literal["idf"] = "idf"
    width: _Width = Field(default=64, description="Channels of the features.")
    iterations: int = Field(default=10, ge=1, le=100, description="How often the block is applied.")
    kernel: int = Field(default=3, ge=3, le=15, description="Side of the predicted kernels, odd.")
    power: float = Field(default=3.0, gt=0, le=16, description="Weights are |logit|^power over their sum.")


class CustomConfig(ModelConfig):
    """Any `package.module:Class` of yours, called with `args`. Not in the registry: what a name names is
    imported only where the user allows it."""

    name: str = Field(pattern=r"^[\w.]+:\w+$", description="package.module:Class, a torch.nn.Module.")
    args: dict[str, Any] = Field(default_factory=dict, description="Arguments of the class.")

    def arguments(self) -> dict[str, Any]:
        return dict(self.args)

    def build(self, **more: Any) -> nn.Module:
        raise TypeError("a class by its path is built by dilkit.models.from_config, which asks for trust")


def config_class(name: Any) -> type[ModelConfig] | None:
    """The config class of a model's name, `Custom` for a path; None where there is none."""
    if isinstance(name, str) and ":" in name:
        return CustomConfig
    return MODELS.find(name) if isinstance(name, str) else None
