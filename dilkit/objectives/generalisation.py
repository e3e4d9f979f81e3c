"""Rivals from domain generalisation, over the same episode: one class each, with its source and its equation.

L_i is the loss on distortion i of n, g_i its gradient at theta, a bar the mean over i. What each takes in
passes, activations and copies of the parameters stands on the class; docs/method.md has the table.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from dilkit.errors import UsageError
from dilkit.objectives.base import (
    HVP_PASSES,
    Gradients,
    Inner,
    InnerAdam,
    InnerSgd,
    Late,
    NonNegative,
    Objective,
    ObjectiveConfig,
    Penalised,
    Rate,
    accumulated,
    combined,
    private_grads,
    require_finite_each,
    rule_of,
    shuffled,
    summed_up,
    unmoved_buffers,
)
from dilkit.objectives.dil import INNER_SEARCH, ChainConfig, DilSf

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dilkit.confounders.episodes import Batch, Episode

# --- Functions of the n losses: the direction is sum_i (dR/dL_i) g_i ----------------------------------------


class Risk(Objective):
    """An objective that is a function R of the n losses alone: its direction is sum_i (dR/dL_i) g_i.

    The gradients are taken one distortion at a time and weighed once all losses are known, so n distortions
    need the activations of one, and n copies of the parameters. The weights are written to the log.
    """

    copies = "n"

    @abstractmethod
    def risk(self, losses: Tensor, step: int) -> Tensor:
        """R of the losses (n,), differentiable; they are those of all processes together."""

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        import torch

        grads, losses = self.each_gradient(net, episode.batches(), episode.step)
        values = torch.stack(list(losses.values()))
        if self.reduce is not None:
            self.reduce([values])
        values.requires_grad_()
        with torch.enable_grad():
            (weights,) = torch.autograd.grad(self.risk(values, episode.step), values)
        made = summed_up(combined(list(grads.values()), list(weights)), losses)
        shown = {f"weight/{label}": weight for label, weight in zip(losses, weights, strict=True)}
        return Gradients(made.grads, made.loss, made.log | shown)


class GroupDro(Risk):
    """Group distributionally robust optimisation (Sagawa et al., ICLR 2020, Algorithm 1).

    q_i <- q_i exp(eta L_i) / Z at every step, from 1/n on; the direction is sum_i q_i g_i. Group adjustments
    and strong regularisation, which that paper adds, are not part of it. Losses of restoration are small
    numbers (0.01 to 0.1 in L1), so eta is larger here than for cross-entropy to move q as fast.
    """

    name = "groupdro"
    search: ClassVar[Mapping[str, str]] = {"objective.eta": "log(1e-3, 1)"}

    class Config(ObjectiveConfig):
        """Group DRO: the weights of the distortions follow their losses, multiplicatively."""

        eta: Rate = 1e-2
        """Step size of the weights of the distortions."""

    _q: Tensor | None = None

    def risk(self, losses: Tensor, step: int) -> Tensor:
        at = losses.detach()
        q = (at.new_ones(len(at)) / len(at) if self._q is None else self._q.to(at)) * (
            self.config.eta * at
        ).exp()
        self._q = q / q.sum()
        return (self._q * losses).sum()

    def state_dict(self) -> dict[str, Any]:
        return {} if self._q is None else {"q": self._q}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._q = state.get("q")


class VRex(Risk):
    """V-REx, variance risk extrapolation (Krueger et al., ICML 2021, Eq. 8): mean_i L_i + beta Var_i(L_i)."""

    name = "vrex"
    search: ClassVar[Mapping[str, str]] = {"objective.beta": "log(1e-1, 1e5)"}

    class Config(Late):
        """V-REx: the variance of the losses over the distortions is penalised."""

        beta: NonNegative = 10.0
        """Weight of the variance of the losses."""

    def risk(self, losses: Tensor, step: int) -> Tensor:
        mean = losses.mean()
        if step < self.config.after:
            return mean
        return mean + self.config.beta * (losses - mean).square().mean()


class Eqrm(Risk):
    """Quantile risk minimisation (Eastwood et al., NeurIPS 2022, Eq. 6 to 8): the alpha-quantile of the
    losses.

    The distribution of losses over distortions is a Gaussian kernel density with the bandwidth that is
    optimal for a Gaussian, h = 1.06 s n^(-1/5). The quantile q solves F(q; L) = alpha, and its gradient
    follows from the implicit function theorem: dq/dL_i = -(dF/dL_i) / (dF/dq).
    """

    name = "eqrm"
    search: ClassVar[Mapping[str, str]] = {"objective.alpha": "uniform(0.5, 0.99)"}

    class Config(Late):
        """EQRM: the alpha-quantile of the losses over the distortions."""

        alpha: Annotated[float, Field(gt=0, lt=1)] = 0.75
        """The quantile of the losses that is minimised."""

    def risk(self, losses: Tensor, step: int) -> Tensor:
        spread = losses.double().std() if len(losses) > 1 else losses.double().sum() * 0
        if step < self.config.after or float(spread.detach()) < 1e-12:
            return losses.mean()
        points, alpha = losses.double(), self.config.alpha
        width = 1.06 * spread * len(losses) ** -0.2

        def below(q: Tensor) -> Tensor:
            return (0.5 + 0.5 * ((q - points) / (width * math.sqrt(2))).erf()).mean()

        at = points.detach()
        low, high = at.min() - 10 * width.detach(), at.max() + 10 * width.detach()
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if float(below(middle).detach()) < alpha else (low, middle)
        q = (low + high) / 2
        z = (q - at) / width.detach()
        density = (-(z**2) / 2).exp().mean() / (width.detach() * math.sqrt(2 * math.pi))
        return (q - (below(q) - alpha) / density).to(losses.dtype)


class Tilted(Risk):
    """Back-door adjustment under the least favourable prior: tau log mean_i exp(L_i / tau).

    Eq. 1 weighs the distortions by P(d_i) = 1/n. Where P(d) at test time is not known, take the worst one
    within reach: max_p sum_i p_i L_i - tau KL(p || 1/n). The maximum is the value above, at p_i = softmax(L /
    tau)_i, so the direction is sum_i p_i g_i. tau -> inf is ERM, tau -> 0 the worst distortion alone. As a
    loss it is tilted empirical risk minimisation (Li et al., ICLR 2021, Eq. 2, t = 1 / tau).
    """

    name = "tilted"
    search: ClassVar[Mapping[str, str]] = {"objective.tau": "log(1e-3, 1)"}

    class Config(ObjectiveConfig):
        """The criterion with P(d_i) re-weighted by loss: the worst prior within a KL ball."""

        tau: Rate = 0.02
        """Temperature: small values weigh the worst distortion most."""

    def risk(self, losses: Tensor, step: int) -> Tensor:
        tau = self.config.tau
        return tau * ((losses / tau).logsumexp(0) - math.log(len(losses)))


# --- Functions of the n gradients ---------------------------------------------------------------------------


class PcGrad(Objective):
    """Projecting conflicting gradients (Yu et al., NeurIPS 2020, Algorithm 1).

    g_i' = g_i; for each j != i in a fresh order: if <g_i', g_j> < 0, g_i' -= <g_i', g_j> / |g_j|^2 g_j. The
    direction is mean_i g_i'.
    """

    name = "pcgrad"
    copies = "n"

    class Config(ObjectiveConfig):
        """PCGrad: gradients of distortions that conflict are projected onto each other's normal planes."""

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        import torch

        grads, losses = self.each_gradient(net, episode.batches(), episode.step)
        flat = {label: list(own.values()) for label, own in grads.items()}
        squares = {label: inner_product(own, own) for label, own in flat.items()}
        total = [torch.zeros_like(g) for g in next(iter(flat.values()))]
        labels = list(flat)
        for label, own in flat.items():
            g = [x.clone() for x in own]
            order = shuffled(len(labels), seed=self.seed, step=episode.step, purpose=f"project {label}")
            for other in (labels[j] for j in order if labels[j] != label):
                along = inner_product(g, flat[other])
                if float(along) < 0:
                    scale = along / squares[other]
                    g = [x - scale * y for x, y in zip(g, flat[other], strict=True)]
            torch._foreach_add_(total, g, alpha=1 / len(labels))
        return summed_up(dict(zip(next(iter(grads.values())), total, strict=True)), losses)


