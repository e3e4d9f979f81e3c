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


class ErmConfig(_Config):
    """Empirical risk minimisation over the pooled distortions (Eq. 2)."""

    name: Literal["erm"] = "erm"


class DilSfConfig(_Config):
    """Serial, first order (section 3.4 and the authors' script): the defaults are theirs.

    `buffers`: what becomes of running statistics met along the chain (see `dilkit.meta.chain`).
    """

    name: Literal["dil_sf"] = "dil_sf"
    inner: Inner = InnerAdam()
    buffers: Buffers = "commit_last"


class LookaheadConfig(_Config):
    """The control of `dil_sf`: the same chain and outer step on batches that mix the distortions."""

    name: Literal["lookahead"] = "lookahead"
    inner: Inner = InnerAdam()
    buffers: Buffers = "commit_last"


ObjectiveConfig = Annotated[ErmConfig | DilSfConfig | LookaheadConfig, Field(discriminator="name")]
"""Any objective, told apart by `name`."""
