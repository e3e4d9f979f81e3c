"""What a recipe may say. Torch is not imported here, so a wrong recipe is refused at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from dilkit.errors import UsageError
from dilkit.losses import parse_loss
from dilkit.models.config import MODELS, config_class
from dilkit.objectives import OBJECTIVES, AnyObjective

Positive = Annotated[int, Field(ge=1)]
OPTIMISERS = ("adam", "adamw", "sgd", "muon", "lion")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ByName:
    """Pydantic annotation: `Annotated[Any, ByName(find, names)]` holds the config that `find(name)` gives.

    Args:
        find: name -> its config class, or None.
        names: the names there are, for errors and for the JSON schema.
        other: what else a name may be, for errors: `package.module:Class`.
    """

    def __init__(
        self,
        find: Callable[[Any], type[BaseModel] | None],
        names: Callable[[], Iterable[str]],
        other: str | None = None,
    ) -> None:
        self.find, self.names, self.other = find, names, other

    def configs(self) -> list[type[BaseModel]]:
        """The config class of every name."""
        found = (self.find(name) for name in self.names())
        return [config for config in found if config is not None]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        write = core_schema.plain_serializer_function_ser_schema(_dump, info_arg=True)
        return core_schema.no_info_plain_validator_function(self._validate, serialization=write)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(config.__pydantic_core_schema__) for config in self.configs()]}

    def _validate(self, value: Any) -> BaseModel:
        name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
        config = self.find(name)
        if config is None:
            known = [*self.names(), *([self.other] if self.other else [])]
            raise PydanticCustomError(
                "union_tag_invalid", "no such name", {"expected_tags": ", ".join(f"'{n}'" for n in known)}
            )
        return config.model_validate(value)


def _dump(value: BaseModel, info: Any) -> dict[str, Any]:
    return value.model_dump(
        mode=info.mode,
        by_alias=info.by_alias,
        exclude_none=info.exclude_none,
        exclude_defaults=info.exclude_defaults,
    )


AnyModel = Annotated[Any, ByName(config_class, lambda: MODELS.names, "package.module:Class")]


class OrbitConfig(Section):
    """Training crops moved along a symmetry of their distortion (see `dilkit.confounders.orbit`)."""

    name: Literal["contrast", "gain", "scale", "box", "permute"]
    """`contrast` for additive noise, `gain` for Poisson noise, `scale` for blur; `box`: means over boxes of
    pixels, for white noise and less of it; `permute`: the channels in any order."""
    probability: float = Field(default=0.5, ge=0, le=1)
    """Of a crop to be moved."""
    reach: float | None = Field(default=None, gt=0)
    """Farthest degree the moved crops stand for; three times as far as trained on by default."""


class CorrelateConfig(Section):
    """Training crops whose noise is made correlated, as that of cameras is, after it. No symmetry."""

    pixels: float = Field(default=0.0, ge=0, le=1)
    """Probability of both images of a pair to be enlarged,"""
    reach: float = Field(default=2.5, gt=1, le=16)
    """by a ratio uniform between 1 and this."""
    channels: float = Field(default=0.0, ge=0, le=1)
    """Probability of the channels of both images to be mixed."""


def _orbits(value: Any) -> Any:
    """One orbit or several, each by its name alone or with its settings, as a list."""
    given = [] if value is None else value if isinstance(value, list | tuple) else [value]
    return [{"name": each} if isinstance(each, str) else each for each in given]


def _loss(text: str) -> str:
    try:
        parse_loss(text)
    except UsageError as error:
        raise PydanticCustomError(
            "loss", "{expected}", {"expected": str(error.expected), "nearest": error.nearest}
        ) from None
    return text


class Data(Section):
    """Where episodes come from: a store, or images and an expression."""

    store: str | None = None
    """HDF5 file made by `dilkit augment`."""
    sources: list[str] | None = None
    """Instead of a store: folders, globs, files, `samples:`, `deadleaves:N` or `scenes:N`, distorted as they
    are read."""
    distort: str | list[str] | None = None
    """The confounder set of `sources`; a list means `|`."""
    pairs: list[str] | None = None
    """Real pairs, each a confounder of its name: `NAME=CLEAN:DEGRADED`, as `dilkit augment --pairs` takes
    them."""
    labels: list[str] | None = None
    """Confounders of the store to train on; all of them by default."""
    split: str = "train"
    """Items of the store that are trained on; a store made with `--validation` also has `validation`."""
    pairing: Literal["paired", "independent"] = "paired"
    """`paired`: all distortions of the same images (section 3.2); `independent`: as the authors' script."""
    batch: Positive = 8
    """Images per distortion and step, over all processes."""
    crop: Positive = 64
    """Side of the clean crop, in pixels."""
    symmetry: bool = True
    """Random flips and quarter turns."""
    orbit: Annotated[list[OrbitConfig], BeforeValidator(_orbits)] = []
    """Move crops along symmetries of their distortion, so that degrees never drawn are met: one orbit, or a
    list."""
    correlate: CorrelateConfig | None = None
    """Make the noise of crops correlated over pixels and channels, for noise that is never drawn."""
    spread: Literal["batch", "distortions"] = "batch"
    """Over several processes: each takes a share of every batch, or the whole batch of a share of the
    distortions (for the objectives that pool them)."""
    workers: int = Field(default=0, ge=0)
    """Processes that make episodes ahead; 0 makes each when it is needed, best where the CPU trains."""
    tile: Positive = 256
    """Tile side when training from `sources`."""
    validation: float = Field(default=0.0, ge=0, lt=1)
    """Share of the images of `sources` kept for validation."""

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if self.store is not None and (self.sources, self.distort, self.pairs) != (None, None, None):
            raise ValueError("give `store`, or `sources` with `distort` and `pairs`, not both")
        if (self.sources is None) != (self.distort is None):
            raise ValueError("`sources` and `distort` go together")
        return self


