"""Virtual updates by the `higher` library (Grefenstette et al., 2019)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dilkit.errors import UsageError
from dilkit.meta.backends.unrolled import Kept, Unrolled
from dilkit.meta.inner import Adam, Sgd, State, TorchOptimizer
from dilkit.meta.setting import Setting

_CLASSES = ("Adadelta", "Adagrad", "Adamax", "ASGD", "RMSprop", "Rprop")


class Higher(Unrolled):
    """SGD with momentum, Adam and AdamW, and the further classes `higher` knows; one learning rate, fixed or
    learnable. It drops forward hooks: modules that have some are refused.
    """

    backend = "higher"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._higher = _load()
        rule: Any = setting.rule
        if any(m._forward_hooks or m._forward_pre_hooks for m in setting.net.modules()):
            raise self.refusal("modules with forward hooks (it would drop them)")
        if getattr(rule, "maximize", False):
            raise self.refusal("maximize=True (it would ignore it)")
        lr = getattr(rule, "lr", None)
        learned = [n for n in rule.hyper() if n != "lr"]
        if learned:
            raise self.refusal(f"a learnable {learned[0]}")
        if not isinstance(lr, int | float) and not (isinstance(lr, Tensor) and lr.numel() == 1):
            raise self.refusal("a learning rate for each tensor or element")
        self._lr: float | Tensor = lr
        self._cls, self._options = self._translate(rule)

    def _translate(self, rule: Any) -> tuple[Any, dict[str, Any]]:
        if isinstance(rule, Sgd):
            names = ("momentum", "nesterov", "weight_decay", "dampening")
            return torch.optim.SGD, {n: getattr(rule, n) for n in names}
        if isinstance(rule, Adam):
            cls = torch.optim.AdamW if rule.decoupled else torch.optim.Adam
            return cls, {n: getattr(rule, n) for n in ("betas", "eps", "weight_decay")}
        if isinstance(rule, TorchOptimizer) and rule.cls.__name__ in _CLASSES:
            return rule.cls, dict(rule.options)
        what = rule.cls.__name__ if isinstance(rule, TorchOptimizer) else type(rule).__name__
        raise self.refusal(f"the inner optimiser {what}")

    @contextmanager
    def carrier(self, *, exact: bool, state: State | None) -> Iterator[Kept]:
        if state is not None and any(state):
            raise self.refusal("a carried inner state")
        net = self.setting.net
        trainable = [p.requires_grad for p in net.parameters()]
        if not exact and not all(trainable):
            raise self.refusal("frozen parameters in first order (it would train them)")
        optimizer = self._cls(net.parameters(), lr=float(self._lr), **self._options)
        override = {"lr": [self._lr]} if isinstance(self._lr, Tensor) else None
        with self._higher.innerloop_ctx(
            net, optimizer, copy_initial_weights=False, override=override, track_higher_grads=exact
        ) as (module, stepper):
            yield _Stepped(self.setting, module, exact, stepper, trainable)


class _Stepped(Kept):
    def __init__(
        self, setting: Setting, module: nn.Module, exact: bool, stepper: Any, trainable: list[bool]
    ) -> None:
        super().__init__(setting, module, exact)
        self._stepper, self._trainable = stepper, trainable

    def step(self, loss: Tensor) -> None:
        rule, override = self.setting.rule, None
        if isinstance(rule, Adam):  # higher adds eps before the bias correction, torch after it
            override = {"eps": [rule.eps * (1 - rule.betas[1] ** (self.k + 1)) ** 0.5]}
        self._stepper.step(loss, override=override)

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
            remedy="pip install higher==0.2.1, or use backend='native'",
        ) from error
    return higher
