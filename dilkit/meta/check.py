"""Can this module be trusted with virtual updates? Every property the engine leans on, tried out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    single = net
    try:
        net, x = copy.deepcopy(single).double(), x.double()
        with torch.no_grad():
            copy.deepcopy(net)(x)
    except Exception:  # noqa: BLE001 - a net tied to single precision is judged in it
        net, x = copy.deepcopy(single), x.float()
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
    precision = "double" if x.dtype == torch.float64 else "single"
    yield Finding("forward pass", "ok", f"{tuple(shape)} -> {tuple(out.shape)}, {precision} precision")
    batches = [(torch.rand_like(x), torch.rand_like(out)) for _ in range(3)]
    probes: list[Callable[[nn.Module, list[Batch]], tuple[Any, ...]]] = [
        _weights, _aliases, _replay, _hidden_state, _buffers, _derivatives, _adjoint, _conditioning,
        _batch_norm, _inner_rate, _precision,
    ]  # fmt: skip
    for probe in probes:
        try:
            verdict = probe(copy.deepcopy(net), batches)
        except Exception as error:  # noqa: BLE001
            verdict = "fail", _line(error), getattr(error, "remedy", None) or ""
        yield Finding(probe.__name__[1:].replace("_", " "), *verdict)


@contextmanager
def _virtually(net: nn.Module, phi: Sequence[Tensor], state: RandomState) -> Iterator[None]:
    """The net on weights `phi` and a copy of its buffers, drawing from the random state."""
    slots = Slots.of(net)
    with replayed(state), swapped(slots, phi, clones(slots.buffer_values())), twice_differentiable(net):
        yield


def _weights(net: nn.Module, batches: list[Batch]) -> tuple[str, ...]:
    params = dict(net.named_parameters())
    before = {n: (p.detach().clone(), p._version, p.data_ptr()) for n, p in params.items()}
    charbonnier(net, batches[0])
    changed = [
        n
        for n, p in params.items()
        if (p._version, p.data_ptr()) != before[n][1:] or not torch.equal(p, before[n][0])
    ]
    if changed:
        return "fail", f"the forward pass changes {', '.join(changed[:3])}", "do it outside forward"
    trainable = sum(p.numel() for p in params.values() if p.requires_grad)
    return "ok", f"{trainable:,} trainable, unchanged by the forward pass"


def _aliases(net: nn.Module, batches: list[Batch]) -> tuple[str, ...]:
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
        found = f"virtual weights give {float(value):.6g}, the same weights loaded {float(want):.6g}"
        return "fail", found, "reach every parameter through the module's tree, not through .data or a copy"
    tied = sum(len(places) > 1 for places in Slots.of(net).params.values())
    return "ok", f"all reached through the tree{f', {tied} tied' if tied else ''}"


def _replay(net: nn.Module, batches: list[Batch]) -> tuple[str, ...]:
    state, values = RandomState.now(), []
    for _ in range(2):
        with _virtually(net, Slots.of(net).param_values(), state):
            values.append(float(charbonnier(net, batches[0]).detach()))
    if abs(values[0] - values[1]) > 1e-9 * abs(values[0]):
        remedy = "draw from torch's global generator and keep state in buffers; or use keep='all'"
        return "fail", f"two identical passes give {values[0]:.9g} and {values[1]:.9g}", remedy
    return "ok", "a pass can be computed again"


def _hidden_state(net: nn.Module, batches: list[Batch]) -> tuple[str, ...]:
    def plain() -> dict[str, Any]:
        return {
            f"{prefix}.{key}".lstrip("."): value
            for prefix, module in net.named_modules()
            for key, value in vars(module).items()
            if isinstance(value, int | float | str | tuple)
        }

    before = plain()
    charbonnier(net, batches[0])
    changed = sorted(k for k, value in plain().items() if before.get(k) != value)
    if changed:
        return "note", f"forward changes {', '.join(changed[:3])}", "keep state in buffers"
    return "ok", "none in plain attributes"


def _buffers(net: nn.Module, batches: list[Batch]) -> tuple[str, ...]:
    before = clones(list(net.buffers()))
    charbonnier(net, batches[0])
    moved = [n for (n, b), a in zip(net.named_buffers(), before, strict=True) if not torch.equal(b, a)]
    if moved:
        return "note", f"{len(moved)} move, such as {moved[0]}", "choose a `buffers` policy"
    return "ok", f"{len(before)}, none move"


def _meta_gradient(net: nn.Module, batches: list[Batch], state: RandomState, **kw: Any) -> list[Tensor]:
    """Two inner steps and an outer loss, from one random state."""
    state.restore()
    got = Meta(net).grad(charbonnier, batches[:2], inner=RATE, outer_batches=batches[2:], **kw)
    return list(got.grads.values())


def _derivatives(net: nn.Module, batches: list[Batch]) -> tuple[str, ...]:
    """Gradient and Hessian product of one loss against differences: a wrong backward, or a wrong second one,
    of a custom function shows here and nowhere else.
    """
    state = RandomState.now()
    theta = [p.detach() for p in Slots.of(net).param_values()]
    v = [torch.randn_like(p) for p in theta]
    v = [x * (max(_norm(theta), 1e-3) / max(_norm(v), 1e-30)) for x in v]

    def at(t: float, curved: bool = False) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        phi: list[Tensor] = [nn.Parameter(p + t * x) for p, x in zip(theta, v, strict=True)]
        with _virtually(net, phi, state):
            loss = charbonnier(net, batches[0])
            grads = gradient(loss, phi, create_graph=curved)
            return loss.detach(), [g.detach() for g in grads], product(grads, phi, v) if curved else []

    _, grads, curved = at(0.0, curved=True)
    slope = float(torch.stack([(g * x.conj()).real.sum() for g, x in zip(grads, v, strict=True)]).sum())
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
    if _norm(curved) == 0:
        return "ok", f"{found}; the Hessian vanishes: exact variants equal FOMAML's"
    if max(min(first), min(second)) < 1e-2:
        return "ok", found
    if spread > 0.1 * min(second):
        return "note", f"{found}; no step size settles them", "see conditioning"
    return "fail", found, "a backward of this module is wrong: look at its autograd functions"


def _adjoint(net: nn.Module, batches: list[Batch]) -> tuple[str, ...]:
    """Autograd through the unrolled graph decides whether the adjoint is exact."""
    state, precise = RandomState.now(), next(net.parameters()).dtype == torch.float64
    ours = _meta_gradient(net, batches, state)
    try:
        off = _relative(ours, _meta_gradient(net, batches, state, backend="unrolled"))
    except UsageError as error:
        return "ok", f"cannot be compared with the unrolled graph: {error.message}"
    found = f"off the unrolled graph by {off:.1e}"
    if off <= (1e-9 if precise else 1e-3):
        return "ok", found
    if off <= 100 * _condition(net, batches, state, ours) * torch.finfo(ours[0].dtype).eps:
        return "note", f"{found}, as far as rounding can be told apart", "see conditioning"
    return "fail", found, "report this module: it should have been refused"


def _condition(net: nn.Module, batches: list[Batch], state: RandomState, grads: list[Tensor]) -> float:
    """By how many times more than the weights the meta-gradient changes, relatively."""
    twin, by = copy.deepcopy(net), 1e-9 if grads[0].dtype == torch.float64 else 1e-4
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(torch.randn_like(p) * p.abs(), alpha=by)
    return _relative(_meta_gradient(twin, batches, state), grads) / by


def _conditioning(net: nn.Module, batches: list[Batch]) -> tuple[str, ...]:
    state = RandomState.now()
    times = _condition(net, batches, state, _meta_gradient(net, batches, state))
    single = times * torch.finfo(torch.float32).eps
    found = f"a change of the weights moves the meta-gradient {times:.0e} times as much, at rate {RATE}"
    if single <= 1e-2:
        return "ok", found
    found += f": float32 cannot resolve it (rounding alone is {min(single, 1):.0e})"
    return "note", found, "lower the inner rate (see there), larger batches under batch norm, or eval mode"


def _batch_norm(net: nn.Module, batches: list[Batch]) -> tuple[str, ...]:
    """With n values a channel, batch norm's derivatives are what is left of nearly cancelling terms."""
    counts: dict[str, int] = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:

            def count(layer: nn.Module, args: Any, name: str = name) -> None:
                counts[name] = args[0].numel() // args[0].shape[1]

            module.register_forward_pre_hook(count)
    charbonnier(net, batches[0])
    few = [name for name, n in counts.items() if n <= 4]
    if few:
        found = (
            f"{len(few)} layers see {min(counts.values())} values a channel, such as {few[0]}: normalised by "
            "so few, all derivatives cancel down to eps / (var + eps), the second ones twice"
        )
        return "note", found, "larger images or batches, or eval mode"
    if not counts:
        return "ok", "none that normalises by its batch"
    return "ok", f"at least {min(counts.values())} values a channel"