class Constant(Section):
    name: Literal["constant"] = "constant"
    """The rate stays."""
    warmup: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""


class Cosine(Section):
    name: Literal["cosine"] = "cosine"
    """The rate falls along half a cosine."""
    warmup: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""
    floor: float = Field(default=0.0, ge=0)
    """Learning rate at the end."""


class Staircase(Section):
    name: Literal["step"] = "step"
    """The rate falls in steps."""
    warmup: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""
    every: Positive
    """Steps or epochs between two falls."""
    unit: Literal["steps", "epochs"] = "steps"
    """An epoch is len(store) / batch steps."""
    factor: float = Field(default=0.5, gt=0, le=1)
    """What the rate is multiplied by at each."""


class TorchSchedule(Section):
    """Any schedule of `torch.optim.lr_scheduler` that goes by steps."""

    name: Literal["torch"] = "torch"
    """A schedule of torch's own."""
    warmup: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""
    of: str
    """Its class: `ExponentialLR`, `OneCycleLR`."""
    args: dict[str, Any] = {}
    """Its arguments."""


AnySchedule = Annotated[Constant | Cosine | Staircase | TorchSchedule, Field(discriminator="name")]


def _optimiser(name: str) -> str:
    if name not in OPTIMISERS and not name[:1].isupper():
        raise PydanticCustomError(
            "optimiser",
            "{expected}",
            {"expected": ", ".join(OPTIMISERS) + ", or a class of torch.optim"},
        )
    return name


