"""What an objective is: an episode in, gradients by parameter name out.

Nothing here imports torch before gradients are taken, so that a recipe is refused without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dilkit.confounders.episodes import Batch, Episode
    from dilkit.meta.inner import Inner as InnerRule

Loss = Callable[["nn.Module", "Batch"], "Tensor"]
"""loss(module, (distorted, clean)) -> scalar; it opens its own autocast, if any."""
Reduce = Callable[["list[Tensor]"], None]
"""Averages a list of tensors over the processes, in place; on all of them in the same order."""

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Beta = Annotated[float, Field(ge=0, lt=1)]
HVP_PASSES = 3
"""What an exact Hessian-vector product costs, in forward and backward passes (docs/method.md)."""


class _Settings(BaseModel):
    """A frozen section of a recipe that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ObjectiveConfig(_Settings):
    """What a recipe may say about any objective; each class adds its own in its nested `Config`."""

    name: str
    """What the objective is called."""
    sam: Rate | None = None
    """Radius of sharpness-aware minimisation (`dilkit.objectives.generalisation.SharpnessAware`)."""

    @model_validator(mode="before")
    @classmethod
    def _change_the_default(cls, given: Any) -> Any:
        """`inner: {lr: 1e-3}`, without a name, changes the objective's own inner optimiser."""
        if not isinstance(given, Mapping):
            return given
        changed = dict(given)
        for key, value in given.items():
            own = cls.model_fields[key].default if key in cls.model_fields else None
            if isinstance(own, BaseModel) and isinstance(value, Mapping) and "name" not in value:
                changed[key] = {**own.model_dump(), **value}
        return changed


class Late(ObjectiveConfig):
    """Settings of an objective whose penalty may set in later."""

    after: Annotated[int, Field(ge=0)] = 0
    """Steps of plain ERM before the penalty is switched on."""


class Penalised(Late):
    """Settings of the mean loss plus a penalty."""

    penalty: NonNegative = 1.0
    """Weight of the penalty."""


class InnerAdam(_Settings):
    """The virtual update of the authors' script: Adam without a first moment."""

    name: Literal["adam"] = "adam"
    lr: Rate = 1e-4
    """Step size."""
    betas: tuple[Beta, Beta] = (0.0, 0.999)
    """Decay of the two moments."""
    eps: Rate = 1e-8
    """Added to the denominator."""


class InnerSgd(_Settings):
    """The virtual update as Eq. 3 writes it."""

    name: Literal["sgd"] = "sgd"
    lr: Rate = 1e-4
    """Step size."""
    momentum: Beta = 0.0
    """Decay of the velocity."""
    nesterov: bool = False
    """Look ahead along the velocity."""
    weight_decay: NonNegative = 0.0
    """Added to the gradient, times the weights."""


Inner = Annotated[InnerAdam | InnerSgd, Field(discriminator="name")]


@dataclass(frozen=True)
class Gradients:
    """What the outer optimiser is given.

    Attributes:
        grads: the direction for theta, by the name of every trainable parameter.
        loss: detached scalar, the mean training loss over the confounders (at the weights met).
        log: further scalars worth writing down, such as the loss of each confounder under `loss/<label>`.
    """

    grads: dict[str, Tensor]
    loss: Tensor
    log: dict[str, Tensor] = field(default_factory=dict)


