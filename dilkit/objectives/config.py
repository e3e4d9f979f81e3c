"""What a recipe may say about an objective. No torch here: a recipe is checked before torch is loaded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InnerAdam(_Config):
    """The virtual update of the authors' script: Adam without a first moment."""

    name: Literal["adam"] = "adam"
    lr: Rate = 1e-4
    betas: tuple[Beta, Beta] = (0.0, 0.999)
    eps: Rate = 1e-8


class InnerSgd(_Config):
    """The virtual update as Eq. 3 writes it."""

    name: Literal["sgd"] = "sgd"
    lr: Rate = 1e-4
    momentum: Beta = 0.0
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


Inner = Annotated[InnerAdam | InnerSgd, Field(discriminator="name")]
Buffers = Literal["commit_last", "isolate"]
VirtualBuffers = Literal["isolate", "commit_last", "commit_mean", "frozen"]


class ErmConfig(_Config):
    """Empirical risk minimisation over the pooled distortions (Eq. 2)."""

    name: Literal["erm"] = "erm"


class ErmPureConfig(_Config):
    """The control of mixing: each step takes the gradient of one distortion, all of them in turn."""

    name: Literal["erm_pure"] = "erm_pure"


class DilSfConfig(_Config):
    """Serial, first order (section 3.4 and the authors' script): the defaults are theirs.

    `buffers`: what becomes of running statistics met along the chain (see `dilkit.meta.first_order`).
    """

    name: Literal["dil_sf"] = "dil_sf"
    inner: Inner = InnerAdam()
    buffers: Buffers = "commit_last"


class LookaheadConfig(_Config):
    """The control of `dil_sf`: the same chain and outer step on batches that mix the distortions."""

    name: Literal["lookahead"] = "lookahead"
    inner: Inner = InnerAdam()
    buffers: Buffers = "commit_last"


class DilPfConfig(_Config):
    """Parallel, first order (Eq. 5 with Reptile's direction).

    `steps`: pooled virtual steps; one alone would be ERM up to scale, so there are at least two.
    """

    name: Literal["dil_pf"] = "dil_pf"
    inner: Inner = InnerAdam()
    steps: Annotated[int, Field(ge=2)] = 4
    buffers: Buffers = "commit_last"


class SecondOrderConfig(_Config):
    """What the exact variants share.

    `hvp`, `keep`, `buffers`, `backend`: see `dilkit.meta.adjoint` and `dilkit.meta.backends`.
    """

    inner: Inner = InnerSgd(lr=1e-2)
    hvp: Literal["rr", "rof", "auto"] = "auto"
    keep: Annotated[int, Field(ge=0)] | Literal["all"] = 0
    buffers: VirtualBuffers = "commit_mean"
    backend: Literal["native", "higher", "learn2learn"] = "native"


class DilSsConfig(SecondOrderConfig):
    """Serial, second order (Eq. 4).

    `trajectory`: one step from theta for each distortion (`star`, Eq. 3), or one chain through all of them.
    `outer`: which distortions make the outer loss after the step on d: all of them, as Eq. 4 has it, the
    `others` than d, or the `same`.
    """

    name: Literal["dil_ss"] = "dil_ss"
    trajectory: Literal["star", "chain"] = "star"
    outer: Literal["all", "others", "same"] = "all"


class DilPsConfig(SecondOrderConfig):
    """Parallel, second order (Eq. 5): one pooled step."""

    name: Literal["dil_ps"] = "dil_ps"


ObjectiveConfig = Annotated[
    ErmConfig | ErmPureConfig | DilSfConfig | DilPfConfig | DilSsConfig | DilPsConfig | LookaheadConfig,
    Field(discriminator="name"),
]
"""Any objective, told apart by `name`."""