class AndMask(Objective):
    """AND-mask (Parascandolo et al., ICLR 2021, section 3): only what the distortions agree on moves theta.

    Component k of the mean gradient is kept where |mean_i sign g_ik| >= tau. In the words of the causal
    graph: a component that keeps its sign under every do(D = d_i) belongs to the mechanism, the others to the
    confounder.
    """

    name = "andmask"
    copies = "n"
    search: ClassVar[Mapping[str, str]] = {"objective.tau": "uniform(0.3, 1)"}

    class Config(ObjectiveConfig):
        """AND-mask: components of the gradient whose sign the distortions share, and no others."""

        tau: Annotated[float, Field(gt=0, le=1)] = 1.0
        """Share of the distortions that must agree on the sign of an entry."""

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        import torch

        grads, losses = self.each_gradient(net, episode.batches(), episode.step)
        kept, direction = [], {}
        for name in next(iter(grads.values())):
            stacked = torch.stack([own[name] for own in grads.values()])
            mask = stacked.sign().mean(0).abs() >= self.config.tau - 1e-6
            direction[name] = stacked.mean(0) * mask
            kept.append(mask.sum())
        share = torch.stack(kept).sum() / sum(g.numel() for g in direction.values())
        made = summed_up(direction, losses)
        return Gradients(made.grads, made.loss, made.log | {"kept": share})


