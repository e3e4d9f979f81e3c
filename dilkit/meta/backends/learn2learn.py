"""Virtual updates by the `learn2learn` library (Arnold et al., 2020): MAML, MetaSGD, gradient transforms."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from dilkit.errors import UsageError
from dilkit.meta.backends.unrolled import Unrolled
from dilkit.meta.inner import Learned, Sgd, State, is_on


class Learn2Learn(Unrolled):
    """Plain SGD: with one learning rate by `MAML`, with one for each tensor or element by `MetaSGD`, and with
    transformed gradients (`dilkit.meta.Learned`) by `GBML`.
    """

    backend = "learn2learn"

    def __init__(self, net: nn.Module, optimizer: Any, **options: Any) -> None:
        super().__init__(net, optimizer, **options)
        self._library = load_learn2learn()
        plain = isinstance(optimizer, Sgd) and not (
            is_on(optimizer.momentum) or is_on(optimizer.weight_decay) or optimizer.maximize
        )
        learned = [n for n in optimizer.hyper() if n.split(".")[0] not in ("lr",) and ".transform." not in n]
        if learned:
            raise self.refusal(f"a learnable {learned[0]}")
        if not plain and not isinstance(optimizer, Learned):
            raise self.refusal("any inner optimiser but plain SGD", "higher")
        if isinstance(optimizer.lr, Mapping):
            if isinstance(optimizer, Learned):
                raise self.refusal("transformed gradients with more than one learning rate")
            if any(len(places) > 1 for places in self.setting.slots.params.values()):
                raise self.refusal("MetaSGD on tied weights (it would untie them)")
            if any(not p.requires_grad for p in net.parameters()):
                raise self.refusal("MetaSGD on modules with frozen parameters")

    @contextmanager
    def stepper(self, *, exact: bool, state: State | None) -> Iterator[_Stepper]:
        if state is not None and any(state):
            raise self.refusal("a carried inner state")
        net, rule, library = self.setting.net, self.setting.rule, self._library
        lr = rule.lr  # type: ignore[attr-defined]
        if isinstance(rule, Learned):
            by_id = {id(p): rule.transforms.get(n) for n, p in net.named_parameters()}
            learner = library.GBML(
                net,
                transform=lambda p: by_id[id(p)] or nn.Identity(),
                lr=lr,
                first_order=not exact,
                allow_unused=True,
                allow_nograd=True,
            )
        elif isinstance(lr, Mapping):
            lrs = [lr[name] for name in self.setting.names]
            learner = library.MetaSGD(net, lrs=lrs, first_order=not exact)
        else:
            learner = library.MAML(net, lr=lr, first_order=not exact, allow_unused=True, allow_nograd=True)
        yield _Stepper(learner.clone(), [p.requires_grad for p in net.parameters()])


class _Stepper:
    def __init__(self, learner: Any, trainable: list[bool]) -> None:
        self.module: nn.Module = learner
        self._trainable = trainable

    def step(self, loss: Tensor, k: int) -> None:
        self.module.adapt(loss)  # type: ignore[operator]

    def params(self) -> list[Tensor]:
        virtual = self.module.module.parameters()  # type: ignore[union-attr]
        return [p for p, on in zip(virtual, self._trainable, strict=True) if on]


def load_learn2learn() -> Any:
    """`learn2learn.algorithms`, without the vision, text and gym parts that its top level would import."""
    if "learn2learn.algorithms" in sys.modules:
        return sys.modules["learn2learn.algorithms"]
    spec = importlib.util.find_spec("learn2learn")
    if spec is None or spec.submodule_search_locations is None:
        raise UsageError(
            "the learn2learn backend needs the package `learn2learn`",
            remedy="pip install --no-deps --config-settings=--build-option=build_ext learn2learn==0.2.0, "
            "or use backend='native'",
        )
    bare = ModuleType("learn2learn")
    bare.__path__ = list(spec.submodule_search_locations)
    sys.modules["learn2learn"] = bare
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            utils = importlib.import_module("learn2learn.utils")
            for name in ("clone_module", "update_module", "clone_parameters", "detach_module"):
                setattr(bare, name, getattr(utils, name))
            for name in ("optim", "algorithms"):
                setattr(bare, name, importlib.import_module(f"learn2learn.{name}"))
    except ImportError as error:
        raise UsageError(
            "the learn2learn that is installed cannot be imported",
            found=str(error),
            remedy="use backend='native'",
        ) from error
    finally:
        del sys.modules["learn2learn"]  # so that the user's own import gets the whole package
    return sys.modules["learn2learn.algorithms"]
