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
from dilkit.meta.backends.unrolled import Kept, Unrolled
from dilkit.meta.inner import Learned, Sgd, State, is_on, rate_of
from dilkit.meta.setting import Setting


class Learn2Learn(Unrolled):
    """Plain SGD: with one learning rate by `MAML`, with one for each tensor or element by `MetaSGD`, and with
    transformed gradients (`dilkit.meta.Learned`) by `GBML`.
    """

    backend = "learn2learn"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._library = load_learn2learn()
        rule: Any = setting.rule
        plain = isinstance(rule, Sgd) and not (
            is_on(rule.momentum) or is_on(rule.weight_decay) or rule.maximize
        )
        learned = [n for n in rule.hyper() if n.split(".")[0] != "lr" and ".transform." not in n]
        if learned:
            raise self.refusal(f"a learnable {learned[0]}")
        if not plain and not isinstance(rule, Learned):
            raise self.refusal("any inner optimiser but plain SGD", "higher")
        if isinstance(rule.lr, Mapping):
            if isinstance(rule, Learned):
                raise self.refusal("transformed gradients with more than one learning rate")
            if any(len(places) > 1 for places in setting.slots.params.values()):
                raise self.refusal("MetaSGD on tied weights (it would untie them)")
            if any(not p.requires_grad for p in setting.net.parameters()):
                raise self.refusal("MetaSGD on modules with frozen parameters")

    @contextmanager
    def carrier(self, *, exact: bool, state: State | None) -> Iterator[Kept]:
        if state is not None and any(state):
            raise self.refusal("a carried inner state")
        net, library = self.setting.net, self._library
        rule: Any = self.setting.rule
        lenient = {"first_order": not exact, "allow_unused": True, "allow_nograd": True}
        if isinstance(rule, Learned):
            by_id = {id(p): rule.transforms.get(n) for n, p in net.named_parameters()}
            transform = lambda p: by_id[id(p)] or nn.Identity()  # noqa: E731
            learner = library.GBML(net, transform=transform, lr=rule.lr, **lenient)
        elif isinstance(rule.lr, Mapping):
            rates = [rate_of(rule.lr, name) for name in self.setting.names]
            learner = library.MetaSGD(net, lrs=rates, first_order=not exact)
        else:
            learner = library.MAML(net, lr=rule.lr, **lenient)
        yield _Adapted(self.setting, learner.clone(), exact)


class _Adapted(Kept):
    def step(self, loss: Tensor) -> None:
        self.module.adapt(loss)  # type: ignore[operator]

    def params(self) -> list[Tensor]:
        learner: Any = self.module
        pairs = zip(learner.module.parameters(), self.setting.net.parameters(), strict=True)
        return [virtual for virtual, own in pairs if own.requires_grad]


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