class InvariantGradients(Objective):
    """Inter-distortion gradient alignment (Koyama and Yamaguchi, 2020, "When is invariance useful in an
    out-of-distribution generalization problem?", Eq. 5): mean_i L_i + lambda mean_i |g_i - g bar|^2.

    If the restored image does not depend on D once I_d is given, learning from any d_i moves theta alike: the
    gradients under do(D = d_i) are equal. This asks for that directly, where a DIL step raises inner products
    (docs/method.md). Its direction is exact: g bar + (2 lambda / n) sum_i H_i (g_i - g bar).
    """

    name = "iga"
    second_order = True
    activations = 2.05
    copies = "n"
    search: ClassVar[Mapping[str, str]] = {"objective.penalty": "log(1e-3, 1e3)"}

    class Config(Penalised):
        """Invariant gradients: their variance over the distortions is penalised, exactly."""

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        import torch

        from dilkit.meta.guards import RandomState, replayed
        from dilkit.meta.hvp import gradient, product, twice_differentiable

        where, batches = f"step {episode.step}", episode.batches()
        n, drawn = len(batches), {}
        grads: dict[str, dict[str, Tensor]] = {}
        losses: dict[str, Tensor] = {}
        for label, batch in batches.items():
            drawn[label] = RandomState.now(devices_of(net))
            own, loss = self.each_gradient(net, {label: batch}, episode.step)
            grads |= own
            losses |= loss
        mean = combined(list(grads.values()), [1 / n] * n)
        if episode.step < self.config.after:
            return summed_up(mean, losses)
        away = {
            label: [g - bar for g, bar in zip(own.values(), mean.values(), strict=True)]
            for label, own in grads.items()
        }
        variance = torch.stack([inner_product(v, v) for v in away.values()]).mean()
        params = [p for p in net.parameters() if p.requires_grad]
        curved = [torch.zeros_like(p) for p in params]
        for label, batch in batches.items():
            with replayed(drawn[label]), twice_differentiable(net), unmoved_buffers(net):
                graph = gradient(self.loss(net, batch), params, create_graph=True)
                curved_along = product(graph, params, away[label])
            torch._foreach_add_(curved, curved_along, alpha=2 * self.config.penalty / n)
        if self.reduce is not None:
            self.reduce(curved)
        direction = {name: g + h for (name, g), h in zip(mean.items(), curved, strict=True)}
        require_finite_each({}, {"the penalty": direction}, where=where)
        made = summed_up(direction, losses)
        return Gradients(made.grads, made.loss, made.log | {"penalty": variance})

    def passes(self, n: int) -> int:
        return n * (1 + HVP_PASSES)


