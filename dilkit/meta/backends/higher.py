"""Virtual updates by the `higher` library (Grefenstette et al., 2019)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dilkit.errors import UsageError
from dilkit.meta.backends.unrolled import Unrolled
from dilkit.meta.inner import Adam, Sgd, State, TorchOptimizer

_CLASSES = ("Adadelta", "Adagrad", "Adamax", "ASGD", "RMSprop", "Rprop")


class Higher(Unrolled):
    """SGD with momentum, Adam and AdamW, and the further classes `higher` knows; one learning rate, fixed or
    learnable. It drops forward hooks: modules that have some are refused.
    """

    backend = "higher"

    def __init__(self, net: nn.Module, optimizer: Any, **options: Any) -> None:
        super().__init__(net, optimizer, **options)
        self._higher = _load()
        if any(m._forward_hooks or m._forward_pre_hooks for m in net.modules()):
            raise self.refusal("modules with forward hooks (it would drop them)")
        if getattr(optimizer, "maximize", False):
            raise self.refusal("maximize=True (it would ignore it)")
        lr = getattr(optimizer, "lr", None)
        learned = [n for n in optimizer.hyper() if n != "lr"]
        if learned:
            raise self.refusal(f"a learnable {learned[0]}")
        if not isinstance(lr, int | float) and not (isinstance(lr, Tensor) and lr.numel() == 1):
            raise self.refusal("a learning rate for each tensor or element")
        self._lr: float | Tensor = lr
        self._cls, self._options = self._translate(optimizer)

    def _translate(self, rule: Any) -> tuple[Any, dict[str, Any]]:
        if isinstance(rule, Sgd):
            return torch.optim.SGD, {
                "momentum": rule.momentum,
                "nesterov": rule.nesterov,
                "weight_decay": rule.weight_decay,
                "dampening": rule.dampening,
            }
        if isinstance(rule, Adam):
            cls = torch.optim.AdamW if rule.decoupled else torch.optim.Adam
            return cls, {"betas": rule.betas, "eps": rule.eps, "weight_decay": rule.weight_decay}
        if isinstance(rule, TorchOptimizer) and rule.cls.__name__ in _CLASSES:
            return rule.cls, dict(rule.options)
        what = rule.cls.__name__ if isinstance(rule, TorchOptimizer) else type(rule).__name__
        raise self.refusal(f"the inner optimiser {what}")

    @contextmanager
    def stepper(self, *, exact: bool, state: State | None) -> Iterator[_Stepper]:
        if state is not None and any(state):
            raise self.refusal("a carried inner state")
        net = self.setting.net
        if not exact and any(not p.requires_grad for p in net.parameters()):
            raise self.refusal("frozen parameters in first order (it would train them)")
        optimizer = self._cls(net.parameters(), lr=float(self._lr), **self._options)
        learnable = {"lr": [self._lr]} if isinstance(self._lr, Tensor) else {}
        with self._higher.innerloop_ctx(
            net,
            optimizer,
            copy_initial_weights=False,
            override=learnable or None,
            track_higher_grads=exact,
        ) as (module, stepper):
            trainable = [p.requires_grad for p in net.parameters()]
            yield _Stepper(module, stepper, trainable, self.setting.rule)


class _Stepper:
    def __init__(self, module: nn.Module, stepper: Any, trainable: list[bool], rule: Any) -> None:
        self.module = module
        self._stepper = stepper
        self._trainable = trainable
        self._rule = rule

    def step(self, loss: Tensor, k: int) -> None:
        override = {}
        if isinstance(self._rule, Adam):  # higher adds eps before the bias correction, torch after it
            override = {"eps": [self._rule.eps * (1 - self._rule.betas[1] ** (k + 1)) ** 0.5]}
        self._stepper.step(loss, override=override or None)

    def params(self) -> list[Tensor]:
        return [p for p, on in zip(self.module.parameters(), self._trainable, strict=True) if on]


def _load() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import higher
    except ImportError as error:
        raise UsageError(
            "the higher backend needs the package `higher`",
            found=str(error),
            remedy="pip install 'dilkit[engines]', or use backend='native'",
        ) from error
    return higher
