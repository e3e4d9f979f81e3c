"""Can this module be trusted with virtual updates? Every property the engine leans on, tried out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dilkit.errors import DilkitError, UsageError
from dilkit.meta.api import Meta
from dilkit.meta.guards import RandomState, inspect_graph, replayed
from dilkit.meta.hvp import gradient, product, twice_differentiable
from dilkit.meta.swap import Slots, clones, swapped

Batch = tuple[Tensor, Tensor]
RATE = 1e-2


@dataclass(frozen=True)
class Finding:
    """One property: `fail` where meta-gradients of this module would be wrong or impossible."""

    name: str
    verdict: Literal["ok", "note", "fail"]
    found: str
    remedy: str = ""


def charbonnier(module: nn.Module, batch: Batch) -> Tensor:
    """A smooth stand-in for L1, so that finite differences mean something."""
    return ((module(batch[0]) - batch[1]).square() + 1e-3).sqrt().mean()


def examine(net: nn.Module, shape: tuple[int, ...], *, seed: int = 0) -> Iterator[Finding]:
    """Try `net` on noise of `shape` (B, C, H, W), in double precision where it can; one finding at a time.

    The net itself is not touched. The mode it is in (train or eval) is the mode that is judged.
    """
    torch.manual_seed(seed)
    x = torch.rand(shape)
    net, x, double = _precise(net, x)
    try:
        with torch.no_grad():
            out = copy.deepcopy(net)(x)
    except Exception as error:  # noqa: BLE001 - whatever a stranger's forward pass raises is the finding
        yield Finding("forward pass", "fail", _line(error), "choose a --size the module accepts")
        return
    if not isinstance(out, Tensor) or not bool(out.isfinite().all()):
        found = "not finite" if isinstance(out, Tensor) else f"returns {type(out).__name__}"
        yield Finding("forward pass", "fail", found, "wrap the module so that it returns one finite tensor")
        return
    found = f"{tuple(shape)} -> {tuple(out.shape)}, {'double' if double else 'single'} precision"
    yield Finding("forward pass", "ok", found)
    batches = [(torch.rand_like(x), torch.rand_like(out)) for _ in range(3)]
    probes: list[Callable[[nn.Module, list[Batch]], Finding]] = [
        _weights, _aliases, _replay, _hidden_state, _buffers, _derivatives, _adjoint, _conditioning,
        _batch_norm, _inner_rate, _precision,
    ]  # fmt: skip
    for probe in probes:
        try:
            yield probe(copy.deepcopy(net), batches)
        except Exception as error:  # noqa: BLE001
            remedy = getattr(error, "remedy", None) or ""
            yield Finding(probe.__name__[1:].replace("_", " "), "fail", _line(error), remedy)


def _precise(net: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor, bool]:
    double = copy.deepcopy(net).double()
    try:
        with torch.no_grad():
            copy.deepcopy(double)(x.double())
    except Exception:  # noqa: BLE001 - a net tied to single precision is judged in it
        return copy.deepcopy(net), x, False
    return double, x.double(), True


def _weights(net: nn.Module, batches: list[Batch]) -> Finding:
    params, names = list(net.parameters()), [n for n, _ in net.named_parameters()]
    before, marks = clones(params), [(p._version, p.data_ptr()) for p in params]
    charbonnier(net, batches[0])
    changed = [
        n
        for n, p, b, mark in zip(names, params, before, marks, strict=True)
        if (p._version, p.data_ptr()) != mark or not torch.equal(p, b)
    ]
    if changed:
        return Finding(
            "weights", "fail", f"the forward pass changes {', '.join(changed[:3])}", "do it outside forward"
        )
    trainable = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return Finding("weights", "ok", f"{trainable:,} trainable, unchanged by the forward pass")


def _aliases(net: nn.Module, batches: list[Batch]) -> Finding:
    """Virtual weights must do what the same weights, loaded, do."""
    meta, loaded = Meta(net), copy.deepcopy(net)
    phi = {n: p + 0.05 * torch.randn_like(p) for n, p in meta.theta().items()}
    state = RandomState.now()
    with replayed(state), meta.at({n: nn.Parameter(p) for n, p in phi.items()}):
        value = charbonnier(net, batches[0])
    theta = Slots.of(net).param_values()
    inspect_graph(value, own={id(p): n for n, p in zip(phi, theta, strict=True)}, known=None, reentrant=True)
    with torch.no_grad(), replayed(state):
        for name, p in zip(phi, Slots.of(loaded).param_values(), strict=True):
            p.copy_(phi[name])
        want = charbonnier(loaded, batches[0])
    if not torch.allclose(value.detach(), want, rtol=1e-6):
        return Finding(
            "aliases",
            "fail",
            f"virtual weights give {float(value):.6g}, the same weights loaded {float(want):.6g}",
            "reach every parameter through the module's tree, not through .data or a copy",
        )
    tied = sum(len(places) > 1 for places in Slots.of(net).params.values())
    return Finding("aliases", "ok", f"all reached through the tree{f', {tied} tied' if tied else ''}")


def _replay(net: nn.Module, batches: list[Batch]) -> Finding:
    slots, state = Slots.of(net), RandomState.now()
    values = []
    for _ in range(2):
        own = slots.buffer_values()
        with replayed(state), swapped(slots, slots.param_values(), clones(own)):
            values.append(float(charbonnier(net, batches[0]).detach()))
    if abs(values[0] - values[1]) > 1e-9 * abs(values[0]):
        return Finding(
            "replay",
            "fail",
            f"two identical passes give {values[0]:.9g} and {values[1]:.9g}",
            "draw from torch's global generator and keep state in buffers; or use keep='all'",
        )
    return Finding("replay", "ok", "a pass can be computed again")


def _hidden_state(net: nn.Module, batches: list[Batch]) -> Finding:
    def plain() -> dict[str, Any]:
        return {
            f"{prefix}.{key}".lstrip("."): value
            for prefix, module in net.named_modules()
            for key, value in vars(module).items()
            if isinstance(value, int | float | str | tuple)
        }

    before = plain()
    charbonnier(net, batches[0])
    after = plain()
    changed = sorted(k for k in after if before.get(k) != after[k])
    if changed:
        return Finding(
            "hidden state", "note", f"forward changes {', '.join(changed[:3])}", "keep state in buffers"
        )
    return Finding("hidden state", "ok", "none in plain attributes")


def _buffers(net: nn.Module, batches: list[Batch]) -> Finding:
    before = clones(list(net.buffers()))
    charbonnier(net, batches[0])
    moved = [n for (n, b), a in zip(net.named_buffers(), before, strict=True) if not torch.equal(b, a)]
    if not moved:
        return Finding("buffers", "ok", f"{len(before)}, none move")
    return Finding("buffers", "note", f"{len(moved)} move, such as {moved[0]}", "choose a `buffers` policy")


def _meta_gradient(net: nn.Module, batches: list[Batch], state: RandomState, **kw: Any) -> Any:
    """Two inner steps and an outer loss, from one random state."""
    state.restore()
    return Meta(net).grad(charbonnier, batches[:2], inner=RATE, outer_batches=batches[2:], **kw)


def _derivatives(net: nn.Module, batches: list[Batch]) -> Finding:
    """Gradient and Hessian product of one loss against differences: a wrong backward, or a wrong second one,
    of a custom function shows here and nowhere else.
    """
    slots, state = Slots.of(net), RandomState.now()
    theta = [p.detach() for p in slots.param_values()]
    v = [torch.randn_like(p) for p in theta]
    v = [x * (max(_norm(theta), 1e-3) / max(_norm(v), 1e-30)) for x in v]

    def at(t: float, curved: bool = False) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        phi: list[Tensor] = [nn.Parameter(p + t * x) for p, x in zip(theta, v, strict=True)]
        with replayed(state), swapped(slots, phi, clones(slots.buffer_values())), twice_differentiable(net):
            loss = charbonnier(net, batches[0])
            grads = gradient(loss, phi, create_graph=curved)
            return loss.detach(), [g.detach() for g in grads], product(grads, phi, v) if curved else []

    _, grads, curved = at(0.0, curved=True)
    slope = float(
        sum(
            (g * x.conj()).real.sum() if g.is_complex() else (g * x).sum()
            for g, x in zip(grads, v, strict=True)
        )
    )
    first, second, met = [], [], []
    for t in (1e-6, 1e-7, 1e-5, 1e-8) if theta[0].dtype == torch.float64 else (3e-3, 1e-2, 1e-3):
        (up, g_up, _), (down, g_down, _) = at(t), at(-t)
        met.append([(a - b) / (2 * t) for a, b in zip(g_up, g_down, strict=True)])
        first.append(abs(float(up - down) / (2 * t) - slope) / max(_norm(grads) * _norm(v), 1e-30))
        second.append(_relative(met[-1], curved))
        if first[-1] < 1e-4 and second[-1] < 1e-3:
            break
    spread = min((_relative(a, b) for i, a in enumerate(met) for b in met[:i]), default=0.0)
    found = f"gradients off differences by {min(first):.1e}, Hessian products by {min(second):.1e}"
    if _norm(curved) == 0 or max(min(first), min(second)) < 1e-2:
        vanishes = "; the Hessian vanishes: exact variants equal FOMAML's" if _norm(curved) == 0 else ""
        return Finding("derivatives", "ok", found + vanishes)
    if spread > 0.1 * min(second):
        return Finding("derivatives", "note", f"{found}; no step size settles them", "see conditioning")
    return Finding(
        "derivatives", "fail", found, "a backward of this module is wrong: look at its autograd functions"
    )


def _adjoint(net: nn.Module, batches: list[Batch]) -> Finding:
    """Autograd through the unrolled graph decides whether the adjoint is exact."""
    state, precise = RandomState.now(), next(net.parameters()).dtype == torch.float64
    ours = list(_meta_gradient(net, batches, state).grads.values())
    try:
        unrolled = list(_meta_gradient(net, batches, state, backend="unrolled").grads.values())
    except UsageError as error:
        return Finding("adjoint", "ok", f"cannot be compared with the unrolled graph: {error.message}")
    off = _relative(ours, unrolled)
    found = f"off the unrolled graph by {off:.1e}"
    if off > (1e-9 if precise else 1e-3):
        amplified = 100 * _condition(net, batches, state, ours) * torch.finfo(ours[0].dtype).eps
        if off > amplified:
            return Finding("adjoint", "fail", found, "report this module: it should have been refused")
        return Finding(
            "adjoint", "note", f"{found}, as far as rounding can be told apart", "see conditioning"
        )
    return Finding("adjoint", "ok", found)


def _condition(net: nn.Module, batches: list[Batch], state: RandomState, grads: list[Tensor]) -> float:
    """By how many times more than the weights the meta-gradient changes, relatively."""
    twin, by = copy.deepcopy(net), 1e-9 if grads[0].dtype == torch.float64 else 1e-4
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(torch.randn_like(p) * p.abs(), alpha=by)
    moved = list(_meta_gradient(twin, batches, state).grads.values())
    return _relative(moved, grads) / by


def _conditioning(net: nn.Module, batches: list[Batch]) -> Finding:
    state = RandomState.now()
    grads = list(_meta_gradient(net, batches, state).grads.values())
    times = _condition(net, batches, state, grads)
    single = times * torch.finfo(torch.float32).eps
    found = f"a change of the weights moves the meta-gradient {times:.0e} times as much, at rate {RATE}"
    if single > 1e-2:
        return Finding(
            "conditioning",
            "note",
            f"{found}: float32 cannot resolve it (rounding alone is {min(single, 1):.0e})",
            "lower the inner rate (see there), larger batches under batch norm, or eval mode",
        )
    return Finding("conditioning", "ok", found)


def _batch_norm(net: nn.Module, batches: list[Batch]) -> Finding:
    """With n values a channel, batch norm's derivatives are what is left of nearly cancelling terms."""
    counts: dict[str, int] = {}
    hooks = []
    for name, module in net.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):

            def count(layer: nn.Module, args: Any, name: str = name) -> None:
                if layer.training:
                    counts[name] = args[0].numel() // args[0].shape[1]

            hooks.append(module.register_forward_pre_hook(count))
    try:
        charbonnier(net, batches[0])
    finally:
        for hook in hooks:
            hook.remove()
    few = [name for name, n in counts.items() if n <= 4]
    if few:
        return Finding(
            "batch norm",
            "note",
            f"{len(few)} layers see {min(counts.values())} values a channel, such as {few[0]}: normalised by "
            "so few, all derivatives cancel down to eps / (var + eps), the second ones twice",
            "larger images or batches, or eval mode",
        )
    if not counts:
        return Finding("batch norm", "ok", "none that normalises by its batch")
    return Finding("batch norm", "ok", f"at least {min(counts.values())} values a channel")


