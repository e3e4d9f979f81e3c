"""The reference: autograd through everything, written out by hand and sharing no code with the package."""

from __future__ import annotations

import torch
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel


def sgd(p, g, s, lr=0.05):
    return p - lr * g, s


def momentum(p, g, s, lr=0.05, beta=0.9, decay=0.01):
    d = g + decay * p
    v = d if s is None else beta * s + d
    return p - lr * (d + beta * v), v


def adam(p, g, s, lr=0.02, b1=0.5, b2=0.9, eps=1e-8):
    if g.is_complex():  # torch's Adam treats the real and the imaginary part apart
        new, s = adam(torch.view_as_real(p), torch.view_as_real(g), s, lr, b1, b2, eps)
        return torch.view_as_complex(new), s
    m, v, t = s or (torch.zeros_like(g), torch.zeros_like(g), 0)
    m, v, t = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g, t + 1
    seen = v > 0  # an exactly zero gradient moves nothing; its square root has no derivative
    root = torch.where(seen, v / (1 - b2**t), torch.ones_like(v)).sqrt()
    return p - lr * torch.where(seen, m / (1 - b1**t) / (root + eps), torch.zeros_like(m)), (m, v, t)


def meta_gradient(net, loss, batches, rule, *, star, weights=None, outer="all"):
    """d/d theta of the sum over trajectories of the weighted mean outer losses, the whole graph kept."""
    with sdpa_kernel(SDPBackend.MATH):
        return _unrolled(net, loss, batches, rule, star, weights, outer)


def _unrolled(net, loss, batches, rule, star, weights, outer):
    names = [n for n, p in net.named_parameters() if p.requires_grad]
    theta = {n: p for n, p in net.named_parameters() if p.requires_grad}
    total = 0.0
    paths = [[name] for name in batches] if star else [list(batches)]
    for path in paths:
        phi, state = dict(theta), dict.fromkeys(names)
        buffers = {n: b.clone() for n, b in net.named_buffers()}

        def at(x, phi=phi, buffers=buffers):
            return functional_call(net, {**phi, **buffers}, (x,))

        for k, name in enumerate(path):
            grads = torch.autograd.grad(
                loss(at, batches[name]), list(phi.values()), create_graph=True, allow_unused=True
            )
            for n, g in zip(names, grads, strict=True):
                if g is not None:
                    phi[n], state[n] = rule(phi[n], g, state[n])
            weight = weights[k] if weights else float(k == len(path) - 1)
            chosen = {"all": list(batches), "same": [name], "others": [b for b in batches if b != name]}
            if weight:
                for other in chosen[outer]:
                    total = total + weight * loss(at, batches[other]) / len(chosen[outer])
    grads = torch.autograd.grad(total, list(theta.values()), allow_unused=True)
    return {
        n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(theta.items(), grads, strict=True)
    }, total.detach()


def relative_error(ours, theirs):
    assert ours.keys() == theirs.keys()
    off = torch.cat([(ours[n] - theirs[n]).abs().flatten() for n in ours]).norm()
    return float(off / torch.cat([g.abs().flatten() for g in theirs.values()]).norm())