class Optim(Section):
    """The outer optimiser, which moves theta along the objective's direction."""

    name: Annotated[str, AfterValidator(_optimiser)] = "adam"
    """`adam`, `adamw`, `sgd`, `muon`, `lion`, or a class of `torch.optim`: `NAdam`, `RMSprop`."""
    lr: float = Field(default=1e-4, gt=0)
    """Learning rate, after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two moments, for adam, adamw and muon; for lion, whose publication has (0.9, 0.99)."""
    eps: float = Field(default=1e-8, gt=0)
    """What the second moment's root is kept above, for adam, adamw and muon."""
    weight_decay: float = Field(default=0.0, ge=0)
    """As the optimiser takes it: decoupled for adamw, muon and lion."""
    momentum: float = Field(default=0.0, ge=0)
    """For sgd and muon."""
    clip: float | None = Field(default=None, gt=0)
    """Largest norm of the whole direction, after it has been reduced over processes."""
    schedule: AnySchedule = Constant()
    """The rate over time."""
    args: dict[str, Any] = {}
    """Further arguments of a class of `torch.optim`."""
    rates: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Factors of the rate by pattern of parameter names: {"encoder.*": 0.1}."""
    accumulate: Positive = 1
    """Episodes whose directions are averaged into one step."""


class Checkpoint(Section):
    every: Positive = 1000
    """Steps between checkpoints; the last step is always saved."""
    keep: Positive = 2
    """Newest checkpoints kept for resuming."""
    archive: int | None = Field(default=None, ge=1)
    """Steps (a multiple of `every`) between checkpoints whose weights are kept for good."""

    @model_validator(mode="after")
    def _multiple(self) -> Checkpoint:
        if self.archive is not None and self.archive % self.every:
            raise ValueError(f"archive must be a multiple of every ({self.every})")
        return self


class Log(Section):
    every: Positive = 50
    """Steps between rows of the metrics files."""
    to: list[Annotated[str, Field(pattern=r"^([\w-]+|[\w.]+:\w+)$")]] = []
    """Where rows, pictures and the recipe go besides: `tensorboard`, `wandb`, `trackio`, `mlflow`, a sink of
    a plug-in, or any `package.module:Class` (see `dilkit.training.sinks`)."""


class Hardware(Section):
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")
    """`auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1` or `mps`."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of torch on the CPU; torch's own choice by default."""
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    """bf16, fp16: forward passes under autocast; weights, virtual weights and losses stay float32. fp16
    scales the loss (a step that overflows is skipped), and is for objectives that differentiate once."""
    sync: Literal["inner", "outer"] = "inner"
    """Over several processes: average the gradient of every virtual step (the released script), or only the
    direction at the end of the chain."""
    channels_last: bool | Literal["auto"] = "auto"
    """Memory layout of images and kernels; auto: on for nets of convolutions, off for those with attention.
    It changes the last bits of the weights, not what is learnt."""
    compile: bool = False
    """`torch.compile`; objectives of the second order cannot differentiate through it."""


class Validate(Section):
    """What is measured along the way, and what picks `best.safetensors`."""

    every: Positive = 1000
    """Steps between validations."""
    images: list[str] | None = None
    """Sources of clean images; by default the items of the store's split `validation`."""
    limit: Positive = 16
    """Images at most."""
    crop: Positive = 128
    """Side of the centre crop that is measured."""
    held_out: str | list[str] | None = None
    """Distortions neither trained on nor tested on, by which generalisation may be watched and selected."""
    patience: int | None = Field(default=None, ge=1)
    """Validations without a better one after which the run ends."""
    select: Literal["seen", "held_out"] = "seen"
    """Whose mean PSNR picks the best checkpoint."""
    pictures: bool = True
    """Write input, output and clean image of the first pair of every distortion, side by side."""

    @model_validator(mode="after")
    def _declared(self) -> Validate:
        if self.select == "held_out" and self.held_out is None:
            raise ValueError("select: held_out needs a held-out distortion in `held_out`")
        return self


class TestSection(Section):
    """What the task is measured on in the end. Nothing here may be trained on or select a checkpoint."""

    distort: str | list[str] | None = None
    """The unseen distortions of the task."""
    sets: list[str] = []
    """The image sets of the publication."""
    channel: Literal["rgb", "y"] = "rgb"
    """Colours, or luma, that are compared."""
    border: int = Field(default=0, ge=0)
    """Pixels left out on each side."""


class Init(Section):
    """Weights that a net starts from. What they have seen becomes part of what the net has seen."""

    source: str
    """A checkpoint, a run's folder, or a safetensors file of weights of another origin."""
    only: list[str] = []
    """Patterns of the names of weights that are taken; all by default."""
    skip: list[str] = []
    """Patterns of those that are not: the net keeps its own."""