# --- Chains and virtual updates -----------------------------------------------------------------------------


class Fish(DilSf):
    """Fish (Shi et al., ICLR 2022, Algorithm 1): phi = theta; for each distortion in a fresh order an inner
    step of phi on it; theta <- theta + epsilon (phi - theta).

    The chain and the direction theta - phi_n are those of `dil_sf`. What differs: epsilon scales that
    direction and nothing else (an outer SGD of rate epsilon, 0.5 in the released code), where DIL hands it to
    an outer Adam, which ignores its length; and the inner Adam has its usual first moment. So an arm `fish`
    brings its outer optimiser along, and a swept learning rate is that of the inner one.
    """

    name = "fish"
    search: ClassVar[Mapping[str, str]] = {**INNER_SEARCH, "optim.lr": "choice(0.05, 0.1, 0.5)"}
    words = ("optim.name=sgd", "optim.lr=0.5")
    rate = "objective.inner.lr"

    class Config(ChainConfig):
        """Fish: the chain of dil_sf, with an outer step of its own: optim.name=sgd optim.lr=0.5."""

        inner: Inner = InnerAdam(lr=1e-3, betas=(0.9, 0.999))
        """The virtual update."""


class Mldg(Objective):
    """Meta-learning domain generalisation (Li et al., AAAI 2018, Algorithm 1): F(theta) + beta G(theta - a
    grad F(theta)).

    Of the n distortions, `held_out` are virtual test domains, in turn; F is the mean loss over the others, G
    over these. Its direction, with phi = theta - a grad F(theta):

        exact    grad F(theta) + beta (I - a H_F(theta)) grad G(phi)
        first    grad F(theta) + beta grad G(phi)
    """

    name = "mldg"
    second_order = True
    activations = 2.05
    copies = 3.0
    search: ClassVar[Mapping[str, str]] = {
        "objective.inner.lr": "log(1e-4, 1e-1)",
        "objective.beta": "log(1e-1, 10)",
    }

    class Config(ObjectiveConfig):
        """MLDG: some distortions, in turn, are held out of a virtual step and measured after it."""

        inner: Inner = InnerSgd(lr=1e-2)
        """The virtual update."""
        beta: NonNegative = 1.0
        """Weight of the held-out loss."""
        held_out: Annotated[int, Field(ge=1)] = 1
        """Distortions kept for the outer loss at each step."""
        order: Literal["exact", "first"] = "exact"
        """`exact` differentiates through the virtual step, `first` does not."""

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        from dilkit.meta.api import Meta

        config, where = self.config, f"step {episode.step}"
        test = held_out(episode.labels, config.held_out, seed=self.seed, step=episode.step)
        inside = {label: episode.batch(label) for label in episode.labels if label not in test}
        outside = {label: episode.batch(label) for label in test}
        plain = self.mean_gradient(net, inside, episode.step)
        got = Meta(net).grad(
            self.loss,
            inside,
            inner=rule_of(config.inner),
            trajectory="pooled",
            order="exact" if config.order == "exact" else "fomaml",
            outer_batches=outside,
            reduce=self.reduce,
            where=where,
        )
        losses = {label.removeprefix("loss/"): loss for label, loss in plain.log.items()}
        losses |= {name: loss for (*_, name), loss in got.outer.items()}
        direction = combined([plain.grads, got.grads], [1.0, config.beta])
        return summed_up(direction, {label: losses[label] for label in episode.labels})

    def passes(self, n: int) -> int:
        test = self.config.held_out
        curved = HVP_PASSES if self.config.order == "exact" else 0
        return (n - test) * (2 + curved) + test


def held_out(labels: tuple[str, ...], count: int, *, seed: int, step: int) -> tuple[str, ...]:
    """The virtual test distortions of a step: every n / count steps meet all of them once, in a fresh
    order."""
    n = len(labels)
    if count >= n:
        raise UsageError(
            "nothing is left to train on",
            where="objective.held_out",
            found=count,
            expected=f"at most {n - 1}",
        )
    cycle, turn = divmod(step, max(1, n // count))
    order = shuffled(n, seed=seed, step=cycle, purpose="hold out")
    return tuple(labels[i] for i in order[turn * count : (turn + 1) * count])


# --- Penalties on what the net computes ---------------------------------------------------------------------


class Irm(Objective):
    """Invariant risk minimisation, IRMv1 (Arjovsky et al., 2019, Eq. 4): mean_i L_i(theta) + lambda D_i^2,
    with D_i = d/dw L_i(w f_theta) at w = 1: no scale of the output is better for one distortion alone.

    The factor w is applied to the net's output by a hook. D_i needs the last operation's derivative alone,
    and one backward pass gives g_i + 2 lambda D_i dD_i/dtheta.
    """

    name = "irm"
    second_order = True
    search: ClassVar[Mapping[str, str]] = {"objective.penalty": "log(1e-1, 1e5)"}

    class Config(Penalised):
        """IRM (v1): one scale of the output fits all distortions."""

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        import torch

        weight = 0.0 if episode.step < self.config.after else self.config.penalty
        batches = episode.batches()
        losses: dict[str, Tensor] = {}
        penalties = []
        with private_grads(net) as params:
            some = next(iter(params.values()))
            for label, batch in batches.items():
                w = torch.ones((), device=some.device, dtype=some.dtype, requires_grad=True)
                handle = net.register_forward_hook(lambda _, __, out, w=w: out * w)
                try:
                    value = self.loss(net, batch)
                finally:
                    handle.remove()
                (slope,) = torch.autograd.grad(value, w, create_graph=True)
                whole = slope.detach().clone()
                if self.reduce is not None:
                    self.reduce([whole])
                ((value + 2 * weight * whole * slope) / len(batches)).backward()
                losses[label] = value.detach()
                penalties.append(whole.square())
            grads = accumulated(params)
        made = self.finished(grads, losses, episode.step)
        return Gradients(made.grads, made.loss, made.log | {"penalty": torch.stack(penalties).mean()})


class Matching(Objective):
    """mean_i L_i + lambda P(s_1 .. s_n), where s_i is a statistic that the net has under distortion i.

    Two rounds, so that the activations of one distortion suffice: all s_i first; then, with dP/ds_i known,
    one backward pass of L_i + lambda <dP/ds_i, s_i(theta)> for each. Over several processes s_i is the mean
    of theirs. Random draws of the net are the same in both rounds, and running statistics move in the second
    alone.
    """

    second_order = True

    @abstractmethod
    def observed(self, net: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of a batch and its statistic, a vector, both differentiable."""

    @abstractmethod
    def distance(self, statistics: Tensor) -> Tensor:
        """P of (n, k) statistics: zero where all are equal."""

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        import torch

        from dilkit.meta.guards import RandomState, replayed

        batches, drawn = episode.batches(), {}
        if episode.step < self.config.after:
            return self.mean_gradient(net, batches, episode.step)
        found = []
        with unmoved_buffers(net):
            for label, batch in batches.items():
                drawn[label] = RandomState.now(devices_of(net))
                found.append(self.observed(net, batch)[1].detach())
        statistics = torch.stack(found)
        if self.reduce is not None:
            self.reduce([statistics])
        statistics.requires_grad_()
        with torch.enable_grad():
            apart = self.distance(statistics)
            (pull,) = torch.autograd.grad(apart, statistics)
        losses: dict[str, Tensor] = {}
        with private_grads(net) as params:
            for (label, batch), direction in zip(batches.items(), pull, strict=True):
                with replayed(drawn[label]):
                    value, statistic = self.observed(net, batch)
                    (value / len(batches) + self.config.penalty * (direction * statistic).sum()).backward()
                losses[label] = value.detach()
            grads = accumulated(params)
        made = self.finished(grads, losses, episode.step)
        return Gradients(made.grads, made.loss, made.log | {"penalty": apart.detach()})

    def passes(self, n: int) -> int:
        return 2 * n


class Fishr(Matching):
    """Fishr (Rame et al., ICML 2022, Eq. 4): lambda mean_i |v_i - v bar|^2, with v_i the variance over the
    samples of distortion i of the gradient of their loss for the net's last layer.

    The last layer is the last convolution the net registers. The moving average over steps of the released
    code is left out, so that nothing is remembered between steps.
    """

    name = "fishr"
    search: ClassVar[Mapping[str, str]] = {"objective.penalty": "log(10, 1e4)"}

    class Config(Penalised):
        """Fishr: variances of the gradients over samples are matched."""

        penalty: NonNegative = 1000.0
        """Weight of the penalty."""

    def observed(self, net: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        import torch
        from torch.nn import functional as F

        layer = last_convolution(net, "fishr")
        with observing(layer) as seen:
            value = self.loss(net, batch)
        features, output = seen["input"], seen["output"]
        (back,) = torch.autograd.grad(value, output, create_graph=True)
        columns = F.unfold(features, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
        back = back.flatten(2) * len(back)
        each = torch.einsum("bop,bcp->boc", back, columns.to(back)).flatten(1)
        if layer.bias is not None:
            each = torch.cat([each, back.sum(2)], 1)
        return value, each.var(0, unbiased=False)

    def distance(self, statistics: Tensor) -> Tensor:
        return (statistics - statistics.mean(0)).square().sum(1).mean()


class Coral(Matching):
    """Deep CORAL (Sun and Saenko, ECCV 2016 workshops, Eq. 1; over pairs of domains as in DomainBed): the
    mean over pairs i < j of |m_i - m_j|^2 / c + |C_i - C_j|^2 / c^2.

    m_i and C_i are the mean and the covariance of the c features that enter the net's last convolution, over
    all samples and positions of distortion i.
    """

    name = "coral"
    search: ClassVar[Mapping[str, str]] = {"objective.penalty": "log(1e-1, 10)"}

    class Config(Penalised):
        """CORAL: means and covariances of features are matched."""

    def observed(self, net: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        import torch

        with observing(last_convolution(net, "coral")) as seen:
            value = self.loss(net, batch)
        x = seen["input"].movedim(1, 0).flatten(1)
        mean = x.mean(1)
        centred = x - mean[:, None]
        covariance = centred @ centred.mT / (x.shape[1] - 1)
        return value, torch.cat([mean, covariance.flatten()])

    def distance(self, statistics: Tensor) -> Tensor:
        n, k = statistics.shape
        c = round((math.sqrt(1 + 4 * k) - 1) / 2)
        squares = (statistics[:, None] - statistics[None]).square()
        pairs = squares[..., :c].mean(-1) + squares[..., c:].mean(-1)
        return pairs.sum() / max(1, n * (n - 1))


class Mixup(Objective):
    """Inter-domain mixup (Zhang et al., ICLR 2018; between domains: Yan et al., 2020).

    Each distortion i meets another, pi(i), at l ~ Beta(alpha, alpha): the batch l x_i + (1 - l) x_pi(i) with
    the target l y_i + (1 - l) y_pi(i). In a paired episode the targets are equal, so it blends two
    distortions of one image. pi is a fresh cyclic order, and l is drawn from (seed, step).
    """

    name = "mixup"
    search: ClassVar[Mapping[str, str]] = {"objective.alpha": "log(1e-1, 10)"}

    class Config(ObjectiveConfig):
        """Mixup: batches that blend two distortions."""

        alpha: Rate = 0.2
        """Parameter of the Beta distribution that mixing weights are drawn from."""

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        labels = episode.labels
        order = [labels[i] for i in shuffled(len(labels), seed=self.seed, step=episode.step, purpose="mixup")]
        key = blake2b(f"mixup:{self.seed}:{episode.step}".encode(), digest_size=16).digest()
        random = Random(key)
        batches: dict[str, Batch] = {}
        for label, other in zip(order, [*order[1:], order[0]], strict=True):
            share = random.betavariate(self.config.alpha, self.config.alpha)
            (x, y), (x2, y2) = episode.batch(label), episode.batch(other)
            if x.shape != x2.shape or y.shape != y2.shape:
                raise UsageError(
                    "distortions of different shapes cannot be blended", found=f"{label}, {other}"
                )
            batches[f"{label} with {other}"] = x.lerp(x2, 1 - share), y if y is y2 else y.lerp(y2, 1 - share)
        made = self.mean_gradient(net, batches, episode.step)
        return Gradients(made.grads, made.loss, {k.partition(" with ")[0]: v for k, v in made.log.items()})


def inner_product(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """sum <a_k, b_k> over the tensors of two gradients."""
    import torch

    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def devices_of(net: nn.Module) -> frozenset[int]:
    """The CUDA devices a net draws random numbers on."""
    return frozenset(p.device.index or 0 for p in net.parameters() if p.device.type == "cuda")


def last_convolution(net: nn.Module, name: str) -> nn.Conv2d:
    """The convolution that the net registers last.

    Raises:
        UsageError: it has none, or one whose gradient for a sample is not written out here.
    """
    from torch import nn

    found = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    if not found:
        raise UsageError(
            f"{name} looks at the net's last convolution, and it has none", found=type(net).__name__
        )
    layer = found[-1]
    if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise UsageError(
            f"{name} takes a last convolution in one group, padded with zeros by a number of pixels",
            found=layer,
        )
    return layer


@contextmanager
def observing(layer: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The input and the output of a layer in the forward passes inside."""
    seen: dict[str, Tensor] = {}

    def keep(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        seen["input"], seen["output"] = given[0], output

    handle = layer.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


# --- Around any objective -----------------------------------------------------------------------------------


class SharpnessAware(Objective):
    """Sharpness-aware minimisation (Foret et al., ICLR 2021, Eq. 2 and 3) around any objective.

    The direction of the objective at theta + rho g / |g|, with g = mean_i g_i the gradient of the pooled
    loss: for `erm` that is the published algorithm. It costs n passes and one copy of the parameters more.
    """

    def __init__(self, objective: Objective, rho: float) -> None:
        super().__init__(objective.config, objective.loss, seed=objective.seed, reduce=objective.reduce)
        self.objective = objective
        self.rho = rho
        self.name = objective.name  # type: ignore[misc]
        self.second_order = objective.second_order  # type: ignore[misc]
        self.chain = objective.chain  # type: ignore[misc]

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        import torch

        with unmoved_buffers(net):
            steepest = self.mean_gradient(net, episode.batches(), episode.step).grads
        params: list[Tensor] = [p for p in net.parameters() if p.requires_grad]
        theta = [p.detach().clone() for p in params]
        with torch.no_grad():
            length = torch.stack(torch._foreach_norm(list(steepest.values()))).norm()
            scale = float(self.rho / length.clamp(min=1e-12))
            torch._foreach_add_(params, list(steepest.values()), alpha=scale)
        try:
            return self.objective.gradients(net, episode)
        finally:
            with torch.no_grad():
                torch._foreach_copy_(params, theta)

    def passes(self, n: int) -> int:
        return n + self.objective.passes(n)

    def state_dict(self) -> dict[str, Any]:
        return self.objective.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.objective.load_state_dict(state)
