"""Distortion-invariant learning: the four variants, side by side.

Back-door adjustment (Eq. 1) weighs the distortions d_1 .. d_n of the confounder set alike; intervening on one
is a virtual update (Eq. 3). With g_i the gradient, H_i the Hessian of the loss on d_i, a the inner rate:

    variant  virtual update                              direction for theta
    dil_sf   phi_k = phi_(k-1) - a g_pi(k)(phi_(k-1))    theta - phi_n
    dil_pf   phi_k = phi_(k-1) - a mean_i g_i(phi_(k-1)) theta - phi_K
    dil_ss   phi_i = theta - a g_i(theta), each i        sum_i (I - a H_i(theta)) mean_j g_j(phi_i)
    dil_ps   phi = theta - a mean_i g_i(theta)           (I - a mean_i H_i(theta)) mean_j g_j(phi)

The inner optimiser may be another than plain descent; then (I - a H) is the derivative of its update.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from dilkit.objectives.base import (
    HVP_PASSES,
    Gradients,
    Inner,
    InnerAdam,
    InnerSgd,
    Loss,
    Objective,
    ObjectiveConfig,
    Reduce,
    on,
    optimizer_of,
    rule_of,
    shuffled,
    summed_up,
)

if TYPE_CHECKING:
    from torch import nn

    from dilkit.confounders.episodes import Batch, Episode

INNER_SEARCH = {"objective.inner.lr": "log(1e-5, 1e-2)"}


class ChainConfig(ObjectiveConfig):
    """What objectives with a first-order chain share."""

    inner: Inner = InnerAdam()
    """The virtual update."""
    buffers: Literal["commit_last", "isolate"] = "commit_last"
    """What becomes of running statistics met on the way (see `dilkit.meta`)."""


class Chained(Objective):
    """An objective with a first-order chain; its state, the inner optimiser's, outlives a step."""

    chain = True
    copies = 3.0
    search: ClassVar[Mapping[str, str]] = INNER_SEARCH

    def __init__(self, config: Any, loss: Loss, *, seed: int = 0, reduce: Reduce | None = None) -> None:
        from dilkit.meta.first_order import FirstOrderChain

        super().__init__(config, loss, seed=seed, reduce=reduce)
        self._chain = FirstOrderChain(optimizer_of(config.inner), buffers=config.buffers, reduce=reduce)

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self._chain.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._chain.load_state_dict(state["inner"])


class DilSf(Chained):
    """phi_0 = theta; phi_k = inner step of phi_{k-1} on L(.; d_pi(k)), pi fresh each outer step (Eq. 3 in
    series, section 3.4). The direction is theta - phi_n, not divided by the inner learning rate.

    The loss reported is the mean over the confounders of the losses met along the chain.
    """

    name = "dil_sf"

    class Config(ChainConfig):
        """Serial, first order (section 3.4 and the authors' script): the defaults are theirs."""

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        order = shuffled(len(episode.labels), seed=self.seed, step=episode.step)
        labels = [episode.labels[i] for i in order]
        grads, met = self._chain.run(
            net,
            [{label: on(self.loss, episode.batch(label))} for label in labels],
            where=f"step {episode.step}",
        )
        return summed_up(grads, {label: loss for losses in met for label, loss in losses.items()})


class DilPf(Chained):
    """phi_0 = theta; phi_k = inner step of phi_{k-1} on mean_i L(.; d_i), K times (the update of Eq. 5). The
    direction is theta - phi_K. With K = 1 it would be ERM's up to scale.

    The losses reported are those at theta. One distortion at a time is in memory.
    """

    name = "dil_pf"
    pooled = True
    search: ClassVar[Mapping[str, str]] = {**INNER_SEARCH, "objective.steps": "choice(2, 4, 8)"}

    class Config(ChainConfig):
        """Parallel, first order (Eq. 5 with Reptile's direction)."""

        steps: Annotated[int, Field(ge=2)] = 4
        """Pooled virtual steps; one alone would be ERM up to scale."""

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        pooled = {label: on(self.loss, batch) for label, batch in episode.batches().items()}
        grads, met = self._chain.run(net, [pooled] * self.config.steps, where=f"step {episode.step}")
        return summed_up(grads, met[0])

    def passes(self, n: int) -> int:
        return int(self.config.steps) * n