def _inner_rate(net: nn.Module, batches: list[Batch]) -> Finding:
    """2 / lambda, lambda being the largest curvature at theta by power iteration: below it SGD contracts."""
    slots, state, top = Slots.of(net), RandomState.now(), 0.0
    phi: list[Tensor] = [nn.Parameter(p.detach()) for p in slots.param_values()]
    v = [torch.randn_like(p) for p in phi]
    for _ in range(8):
        norm = max(_norm(v), 1e-30)
        v = [x / norm for x in v]
        with replayed(state), swapped(slots, phi, clones(slots.buffer_values())), twice_differentiable(net):
            v = product(gradient(charbonnier(net, batches[0]), phi, create_graph=True), phi, v)
        top = _norm(v)
    if top < 1e-12:
        return Finding("inner rate", "ok", "any: the loss has no curvature here")
    safe = 2 / top
    found = f"largest curvature {top:.1e}: SGD steps are stable below {safe:.1e}"
    if safe < RATE:
        return Finding(
            "inner rate", "note", f"{found}, less than the {RATE} tried here", f"inner rate {safe / 2:.0e}"
        )
    return Finding("inner rate", "ok", found)


def _precision(net: nn.Module, batches: list[Batch]) -> Finding:
    """What rounding costs: the same meta-gradient in float32 and under bfloat16 autocast."""
    state = RandomState.now()
    want = list(Meta(net).grad(charbonnier, batches[:2], inner=RATE).grads.values())
    single, cast = copy.deepcopy(net).float(), [(x.float(), y.float()) for x, y in batches[:2]]

    def off(bf16: bool) -> float | str:
        state.restore()

        def loss(module: nn.Module, batch: Batch) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                out = module(batch[0])
            return ((out.float() - batch[1]).square() + 1e-3).sqrt().mean()

        try:
            got = Meta(single).grad(loss, cast, inner=RATE).grads.values()
        except DilkitError as error:
            return f"refused ({error.message})"
        except RuntimeError as error:
            return f"unavailable ({_line(error)})"
        return _relative([g.to(w.dtype) for g, w in zip(got, want, strict=True)], want)

    figures = [off(False), off(True)]
    text = [f"{x:.1e}" if isinstance(x, float) else x for x in figures]
    found = f"off in float32 by {text[0]}, in bfloat16 by {text[1]}"
    if not isinstance(figures[0], float) or figures[0] > 5e-2:
        return Finding("precision", "note", found, "lower the inner rate, or differentiate in float64")
    return Finding("precision", "ok", found)


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack([t.detach().abs().square().sum() for t in tensors]).sum().sqrt())


def _relative(a: list[Tensor], b: list[Tensor]) -> float:
    return _norm([x - y for x, y in zip(a, b, strict=True)]) / max(_norm(b), 1e-30)


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:140]
