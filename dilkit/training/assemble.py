"""From a recipe to the things it names: data, net, loss, objective, optimiser, schedule, budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from inspect import signature
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dilkit.checkpoint import Provenance, find_checkpoint, initial_weights, load_weights
from dilkit.confounders.episodes import EpisodeSampler
from dilkit.confounders.orbit import Correlation, Orbit
from dilkit.confounders.store import Store
from dilkit.distortions import Word
from dilkit.distortions.novelty import told_degree
from dilkit.errors import UsageError, nearest
from dilkit.models import from_config
from dilkit.models.config import CustomConfig
from dilkit.models.custom import find_multiple, takes
from dilkit.objectives import make_objective
from dilkit.recipe import Recipe, refuse_leaks
from dilkit.recipe.schema import (
    OPTIMISERS,
    Constant,
    Cosine,
    Data,
    Init,
    Optim,
    Staircase,
    TorchSchedule,
)
from dilkit.training.accelerator import Accelerator
from dilkit.training.loop import Trainee
from dilkit.training.optimisers import Lion, Muon
from dilkit.training.precision import LossScale, make_loss
from dilkit.training.swad import Swad


def make_optimizer(optim: Optim, net: nn.Module) -> Optimizer:
    """The recipe's optimiser over the parameters that require gradients.

    Raises:
        UsageError: torch has no such optimiser, it does not take the arguments or `rates`, or a pattern of
            `rates` that no parameter has.
    """
    if optim.args and optim.name in OPTIMISERS:
        raise UsageError(
            "further arguments are for a class of torch.optim",
            where="optim.args",
            found=optim.name,
            remedy="name the class: optim.name=AdamW",
        )
    if optim.name == "muon":
        if optim.rates:
            raise UsageError("muon has one rate for all parameters", where="optim.rates", found=optim.rates)
        named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
        return Muon(named, optim.lr, optim.momentum or 0.95, None, optim.betas, optim.eps, optim.weight_decay)
    groups = _groups(optim, net)
    shared: dict[str, Any] = {"lr": optim.lr, "weight_decay": optim.weight_decay}
    if optim.name == "lion":
        return Lion(groups, betas=optim.betas, **shared)
    fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    shared |= {"fused": True} if fused else {}
    if optim.name == "sgd":
        return torch.optim.SGD(groups, momentum=optim.momentum, **shared)
    if optim.name in ("adam", "adamw"):
        kind = torch.optim.Adam if optim.name == "adam" else torch.optim.AdamW
        return kind(groups, betas=optim.betas, eps=optim.eps, **shared)
    shared.pop("fused", None)
    kinds = _classes(torch.optim, Optimizer)
    made: Optimizer = _of_torch(kinds, optim.name, "optim.name", "optim.args", groups, **shared, **optim.args)
    return made


def _groups(optim: Optim, net: nn.Module) -> list[dict[str, Any]]:
    """The parameters that are trained, those of each rate together: the first pattern of a name counts."""
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    _refuse_unmatched(optim.rates, trained, "optim.rates", "parameter that is trained")
    for name, p in trained.items():
        factor = next((f for pattern, f in optim.rates.items() if fnmatchcase(name, pattern)), 1.0)
        groups.setdefault(factor, []).append(p)
    if not optim.rates:
        return [{"params": groups[1.0]}]
    return [{"params": ps, "lr": optim.lr * factor} for factor, ps in groups.items() if ps]


def _refuse_unmatched(patterns: Iterable[str], names: Iterable[str], where: str, what: str) -> None:
    """Raises UsageError for a pattern that none of the names fits."""
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                f"no {what} has such a name", where=where, found=pattern, nearest=nearest(pattern, names)
            )


def _classes(module: ModuleType, base: type) -> dict[str, type]:
    return {
        name: kind for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, base) and kind is not base
    }  # fmt: skip


def _of_torch(
    kinds: Mapping[str, type], name: str, where: str, args_at: str, *given: Any, **args: Any
) -> Any:
    """One of torch's classes, made with what is given to it.

    Raises:
        UsageError: torch has no such class, or it does not take the arguments.
    """
    if name not in kinds:
        raise UsageError(
            "torch has none of this name",
            where=where,
            found=name,
            expected=", ".join(sorted(kinds)),
            nearest=nearest(name, kinds),
        )
    try:
        return kinds[name](*given, **args)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{name}: {error}", where=args_at, expected=f"{name}{signature(kinds[name])}"
        ) from None


def make_schedule(
    optim: Optim, optimizer: Optimizer, steps: int | None, steps_per_epoch: int
) -> lr_scheduler.LRScheduler:
    """Linear warm-up, then the recipe's schedule; `steps` is the budget, None where only time ends it."""
    plan = optim.schedule
    main: lr_scheduler.LRScheduler
    if isinstance(plan, Cosine):
        if steps is None:
            raise ValueError("a cosine schedule needs the number of steps")
        main = lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - plan.warmup), eta_min=plan.floor)
    elif isinstance(plan, TorchSchedule):
        main = _torch_schedule(plan, optimizer, steps)
    elif isinstance(plan, Staircase):
        every = plan.every * (steps_per_epoch if plan.unit == "epochs" else 1)
        main = lr_scheduler.StepLR(optimizer, every, gamma=plan.factor)
    else:
        assert isinstance(plan, Constant)
        main = lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
    if plan.warmup == 0:
        return main
    rise = lr_scheduler.LinearLR(optimizer, start_factor=1 / (plan.warmup + 1), total_iters=plan.warmup)
    return lr_scheduler.SequentialLR(optimizer, [rise, main], milestones=[plan.warmup])


