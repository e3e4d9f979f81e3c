"""What each backend can do, tried out: the table in docs/meta.md is this one (see test_capabilities.py)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from meta_zoo import batches, build, charbonnier
from torch import nn

import dilkit
from dilkit.errors import UsageError

BACKENDS = ("native", "unrolled", "higher", "learn2learn")


def call(name: str = "plain", **settings: object) -> Callable[[str], object]:
    def run(backend: str) -> object:
        net, _ = build(name)
        made = {
            k: v(net) if isinstance(v, functools.partial) and v.func is _of else v
            for k, v in settings.items()
        }
        made.setdefault("inner", 0.05)
        return dilkit.meta.of(net).grad(charbonnier, batches(), backend=backend, **made)

    return run


def _of(make: Callable[[nn.Module], object], net: nn.Module) -> object:
    return make(net)


def by_name(make: Callable[[nn.Module], object]) -> object:
    return functools.partial(_of, make)


def learned(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


ROWS: dict[str, Callable[[str], object]] = {
    "exact; chain, star, pooled; several steps": call(steps=2, trajectory="star"),
    "FOMAML, Reptile": call(order="fomaml"),
    "losses after each step": call(outer_weights=[0.2, 0.3, 0.5]),
    "SGD with momentum": call(inner=dilkit.meta.Sgd(0.05, 0.9)),
    "Adam, AdamW": call(inner=torch.optim.Adam),
    "RMSprop, Adagrad, Adamax, Adadelta": call(inner=torch.optim.RMSprop),
    "NAdam, RAdam": call(inner=torch.optim.NAdam),
    "a learnable rate": call(inner=learned(0.05)),
    "a learnable rate for each parameter": call(
        inner=by_name(lambda net: {n: learned(0.05) for n, _ in net.named_parameters()})
    ),
    "a rate for each step": call(inner=[0.1, 0.05, 0.02]),
    "learnable momentum, betas, decay": call(inner=dilkit.meta.Sgd(0.05, learned(0.9))),
    "groups, frozen inner parameters (ANIL)": call(inner={"tail": 0.05, "*": None}),
    "learned transforms by parameter": call(inner=dilkit.meta.Learned({})),
    "transforms of all gradients": call(inner=dilkit.meta.optimizer(0.05, transform=dict)),
    "layer checkpointing": call("layer checkpointing"),
    "compiled modules": call("compiled"),
    "forward hooks": call("hooks"),
    "tied weights": call("shared weights"),
    "frozen parameters": call("unused and frozen"),
    "memory that stays (`keep`, `keep_weights`)": call(keep=1),
    "buffer policies": call("batch norm, train", buffers="commit_mean"),
    "truncated adjoints": call(truncate=2),
    "several processes (`reduce`)": call(reduce=lambda tensors: None),
}


def table() -> str:
    """Markdown rows: feature, then yes or refused for each backend."""
    lines = []
    for feature, run in ROWS.items():
        cells = []
        for backend in BACKENDS:
            try:
                run(backend)
                cells.append("yes")
            except UsageError:
                cells.append("refused")
        lines.append(f"| {feature} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())  # noqa: T201