class SecondOrderConfig(ObjectiveConfig):
    """What the exact variants share."""

    inner: Inner = InnerSgd(lr=1e-2)
    """The virtual update."""
    hvp: Literal["rr", "auto"] = "auto"
    """No longer used: products are exact by double backward. Kept so that older recipes can be read."""
    keep: Annotated[int, Field(ge=0)] | Literal["all"] = 0
    """Virtual steps whose graphs are kept instead of recomputed: time for memory."""
    buffers: Literal["isolate", "commit_last", "commit_mean", "frozen"] = "commit_mean"
    """What becomes of running statistics met on the way (see `dilkit.meta`)."""
    backend: Literal["native", "higher", "learn2learn"] = "native"
    """What computes the meta-gradient."""


class Exact(Objective):
    """An objective that is differentiated through its virtual updates."""

    second_order = True
    activations = 2.05
    copies = 2.0
    search: ClassVar[Mapping[str, str]] = {"objective.inner.lr": "log(1e-4, 1e-1)"}

    def through(self, net: nn.Module, batches: Mapping[str, Batch], step: int, **how: Any) -> Gradients:
        """The direction through the virtual updates on batches; the losses reported are the inner ones."""
        from dilkit.meta.api import Meta

        config = self.config
        got = Meta(net).grad(
            self.loss,
            batches,
            inner=rule_of(config.inner),
            keep=config.keep,
            buffers=config.buffers,
            backend=config.backend,
            reduce=self.reduce,
            where=f"step {step}",
            **how,
        )
        made = summed_up(got.grads, got.inner)
        return Gradients(made.grads, made.loss, made.log | {"loss/outer": got.loss})


class DilSs(Exact):
    """phi_i = theta - a grad L(theta; d_i) for each d_i (Eq. 3; `star`), or one chain through all in a fresh
    order (`chain`). The direction is grad_theta sum_i mean_j L(phi_i; d_j), through the updates (Eq. 4); a
    chain has the one phi_n.

    The losses reported are the inner ones: at theta for a star, along the way for a chain.
    """

    name = "dil_ss"

    class Config(SecondOrderConfig):
        """Serial, second order (Eq. 4)."""

        trajectory: Literal["star", "chain"] = "star"
        """`star`: one virtual step from theta for each distortion (Eq. 3); `chain`: one chain through all."""
        outer: Literal["all", "others", "same"] = "all"
        """Whose loss is taken after the step on d: all distortions (Eq. 4), the others, or d itself."""

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        order = shuffled(len(episode.labels), seed=self.seed, step=episode.step)
        batches = {episode.labels[i]: episode.batch(episode.labels[i]) for i in order}
        how = {"trajectory": self.config.trajectory, "outer": self.config.outer}
        return self.through(net, batches, episode.step, **how)

    def passes(self, n: int) -> int:
        measured = {"all": n, "others": n - 1, "same": 1}[self.config.outer]
        trajectories = n if self.config.trajectory == "star" else 1
        return n * (1 + HVP_PASSES) + trajectories * measured


class DilPs(Exact):
    """phi = theta - a grad mean_i L(theta; d_i); the direction is grad_theta mean_i L(phi; d_i), through the
    update (Eq. 5). The losses reported are those at theta. One distortion at a time is in memory.
    """

    name = "dil_ps"
    pooled = True

    class Config(SecondOrderConfig):
        """Parallel, second order (Eq. 5): one pooled step."""

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        return self.through(net, episode.batches(), episode.step, trajectory="pooled")

    def passes(self, n: int) -> int:
        return n * (1 + HVP_PASSES) + n