def _torch_schedule(plan: TorchSchedule, optimizer: Optimizer, steps: int | None) -> lr_scheduler.LRScheduler:
    """A schedule of torch's that goes by steps; the length that it asks for is the budget's."""
    kinds = _classes(lr_scheduler, lr_scheduler.LRScheduler)
    kinds.pop("ReduceLROnPlateau", None)
    asked = signature(kinds[plan.of]).parameters if plan.of in kinds else {}
    length = {name: steps for name in ("total_steps", "T_max") if name in asked and steps is not None}
    args = plan.args if "epochs" in plan.args else {**length, **plan.args}
    made: lr_scheduler.LRScheduler = _of_torch(
        kinds, plan.of, "optim.schedule.of", "optim.schedule.args", optimizer, **args
    )
    return made


def refuse_unequal(data: Data, world: int, labels: Sequence[str] | None) -> None:
    """Raises UsageError where `world` processes would not have equal shares of the batch, or (`spread:
    distortions`) of the labels, where those are known yet."""
    by_label = data.spread == "distortions"
    shared = len(labels or ()) if by_label else data.batch
    if shared % world:
        raise UsageError(
            f"the {'distortions' if by_label else 'batch'} cannot be shared equally",
            where="data.spread" if by_label else "data.batch",
            found=f"{shared} distortions" if by_label else shared,
            expected=f"a multiple of the {world} processes",
        )


