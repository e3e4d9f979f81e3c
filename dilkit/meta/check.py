"""Can this module be trusted with virtual updates? Every property the engine leans on, tried out.

Counts what backward passes hold: A (activations) and P (parameters) in docs/method.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dilkit.errors import DilkitError
from dilkit.meta import guards as random_state
from dilkit.meta.api import Meta
from dilkit.meta.guards import refuse_outside_parameters, versions
from dilkit.meta.hvp import gradient, reverse_over_forward, reverse_over_reverse, twice_differentiable
from dilkit.meta.swap import clones, slots, swapped

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
        _weights, _aliases, _replay, _hidden_state, _buffers, _double_backward, _forward_mode, _adjoint,
        _single_precision,
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
    before, count = clones(params), versions(params)
    charbonnier(net, batches[0])
    changed = [
        n
        for n, p, b, c in zip(names, params, before, count, strict=True)
        if p._version != c or not torch.equal(p, b)
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
    state = random_state.capture()
    with random_state.replayed(state), meta.at({n: nn.Parameter(p) for n, p in phi.items()}):
        value = charbonnier(net, batches[0])
    refuse_outside_parameters(value, dict(zip(phi, slots(net).param_values(), strict=True)))
    with torch.no_grad(), random_state.replayed(state):
        for name, p in zip(slots(loaded).params, slots(loaded).param_values(), strict=True):
            p.copy_(phi[name])
        want = charbonnier(loaded, batches[0])
    if not torch.allclose(value.detach(), want, rtol=1e-6):
        return Finding(
            "aliases",
            "fail",
            f"virtual weights give {float(value):.6g}, the same weights loaded {float(want):.6g}",
            "reach every parameter through the module's tree, not through .data or a copy",
        )
    tied = sum(len(places) > 1 for places in slots(net).params.values())
    return Finding("aliases", "ok", f"all reached through the tree{f', {tied} tied' if tied else ''}")


def _replay(net: nn.Module, batches: list[Batch]) -> Finding:
    where, state = slots(net), random_state.capture()
    values = []
    for _ in range(2):
        own = where.buffer_values()
        with random_state.replayed(state), swapped(where, where.param_values(), clones(own)):
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


def _products(net: nn.Module, batches: list[Batch], mode: Any) -> list[Tensor]:
    where, state = slots(net), random_state.capture()
    torch.manual_seed(1)
    phi: list[Tensor] = [nn.Parameter(p.detach().clone()) for p in where.param_values()]
    v = [torch.randn_like(p) for p in phi]
    random_state.restore(state)
    buffers = clones(where.buffer_values())
    with twice_differentiable(net):
        product, _ = mode(
            lambda params: swapped(where, params, buffers), lambda: charbonnier(net, batches[0]), phi, v
        )
    return list(product)


def _double_backward(net: nn.Module, batches: list[Batch]) -> Finding:
    norm = _norm(_products(net, batches, reverse_over_reverse))
    if norm == 0:
        return Finding("double backward", "note", "the Hessian vanishes: exact variants equal FOMAML's")
    return Finding("double backward", "ok", "works")


def _forward_mode(net: nn.Module, batches: list[Batch]) -> Finding:
    state = random_state.capture()
    want = _products(net, batches, reverse_over_reverse)
    random_state.restore(state)
    try:
        got = _products(copy.deepcopy(net), batches, reverse_over_forward)
    except Exception as error:  # noqa: BLE001
        return Finding("forward mode", "note", f"unavailable: {_line(error)}", "`auto` uses rr")
    off = _norm([a - b for a, b in zip(got, want, strict=True)]) / max(_norm(want), 1e-30)
    if off > 1e-6:
        return Finding("forward mode", "note", f"wrong by {off:.1e} here", "`auto` uses rr")
    return Finding("forward mode", "ok", "works, and is the faster mode")


def _adjoint(net: nn.Module, batches: list[Batch]) -> Finding:
    """Against autograd through everything, and against the slope of the outer loss itself."""
    seeded = random_state.capture()

    def run(order: Any) -> Any:
        random_state.restore(seeded)
        return Meta(net).grad(
            charbonnier, batches[:2], inner=RATE, order=order, outer_batches=batches[2:], hvp="rr"
        )

    ours = list(run("exact").grads.values())
    random_state.restore(seeded)
    by_graph = _relative(ours, _unrolled(net, batches))
    params = slots(net).param_values()
    direction = [torch.randn_like(p) for p in params]
    slope = float(sum((g * d.conj()).real.sum() if g.is_complex() else (g * d).sum()
                      for g, d in zip(ours, direction, strict=True)))  # fmt: skip

    def value(t: float) -> float:
        with torch.no_grad():
            torch._foreach_add_(params, direction, alpha=t)
            try:
                return float(run("fomaml").loss)
            finally:
                torch._foreach_sub_(params, direction, alpha=t)

    steps = (1e-4, 1e-5, 1e-6, 1e-7) if params[0].dtype == torch.float64 else (1e-2, 3e-3, 1e-3)
    by_slope = min(abs((value(t) - value(-t)) / (2 * t) - slope) for t in steps) / max(abs(slope), 1e-30)
    precise = params[0].dtype == torch.float64
    if by_slope > (1e-4 if precise else 5e-2):
        return Finding("adjoint", "fail", f"off the directional difference by {by_slope:.1e}")
    found = f"off the unrolled graph by {by_graph:.1e}, off the directional difference by {by_slope:.1e}"
    if by_graph > (1e-9 if precise else 1e-3):
        return Finding(
            "adjoint",
            "note",
            found,
            "unrolling is what errs here (layer checkpointing); use the native backend",
        )
    return Finding("adjoint", "ok", found)


def _unrolled(net: nn.Module, batches: list[Batch]) -> list[Tensor]:
    where = slots(net)
    theta, buffers = where.param_values(), where.buffer_values()
    phi = theta
    with twice_differentiable(net):
        for batch in batches[:2]:
            with swapped(where, phi, clones(buffers)):
                value = charbonnier(net, batch)
                buffers = clones(where.buffer_values())
            grads = torch.autograd.grad(
                value, phi, create_graph=True, allow_unused=True, materialize_grads=True
            )
            phi = [p - RATE * g for p, g in zip(phi, grads, strict=True)]
        with swapped(where, phi, clones(buffers)):
            value = charbonnier(net, batches[2])
        return gradient(value, theta)


def _single_precision(net: nn.Module, batches: list[Batch]) -> Finding:
    """What rounding costs: the same meta-gradient in float32 and under bfloat16 autocast."""
    state = random_state.capture()
    want = list(Meta(net).grad(charbonnier, batches[:2], inner=RATE).grads.values())
    single, cast = copy.deepcopy(net).float(), [(x.float(), y.float()) for x, y in batches[:2]]

    def off(bf16: bool) -> str:
        random_state.restore(state)

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
        return f"{_relative([g.to(w.dtype) for g, w in zip(got, want, strict=True)], want):.1e}"

    return Finding("precision", "ok", f"off in float32 by {off(False)}, in bfloat16 by {off(True)}")


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack([t.detach().abs().square().sum() for t in tensors]).sum().sqrt())


def _relative(a: list[Tensor], b: list[Tensor]) -> float:
    return _norm([x - y for x, y in zip(a, b, strict=True)]) / max(_norm(b), 1e-30)


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:140]


@dataclass(frozen=True)
class Held:
    """The most bytes held at once by saved tensors: activations, and what is shaped like a parameter."""

    activations: int
    weights: int


def measure(net: nn.Module, run: Callable[[], object]) -> Held:
    """Call `run` and say what was held at the worst moment; a storage counts once."""
    ledger = _Ledger({p.shape for p in net.parameters()})
    with torch.autograd.graph.saved_tensors_hooks(ledger.pack, lambda entry: entry.tensor):
        run()
    return Held(*ledger.peak)


class _Ledger:
    def __init__(self, shapes: set[torch.Size]) -> None:
        self._shapes = shapes
        self._counts: dict[tuple[int, bool], int] = {}
        self._now = [0, 0]
        self.peak = [0, 0]

    def pack(self, tensor: Tensor) -> _Entry:
        return _Entry(self, tensor)

    def add(self, tensor: Tensor, sign: int) -> None:
        if tensor._is_zerotensor():  # a tangent known to be zero: it has no memory
            return
        storage, like_weight = tensor.untyped_storage(), tensor.shape in self._shapes
        key = (storage.data_ptr(), like_weight)
        count = self._counts.pop(key, 0) + sign
        if count:
            self._counts[key] = count
        if (count, sign) in ((1, 1), (0, -1)):
            self._now[like_weight] += sign * storage.nbytes()
            self.peak[like_weight] = max(self.peak[like_weight], self._now[like_weight])


class _Entry:
    def __init__(self, ledger: _Ledger, tensor: Tensor) -> None:
        self.ledger, self.tensor = ledger, tensor
        ledger.add(tensor, 1)

    def __del__(self) -> None:
        self.ledger.add(self.tensor, -1)