def _init(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


class Recipe(Section):
    """One training run, wholly described."""

    description: str = ""
    """What the recipe is for, in a line."""
    plugins: list[str] = []
    """Python files of your own, beside the recipe, that call `dilkit.register`; run when it is composed."""
    seed: int = Field(default=0, ge=0)
    """Of the weights, the crops, the orders and the distortions of `sources`."""
    steps: Positive | None = None
    """Budget in outer steps,"""
    passes: Positive | None = None
    """or in forward-and-backward passes over one distortion's batch (equal work for every objective),"""
    epochs: Positive | None = None
    """or in passes over the store by the clean batch,"""
    hours: float | None = Field(default=None, gt=0)
    """or in wall-clock hours."""
    data: Data = Data()
    """Where episodes come from."""
    model: AnyModel
    """The net."""
    objective: AnyObjective = Field(default={"name": "erm"}, validate_default=True)
    """What gives the direction of each step."""
    loss: Annotated[str, AfterValidator(_loss)] = "l1"
    """A loss by name, or a weighted sum: `l1 + 0.1*fft` (see `dilkit.losses`)."""
    optim: Optim = Optim()
    """The outer optimiser."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the exponential moving average of the weights, which is then what is validated and loaded."""
    swa: float | None = Field(default=None, gt=0, le=1)
    """Share of the steps, at the end, over which the weights are averaged alike (Izmailov et al., UAI 2018,
    at every step as in SWAD, Cha et al., NeurIPS 2021, whose window is chosen by validation instead)."""
    swad: bool = False
    """Average the weights of every step over the window that the validation finds (Cha et al., NeurIPS 2021),
    its loss being 10^(-PSNR / 10) of the distortions it selects by."""
    init: Annotated[Init | None, BeforeValidator(_init)] = None
    """Weights the net starts from: a checkpoint, a run's folder; {source: FILE, only: ["body.*"]} takes
    some."""
    freeze: list[str] = []
    """Patterns of the names of parameters that are not trained."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """What a NaN does: stop with a bundle of what made it, or skip the step (on all processes alike)."""
    validation: Validate | None = Field(default=None, alias="validate")
    """What is measured along the way; nothing by default."""
    test: TestSection = TestSection()
    """What the task is measured on in the end."""
    checkpoint: Checkpoint = Checkpoint()
    """When checkpoints are written, and which are kept."""
    log: Log = Log()
    """When rows of metrics are written, and where to."""
    hardware: Hardware = Hardware()
    """Where and how torch computes."""

    @model_validator(mode="after")
    def _one_budget(self) -> Recipe:
        budgets = {k: getattr(self, k) for k in ("steps", "passes", "epochs", "hours")}
        given = [f"{k}={value}" for k, value in budgets.items() if value is not None]
        if self.swad and (self.validation is None or self.ema is not None or self.swa is not None):
            raise ValueError(
                "swad averages over a window that validation finds: validate, without ema or swa"
            )
        if self.swa is not None and (self.ema is not None or self.hours is not None):
            raise ValueError("swa averages a share of known steps, and instead of ema")
        if len(given) != 1:
            raise PydanticCustomError(
                "value_error",
                "a recipe has one budget: steps, passes, epochs or hours",
                {"found": ", ".join(given) or "none of them"},
            )
        if self.hours is not None and isinstance(self.optim.schedule, Cosine):
            raise ValueError(
                "a cosine schedule needs to know its end: give steps, passes or epochs, not hours"
            )
        objective = OBJECTIVES.get(self.objective.name)
        if self.hardware.compile and objective.second_order:
            raise ValueError(f"{objective.name} differentiates twice, which a compiled net cannot")
        if self.hardware.precision == "fp16" and objective.second_order:
            raise ValueError(f"{objective.name} differentiates twice, for which fp16 is not enough: use bf16")
        if self.data.spread == "distortions" and not objective.pooled:
            pooled = sorted(name for name in OBJECTIVES if OBJECTIVES.get(name).pooled)
            raise ValueError(f"spread: distortions is for {', '.join(pooled)}, which pool them")
        if self.hardware.sync == "outer" and not objective.chain:
            chains = sorted(name for name in OBJECTIVES if OBJECTIVES.get(name).chain)
            raise ValueError(f"sync: outer is for the chains ({', '.join(chains)})")
        return self