@dataclass(frozen=True)
class Budget:
    """How long to train: `steps` outer steps, or (None) until `seconds` of wall clock."""

    steps: int | None
    seconds: float | None

    @classmethod
    def of(cls, recipe: Recipe, passes_per_step: int, steps_per_epoch: int) -> Budget:
        if recipe.hours is not None:
            return cls(None, recipe.hours * 3600)
        if recipe.passes is not None:
            if recipe.passes < passes_per_step:
                raise UsageError(
                    "the budget is less than one step",
                    where="passes",
                    found=recipe.passes,
                    expected=f"at least {passes_per_step}",
                )
            return cls(recipe.passes // passes_per_step, None)
        return cls(recipe.steps or (recipe.epochs or 0) * steps_per_epoch, None)

    def spent(self, trainee: Trainee) -> bool:
        if self.steps is None:
            return trainee.seconds >= (self.seconds or 0)
        return trainee.step >= self.steps

    def left(self, trainee: Trainee) -> float:
        """Seconds that remain at the pace so far."""
        if self.steps is None:
            return (self.seconds or 0) - trainee.seconds
        return trainee.seconds * (self.steps - trainee.step) / max(trainee.step, 1)


def open_store(recipe: Recipe) -> Store:
    """The dataset the recipe names: a store, or images and an expression distorted as they are read."""
    data = recipe.data
    store: Store
    if data.store is not None:
        store = Store(data.store)
    elif data.sources is not None or data.pairs is not None:
        from dilkit.confounders.live import LiveStore

        store = LiveStore(
            data.sources or [],
            data.distort if data.distort is not None else [],
            tile=data.tile,
            stride=data.tile,
            seed=recipe.seed,
            validation=data.validation,
            pairs=data.pairs or (),
        )
    else:
        raise UsageError(
            "the recipe names no data",
            where="data.store",
            remedy="make a store with `dilkit augment` and give data.store=FILE.h5",
        )
    labels = store.labels
    strange = [x for x in data.labels or () if x not in labels]
    if strange:
        raise UsageError(
            "the store has no such confounder",
            where="data.labels",
            found=", ".join(strange),
            expected=", ".join(labels),
        )
    return store


def _sampler(recipe: Recipe, store: Store, labels: Sequence[str], rank: int, world: int) -> EpisodeSampler:
    """One process's share of every batch, or (`spread: distortions`) of the distortions."""
    data = recipe.data
    refuse_unequal(data, world, labels)
    if data.spread == "distortions":
        labels, rank, world = labels[rank::world], 0, 1
    return EpisodeSampler(
        store,
        batch=data.batch // world,
        crop=data.crop,
        pairing=data.pairing,
        symmetry=data.symmetry,
        seed=recipe.seed,
        rank=rank,
        world=world,
        labels=labels,
        split=data.split,
        orbit=[Orbit(each.name, each.probability, each.reach) for each in data.orbit],
        correlate=Correlation(**data.correlate.model_dump()) if data.correlate else None,
        maps=degrees_told(map(store.word, labels)) if recipe.model.noise_map else None,
    )


def degrees_told(words: Iterable[Word]) -> dict[str, float]:
    """By label, the one degree that a net is told (`model.noise_map`).

    Raises:
        UsageError: a distortion without one number as its degree.
    """
    found = {}
    for word in words:
        degree = told_degree(word)
        if degree is None:
            raise UsageError(
                "a distortion has no one degree to tell the net",
                where="model.noise_map",
                found=word.label,
                expected="distortions of one degree each, as awgn[5, 10, 15]",
            )
        found[word.label] = degree
    return found


def initialise(net: nn.Module, init: Init) -> Provenance:
    """Load the weights that `init` names into a net, all or those of the names it asks for; what they have
    seen is returned.

    Raises:
        UsageError: no checkpoint, a pattern that no weight has, or weights of another shape.
    """
    source = find_checkpoint(init.source)
    tensors, past = initial_weights(source)
    own = net.state_dict()
    wanted = {
        name: tensor
        for name, tensor in tensors.items()
        if (not init.only or _matched(name, init.only)) and not _matched(name, init.skip)
    }
    _refuse_unmatched((*init.only, *init.skip), tensors, "init", "weight of the checkpoint")
    if init.only or init.skip:
        wanted = own | wanted
    load_weights(net, wanted, source)
    return past


def _matched(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name is one of the patterns (`body.*`, as file names are matched)."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def freeze(net: nn.Module, patterns: Sequence[str]) -> None:
    """Train no parameter of these names.

    Raises:
        UsageError: a pattern that no parameter has, or nothing is left to train.
    """
    named = dict(net.named_parameters())
    _refuse_unmatched(patterns, named, "freeze", "parameter")
    for name, p in named.items():
        if _matched(name, patterns):
            p.requires_grad_(False)
    if not any(p.requires_grad for p in named.values()):
        raise UsageError("no parameter is left to train", where="freeze", found=", ".join(patterns))


def check_crop(net: nn.Module, recipe: Recipe) -> None:
    """Find the multiple that the sides of images must have, for a net which does not say, and keep it as its
    attribute `multiple`; nets of dilkit's own take any size.

    Raises:
        UsageError: the net does not take the crop that it is to be trained on.
    """
    if not isinstance(recipe.model, CustomConfig):
        return
    with torch.random.fork_rng(devices=[]):
        training = net.training
        net.eval()
        crop = recipe.data.crop
        multiple = getattr(net, "multiple", None) or (find_multiple(net) or 1)
        fits = takes(net, crop) or not isinstance(multiple, int) or crop % multiple == 0
        net.train(training)
    if not fits:
        raise UsageError(
            "the net does not take the crop",
            where="data.crop",
            found=crop,
            expected=f"a multiple of {multiple}",
        )
    if multiple != 1 and not hasattr(net, "multiple"):
        net.multiple = multiple  # type: ignore[assignment]


def mean_from(first: int) -> Callable[[Any, Any, Any], None]:
    """How an average takes the weights after step k: as they are before step `first`, then their plain mean
    over all steps since (dense stochastic weight averaging)."""

    @torch.no_grad()
    def take(averaged: Sequence[Tensor], current: Sequence[Tensor], taken: Tensor | int) -> None:
        share = 1 / max(1, int(taken) + 2 - max(1, first))
        for mean, now in zip(averaged, current, strict=True):
            if share == 1 or not mean.is_floating_point():
                mean.copy_(now)
            else:
                mean.lerp_(now.to(mean.dtype), share)

    return take


@dataclass(frozen=True)
class Assembled:
    """A recipe's parts, all new: nothing has been trained, and nothing written.

    Attributes:
        past: what the net has seen before, by its `init`.
    """

    store: Store
    labels: tuple[str, ...]
    accelerator: Accelerator
    sampler: EpisodeSampler
    trainee: Trainee
    budget: Budget
    past: Provenance


def assemble(
    recipe: Recipe, *, accelerator: Accelerator | None = None, trust_code: bool = False
) -> Assembled:
    """Open the data, choose the device, seed torch, and build what is trained.

    Raises:
        UsageError: a setting that does not fit the others, data that cannot be read, a device that this
            machine lacks, or a crop that the net does not take.
    """
    store = open_store(recipe)
    labels = tuple(recipe.data.labels or store.labels)
    refuse_leaks(recipe, [store.word(label) for label in labels])
    accelerator = accelerator or Accelerator.of(recipe.hardware)
    torch.manual_seed(recipe.seed)
    sampler = _sampler(recipe, store, labels, accelerator.rank, accelerator.world)
    net = from_config(recipe.model, trust="code" if trust_code else "modules")
    past = Provenance() if recipe.init is None else initialise(net, recipe.init)
    freeze(net, recipe.freeze)
    check_crop(net, recipe)
    net = accelerator.place(net)
    inner = accelerator.reduce if accelerator.world > 1 and recipe.hardware.sync == "inner" else None
    scale = LossScale() if recipe.hardware.precision == "fp16" else None
    objective = make_objective(
        recipe.objective.name,
        loss=make_loss(recipe.loss, accelerator.device, recipe.hardware, scale),
        seed=recipe.seed,
        reduce=inner,
        **recipe.objective.model_dump(exclude={"name"}),
    )
    passes = objective.passes(len(labels)) * recipe.optim.accumulate
    per_epoch = max(1, len(store.items(recipe.data.split)) // recipe.data.batch)
    budget = Budget.of(recipe, passes, per_epoch)
    optimizer = make_optimizer(recipe.optim, net)
    schedule = make_schedule(recipe.optim, optimizer, budget.steps, per_epoch)
    average = None
    if recipe.ema is not None:
        average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
    elif recipe.swad:
        average = Swad(net)
    elif recipe.swa is not None and budget.steps is not None:
        first = round(budget.steps * (1 - recipe.swa))
        average = AveragedModel(net, multi_avg_fn=mean_from(first), use_buffers=True)
    trainee = Trainee(net, objective, optimizer, schedule, passes, average, scale)
    return Assembled(store, labels, accelerator, sampler, trainee, budget, past)