class Objective(ABC):
    """One way to turn an episode into a direction for theta.

    It leaves theta, the parameters' `.grad`, files and devices alone; what it remembers from one step to the
    next is in `state_dict`; what it draws depends on (seed, step) alone, so that it is the same on every
    process and after a restart.

    Attributes:
        name: what a recipe calls it.
        Config: its settings, a pydantic model; values outside their range are refused when a recipe is read.
        pooled: whether the direction is a mean over the distortions, so that processes may share them out
            (`data.spread: distortions`).
        chain: whether it runs a first-order chain (`hardware.sync: outer` is for these).
        second_order: whether it differentiates twice, which a compiled net cannot.
        activations: peak of saved activations, in units of one distortion's forward and backward pass.
        copies: copies of the parameters it holds at a time, besides theta and the direction; `n` of them
            where it holds a gradient for each distortion.
        search: by setting (`optim.lr` and other keys of the recipe included), the range of a random search
            (see `dilkit.experiments.selection`), from the publication where it gives one.
        words: what an arm of this objective adds to the recipe: the outer optimiser of its publication,
            where that is part of the method.
        rate: the key of the recipe that a swept learning rate sets.
    """

    name: ClassVar[str]
    pooled: ClassVar[bool] = False
    chain: ClassVar[bool] = False
    second_order: ClassVar[bool] = False
    activations: ClassVar[float] = 1.0
    copies: ClassVar[float | Literal["n"]] = 0.0
    search: ClassVar[Mapping[str, str]] = {}
    words: ClassVar[tuple[str, ...]] = ()
    rate: ClassVar[str] = "optim.lr"

    class Config(ObjectiveConfig):
        """No settings of its own."""

    def __init__(self, config: Any, loss: Loss, *, seed: int = 0, reduce: Reduce | None = None) -> None:
        """Args:
        config: an instance of `Config`.
        loss: loss(module, batch) -> scalar.
        seed: of the orders drawn at each step.
        reduce: averages a list of tensors over the processes, in place; the gradients returned are then
            averaged already, and so are those of every virtual step.
        """
        self.config = config
        self.loss = loss
        self.seed = seed
        self.reduce = reduce

    @abstractmethod
    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        """The direction for theta.

        Raises:
            DilkitError: a loss or gradient is NaN or infinite, named with its distortion and step; the net
                is left as it was.
        """

    def passes(self, n: int) -> int:
        """Forward and backward passes over one distortion's batch, per step of n confounders."""
        return n

    def mean_gradient(self, net: nn.Module, batches: Mapping[str, Batch], step: int) -> Gradients:
        """The gradient of the mean loss of batches, by label; one accumulated pass for each.

        Raises:
            DilkitError: a loss or the gradient is not finite.
        """
        losses: dict[str, Tensor] = {}
        with private_grads(net) as params:
            for label, batch in batches.items():
                value = self.loss(net, batch)
                (value / len(batches)).backward()
                losses[label] = value.detach()
            grads = accumulated(params)
        return self.finished(grads, losses, step)

    def finished(self, grads: dict[str, Tensor], losses: Mapping[str, Tensor], step: int) -> Gradients:
        """A direction from accumulated passes: averaged over the processes, found finite, with the losses."""
        if self.reduce is not None:
            self.reduce(list(grads.values()))
        require_finite_each(losses, {", ".join(losses): grads}, where=f"step {step}")
        return summed_up(grads, losses)

    def each_gradient(
        self, net: nn.Module, batches: Mapping[str, Batch], step: int
    ) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
        """By label, the gradient of the batch's loss (averaged over the processes) and the loss itself.

        One batch's activations at a time, and as many gradients as there are batches.

        Raises:
            DilkitError: the first loss or gradient that is not finite.
        """
        grads: dict[str, dict[str, Tensor]] = {}
        losses: dict[str, Tensor] = {}
        with private_grads(net) as params:
            for label, batch in batches.items():
                value = self.loss(net, batch)
                value.backward()
                losses[label] = value.detach()
                grads[label] = accumulated(params)
        if self.reduce is not None:
            for own in grads.values():
                self.reduce(list(own.values()))
        require_finite_each(losses, grads, where=f"step {step}")
        return grads, losses

    def state_dict(self) -> dict[str, Any]:
        """What is remembered between steps: tensors and plain values, by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027  (most remember nothing)
        """Take over what `state_dict` gave."""


def on(loss: Loss, batch: Batch) -> Callable[[nn.Module], Tensor]:
    """The loss of one batch, as a function of the module alone."""
    return lambda module: loss(module, batch)


def summed_up(grads: dict[str, Tensor], losses: Mapping[str, Tensor]) -> Gradients:
    """The direction, with the mean of the losses by label and each of them in the log."""
    import torch

    mean = torch.stack(list(losses.values())).mean()
    return Gradients(grads, mean, {f"loss/{label}": loss for label, loss in losses.items()})


@contextmanager
def private_grads(net: nn.Module) -> Iterator[dict[str, nn.Parameter]]:
    """The trainable parameters by name, their `.grad` empty inside and as it was afterwards."""
    params = {name: p for name, p in net.named_parameters() if p.requires_grad}
    before = [p.grad for p in params.values()]
    try:
        for p in params.values():
            p.grad = None
        yield params
    finally:
        for p, grad in zip(params.values(), before, strict=True):
            p.grad = grad


def accumulated(params: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """What backward passes have left in `.grad`, zero for a parameter that none reached; emptied."""
    grads = {
        name: p.grad if p.grad is not None else p.detach().new_zeros(p.shape) for name, p in params.items()
    }
    for p in params.values():
        p.grad = None
    return grads


@contextmanager
def unmoved_buffers(net: nn.Module) -> Iterator[None]:
    """Running statistics that passes inside move are put back."""
    import torch

    kept = [b.detach().clone() for b in net.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for b, value in zip(net.buffers(), kept, strict=True):
                b.copy_(value)


def require_finite_each(
    losses: Mapping[str, Tensor], grads: Mapping[str, Mapping[str, Tensor]], *, where: str
) -> None:
    """Raises DilkitError for the first label whose loss or gradient is NaN or infinite."""
    from dilkit.meta.guards import require_finite, size

    scalars = {f"the loss of {label}": value for label, value in losses.items()}
    scalars |= {f"the gradient of {label}": size(own.values()) for label, own in grads.items()}
    require_finite(scalars, where=where)


def combined(grads: Sequence[Mapping[str, Tensor]], weights: Sequence[float | Tensor]) -> dict[str, Tensor]:
    """sum_i weights_i grads_i, by parameter name."""
    total = {name: g * weights[0] for name, g in grads[0].items()}
    for own, weight in zip(grads[1:], weights[1:], strict=True):
        for name, g in own.items():
            total[name] += g * weight
    return total


def optimizer_of(
    config: InnerAdam | InnerSgd,
) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    """What makes torch's optimiser, given the parameters; fused kernels where the parameters allow them."""

    def make(params: list[nn.Parameter]) -> torch.optim.Optimizer:
        import torch

        fused = all(p.is_floating_point() and p.device.type in {"cpu", "cuda"} for p in params)
        if isinstance(config, InnerAdam):
            return torch.optim.Adam(params, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)
        return torch.optim.SGD(
            params,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            fused=fused,
        )

    return make


def rule_of(config: InnerAdam | InnerSgd) -> InnerRule:
    """The same update as a differentiable function."""
    from dilkit.meta.inner import Adam, Sgd

    if isinstance(config, InnerAdam):
        return Adam(config.lr, config.betas, config.eps)
    return Sgd(config.lr, config.momentum, config.nesterov, config.weight_decay)


def shuffled(n: int, *, seed: int, step: int, purpose: str = "order") -> list[int]:
    """A permutation of 0 .. n-1, fresh for each (seed, step, purpose): the same on every process, machine and
    restart."""

    def key(i: int) -> bytes:
        return blake2b(f"{purpose}:{seed}:{step}:{i}".encode(), digest_size=16).digest()

    return sorted(range(n), key=key)