def _inner_rate(net: nn.Module, batches: list[Batch]) -> tuple[str, ...]:
    """2 / lambda, lambda being the largest curvature at theta by power iteration: below it SGD contracts."""
    state, top = RandomState.now(), 0.0
    phi: list[Tensor] = [nn.Parameter(p.detach()) for p in Slots.of(net).param_values()]
    v = [torch.randn_like(p) for p in phi]
    for _ in range(8):
        norm = max(_norm(v), 1e-30)
        v = [x / norm for x in v]
        with _virtually(net, phi, state):
            v = product(gradient(charbonnier(net, batches[0]), phi, create_graph=True), phi, v)
        top = _norm(v)
    if top < 1e-12:
        return "ok", "any: the loss has no curvature here"
    safe = 2 / top
    found = f"largest curvature {top:.1e}: SGD steps are stable below {safe:.1e}"
    if safe < RATE:
        return "note", f"{found}, less than the {RATE} tried here", f"inner rate {safe / 2:.0e}"
    return "ok", found


def _precision(net: nn.Module, batches: list[Batch]) -> tuple[str, ...]:
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
        return "note", found, "lower the inner rate, or differentiate in float64"
    return "ok", found


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack([t.detach().abs().square().sum() for t in tensors]).sum().sqrt())


def _relative(a: list[Tensor], b: list[Tensor]) -> float:
    return _norm([x - y for x, y in zip(a, b, strict=True)]) / max(_norm(b), 1e-30)


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:140]
