"""What the first-order chains share: a chain whose inner optimiser's state outlives the step.

DIL, parallel and first order.

DIL, parallel and second order.

DIL, serial and first order: the variant the authors released.

DIL, serial and second order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dilkit.confounders.episodes import Episode
from dilkit.meta.api import Meta
from dilkit.meta.backends import engine_for
from dilkit.meta.first_order import FirstOrderChain, Reduce
from dilkit.meta.trajectory import Term
from dilkit.objectives.base import HVP_PASSES, Gradients, Loss, on, optimizer_of, rule_of, shuffled, summed_up
from dilkit.objectives.config import DilPfConfig, DilPsConfig, DilSfConfig, DilSsConfig, LookaheadConfig


class Chained:
    """The part of an objective that holds the chain; its state is the inner optimiser's."""

    def __init__(
        self,
        config: DilSfConfig | DilPfConfig | LookaheadConfig,
        loss: Loss,
        *,
        seed: int = 0,
        reduce: Reduce | None = None,
    ) -> None:
        self._loss = loss
        self._seed = seed
        self._chain = FirstOrderChain(optimizer_of(config.inner), buffers=config.buffers, reduce=reduce)

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self._chain.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._chain.load_state_dict(state["inner"])


class DilPf(Chained):
    """phi_0 = theta; phi_k = inner step of phi_{k-1} on mean_i L(.; d_i), K times (the update of Eq. 5). The
    direction is theta - phi_K. With K = 1 it would be ERM's up to scale.

    The losses reported are those at theta. One distortion at a time is in memory.
    """

    name = "dil_pf"

    def __init__(
        self, config: DilPfConfig, loss: Loss, *, seed: int = 0, reduce: Reduce | None = None
    ) -> None:
        super().__init__(config, loss, seed=seed, reduce=reduce)
        self._steps = config.steps

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        pooled = {label: on(self._loss, batch) for label, batch in episode.batches().items()}
        grads, met = self._chain.run(net, [pooled] * self._steps, where=f"step {episode.step}")
        return summed_up(grads, met[0])

    def passes(self, n: int) -> int:
        return self._steps * n


class DilPs:
    """phi = theta - a grad mean_i L(theta; d_i); the direction is grad_theta mean_i L(phi; d_i), through the
    update (Eq. 5). The losses reported are those at theta. One distortion at a time is in memory.
    """

    name = "dil_ps"

    def __init__(
        self, config: DilPsConfig, loss: Loss, *, seed: int = 0, reduce: Reduce | None = None
    ) -> None:
        self._config = config
        self._loss = loss
        self._reduce = reduce

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        config = self._config
        engine = engine_for(
            config.backend,
            net,
            rule_of(config.inner),
            hvp=config.hvp,
            keep=config.keep,
            buffers=config.buffers,
            reduce=self._reduce,
            where=f"step {episode.step}",
        )
        weight = 1 / len(episode.labels)
        terms = [Term(label, on(self._loss, batch), weight) for label, batch in episode.batches().items()]
        got = engine.run([terms], {1: terms})
        engine.settle([got])
        made = summed_up(got.grads, got.inner)
        outer = torch.stack(list(got.outer.values())).mean()
        return Gradients(made.grads, made.loss, made.log | {"loss/outer": outer})

    def passes(self, n: int) -> int:
        return n * (1 + HVP_PASSES) + n

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class DilSf(Chained):
    """phi_0 = theta; phi_k = inner step of phi_{k-1} on L(.; d_pi(k)), pi fresh each outer step (Eq. 3 in
    series, section 3.4). The direction is theta - phi_n, not divided by the inner learning rate.

    The loss reported is the mean over the confounders of the losses met along the chain.
    """

    name = "dil_sf"

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        order = shuffled(len(episode.labels), seed=self._seed, step=episode.step)
        labels = [episode.labels[i] for i in order]
        grads, met = self._chain.run(
            net,
            [{label: on(self._loss, episode.batch(label))} for label in labels],
            where=f"step {episode.step}",
        )
        return summed_up(grads, {label: loss for losses in met for label, loss in losses.items()})

    def passes(self, n: int) -> int:
        return n


class DilSs:
    """phi_i = theta - a grad L(theta; d_i) for each d_i (Eq. 3; `star`), or one chain through all in a fresh
    order (`chain`). The direction is grad_theta sum_i mean_j L(phi_i; d_j), through the updates (Eq. 4); a
    chain has the one phi_n.

    The losses reported are the inner ones: at theta for a star, along the way for a chain.
    """

    name = "dil_ss"

    def __init__(
        self, config: DilSsConfig, loss: Loss, *, seed: int = 0, reduce: Reduce | None = None
    ) -> None:
        self._config = config
        self._loss = loss
        self._seed = seed
        self._reduce = reduce

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        config = self._config
        order = shuffled(len(episode.labels), seed=self._seed, step=episode.step)
        got = Meta(net).grad(
            self._loss,
            {episode.labels[i]: episode.batch(episode.labels[i]) for i in order},
            inner=rule_of(config.inner),
            trajectory=config.trajectory,
            outer=config.outer,
            hvp=config.hvp,
            keep=config.keep,
            buffers=config.buffers,
            backend=config.backend,
            reduce=self._reduce,
            where=f"step {episode.step}",
        )
        made = summed_up(got.grads, got.inner)
        return Gradients(made.grads, made.loss, made.log | {"loss/outer": got.loss})

    def passes(self, n: int) -> int:
        measured = {"all": n, "others": n - 1, "same": 1}[self._config.outer]
        trajectories = n if self._config.trajectory == "star" else 1
        return n * (1 + HVP_PASSES) + trajectories * measured

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass
