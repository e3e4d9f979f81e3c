"""Does an objective keep the contract? For one's own objectives, in one's own tests, on a small net of
dilkit's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dilkit.errors import DilkitError, UsageError
from dilkit.objectives import make_objective

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dilkit.confounders.episodes import Batch, Episode


def check_objective(name: str, **settings: Any) -> None:
    """Run a registered objective on small episodes of three distortions, and compare with the contract.

    Checked: a gradient of its own shape for every trainable parameter and for no other, finite and without a
    graph; theta, `.grad`, hooks, modes and (in eval mode) buffers left alone, also where a pass fails;
    nothing drawn from the global generators that the net does not draw itself; the same answer from (seed,
    step) and the state; a state that survives a save; gradients averaged by `reduce`; a NaN named with its
    step; and as many forward passes as `passes` promises.

    Args:
        name: of the objective, built in or registered.
        settings: fields of its `Config`.

    Raises:
        UsageError: what does not hold, and how it was found out.
    """
    import torch

    def refuse(what: str, found: object = None, expected: object = None) -> None:
        raise UsageError(
            f"the objective {name!r} {what}", where="check_objective", found=found, expected=expected
        )

    counted: list[float] = []

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        counted.append(len(batch[0]) / BATCH)
        return torch.nn.functional.l1_loss(module(batch[0]), batch[1])

    def build(seed: int = 0, reduce: Any = None) -> Any:
        return make_objective(name, loss=loss, seed=seed, reduce=reduce, **settings)

    net = _net()
    for p in net.parameters():
        p.grad = torch.full_like(p, 7.0)
    before = _state(net)
    objective = build()
    generator = torch.get_rng_state()
    made = objective.gradients(net, _episode(0))
    forwards = sum(counted)
    if not torch.equal(generator, torch.get_rng_state()):
        refuse("draws from torch's global generator", expected="draws from (seed, step)")
    trained = {k: p for k, p in net.named_parameters() if p.requires_grad}
    if set(made.grads) != set(trained):
        refuse(
            "does not give one gradient for every trainable parameter", sorted(made.grads), sorted(trained)
        )
    for key, p in trained.items():
        g = made.grads[key]
        if g.shape != p.shape or g.dtype != p.dtype:
            refuse(
                f"gives a gradient for {key} of another shape or type", (g.shape, g.dtype), (p.shape, p.dtype)
            )
        if g.requires_grad or g.data_ptr() == p.data_ptr():
            refuse(f"gives a gradient for {key} that has a graph, or is the parameter itself")
    for what, value in {"loss": made.loss, **made.log}.items():
        if value.numel() != 1 or value.requires_grad:
            refuse(f"gives {what!r} not as a detached scalar", value)
    if made.grads["3.unused"].any():
        refuse("gives a gradient for a parameter that the loss does not use", made.grads["3.unused"])
    _compare(refuse, before, _state(net), "changes")
    if any(not torch.equal(p.grad, torch.full_like(p, 7.0)) for p in net.parameters() if p.grad is not None):
        refuse("changes `.grad` of the parameters")
    promised = objective.passes(DISTORTIONS)
    if not forwards <= promised <= 3 * forwards:
        refuse(
            "promises other passes than it takes",
            f"passes({DISTORTIONS}) = {promised}",
            f"{forwards:g} forward passes were made, so from {forwards:g} to {3 * forwards:g}",
        )
    torch.manual_seed(1)
    again = build().gradients(_net(), _episode(0))
    _same(refuse, made.grads, again.grads, "gives other gradients for the same seed, step and state")

    running, steps = build(), [_episode(step) for step in range(3)]
    for episode in steps[:2]:
        running.gradients(net, episode)
    state = running.state_dict()
    strange = _strange(state)
    if strange is not None:
        refuse("has a state that a checkpoint cannot hold", strange, "tensors and plain values")
    resumed = build()
    resumed.load_state_dict(copy.deepcopy(state))
    wanted = running.gradients(net, steps[2]).grads
    _same(refuse, wanted, resumed.gradients(net, steps[2]).grads, "does not go on alike from its saved state")

    calls: list[int] = []

    def halve(tensors: list[Tensor]) -> None:
        calls.append(len(tensors))

    reduced = build(reduce=halve).gradients(net, _episode(0))
    if not calls:
        refuse("does not average over the processes", "`reduce` was never called")
    _same(refuse, made.grads, reduced.grads, "changes its answer where all processes agree")
    for value in (float("nan"), float("inf")):
        bad = _episode(5)
        for view in bad.views.values():
            view[0, 0, 0, 0] = value
        try:
            build().gradients(net, bad)
        except DilkitError as error:
            if "step 5" not in str(error):
                refuse("does not name the step of a NaN", str(error).splitlines()[0], "where='step 5'")
        else:
            refuse(f"accepts a loss that is {value}", expected="a NonFinite error")
    _compare(refuse, before, _state(net), "where a pass fails, changes")


DISTORTIONS, BATCH = 3, 4


def _net() -> nn.Module:
    import torch
    from torch import nn

    random = torch.Generator().manual_seed(0)
    head = nn.Module()
    head.register_parameter("unused", nn.Parameter(torch.ones(2)))
    head.forward = lambda x: x
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), head, nn.Conv2d(4, 3, 1))
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=random) * 0.3
    net.double().eval()
    net[4].bias.requires_grad_(False)
    return net


def _episode(step: int) -> Episode:
    import torch

    from dilkit.confounders.episodes import Episode

    random = torch.Generator().manual_seed(step + 1)
    clean = torch.rand(BATCH, 3, 8, 8, generator=random, dtype=torch.float64)
    views = {
        f"d{k}": clean + 0.1 * (k + 1) * torch.randn(clean.shape, generator=random, dtype=clean.dtype)
        for k in range(DISTORTIONS)
    }
    return Episode(views, dict.fromkeys(views, clean), step)


def _strange(state: Any) -> Any:
    """Something in a state that is neither a tensor nor a plain value, if there is one."""
    import torch

    if isinstance(state, dict):
        keys = [key for key in state if not isinstance(key, str | int)]
        return keys[0] if keys else next((s for v in state.values() if (s := _strange(v)) is not None), None)
    if isinstance(state, list | tuple):
        return next((s for v in state if (s := _strange(v)) is not None), None)
    return None if state is None or isinstance(state, torch.Tensor | str | int | float) else state


def _state(net: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {k: v.clone() for k, v in net.state_dict().items()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    trained = [p.requires_grad for p in net.parameters()]
    return found | {"modes": [m.training for m in net.modules()], "hooks": hooks, "requires_grad": trained}


def _compare(refuse: Callable[..., None], before: dict[str, Any], after: dict[str, Any], what: str) -> None:
    for key, old in before.items():
        new = after[key]
        if not (old == new if isinstance(old, list) else bool((old == new).all())):
            refuse(f"{what} the net: {key}")


def _same(refuse: Callable[..., None], a: dict[str, Tensor], b: dict[str, Tensor], what: str) -> None:
    for key, g in a.items():
        if not bool((g == b[key]).all()):
            refuse(what, f"{key} differs by up to {float((g - b[key]).abs().max()):.2g}")
