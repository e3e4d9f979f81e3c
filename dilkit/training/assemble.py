"""From a recipe to the things it names: data, net, loss, objective, optimiser, schedule, budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dilkit.checkpoint import Provenance, find_checkpoint, initial_weights, load_weights
from dilkit.confounders.episodes import Batch, EpisodeSampler
from dilkit.confounders.orbit import Correlation, Orbit
from dilkit.confounders.store import Store
from dilkit.errors import UsageError, nearest
from dilkit.losses import loss_of
from dilkit.models import from_config
from dilkit.models.config import CustomConfig
from dilkit.models.sizes import find_multiple, takes
from dilkit.objectives import make_objective
from dilkit.objectives.base import Loss
from dilkit.recipe import Recipe
from dilkit.recipe.schema import Constant, Cosine, Data, Hardware, Init, Optim, Staircase, TorchSchedule
from dilkit.training.accelerator import Accelerator
from dilkit.training.loop import Trainee
from dilkit.training.muon import Muon


def make_loss(text: str, device: torch.device, hardware: Hardware) -> Loss:
    """The loss closure objectives call.

    Autocast is opened anew for each forward pass, because its cache of cast weights goes stale when a virtual
    update moves them; the loss itself is taken in float32. A net is compiled when it is first met, so that
    the copy on which virtual steps are taken is compiled too.
    """
    low = hardware.precision == "bf16"
    measured = loss_of(text)
    compiled: dict[nn.Module, Callable[[Tensor], Any]] = {}

    def forward(net: nn.Module, distorted: Tensor) -> Tensor:
        call: Callable[[Tensor], Any] = net
        if hardware.compile:
            if net not in compiled:
                compiled[net] = torch.compile(net)
            call = compiled[net]
        with torch.autocast(device.type, torch.bfloat16) if low else nullcontext():
            output: Tensor = call(distorted)
        return output.float() if low else output

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        distorted, clean = batch
        return measured(forward(net, distorted), clean)

    return loss


def make_optimizer(optim: Optim, net: nn.Module) -> Optimizer:
    """The recipe's optimiser over the parameters that require gradients."""
    if optim.name == "muon":
        named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
        return Muon(named, optim.lr, optim.momentum or 0.95, None, optim.betas, optim.eps, optim.weight_decay)
    groups = _groups(optim, net)
    trained = [p for group in groups for p in group["params"]]
    shared: dict[str, Any] = {"lr": optim.lr, "weight_decay": optim.weight_decay}
    if all(p.device.type in ("cpu", "cuda") for p in trained):
        shared["fused"] = True
    if optim.name == "sgd":
        return torch.optim.SGD(groups, momentum=optim.momentum, **shared)
    if optim.name in ("adam", "adamw"):
        kind = torch.optim.Adam if optim.name == "adam" else torch.optim.AdamW
        return kind(groups, betas=optim.betas, eps=optim.eps, **shared)
    return _torch_optimizer(optim, groups)


def _groups(optim: Optim, net: nn.Module) -> list[dict[str, Any]]:
    """The parameters that are trained, those of each rate together: the first pattern of a name counts."""
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    names = []
    for name, p in net.named_parameters():
        if p.requires_grad:
            names.append(name)
            factor = next((f for pattern, f in optim.rates.items() if fnmatchcase(name, pattern)), 1.0)
            groups.setdefault(factor, []).append(p)
    for pattern in optim.rates:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                "no parameter that is trained has such a name",
                where="optim.rates",
                found=pattern,
                nearest=nearest(pattern, names),
            )
    if not optim.rates:
        return [{"params": groups[1.0]}]
    return [{"params": ps, "lr": optim.lr * factor} for factor, ps in groups.items() if ps]


def _torch_optimizer(optim: Optim, groups: list[dict[str, Any]]) -> Optimizer:
    """Any other optimiser of `torch.optim`, by the name of its class.

    Raises:
        UsageError: torch has no such class, or it does not take the arguments.
    """
    kinds = {
        name: kind
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
    }
    if optim.name not in kinds:
        raise UsageError(
            "torch has no such optimiser",
            where="optim.name",
            found=optim.name,
            expected=", ".join(sorted(kinds)),
            nearest=nearest(optim.name, kinds),
        )
    try:
        make: Any = kinds[optim.name]
        made: Optimizer = make(groups, lr=optim.lr, weight_decay=optim.weight_decay, **optim.args)
        return made
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{optim.name}: {error}",
            where="optim.args",
            expected=f"{optim.name}{signature(kinds[optim.name])}",
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
        main = _torch_schedule(plan, optimizer)
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


def _torch_schedule(plan: TorchSchedule, optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    kinds = {
        name: kind
        for name, kind in vars(lr_scheduler).items()
        if isinstance(kind, type) and issubclass(kind, lr_scheduler.LRScheduler)
    }
    kinds.pop("ReduceLROnPlateau", None)
    if plan.of not in kinds:
        raise UsageError(
            "torch has no such schedule by steps",
            where="optim.schedule.of",
            found=plan.of,
            nearest=nearest(plan.of, kinds),
        )
    try:
        return kinds[plan.of](optimizer, **plan.args)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{plan.of}: {error}",
            where="optim.schedule.args",
            expected=f"{plan.of}{signature(kinds[plan.of])}",
        ) from None


def refuse_unequal(data: Data, world: int, labels: Sequence[str] | None) -> None:
    """Check that `world` processes have equal shares of the batch, or (`spread: distortions`) of the labels,
    where those are known yet.

    Raises:
        UsageError: they have not.
    """
    if data.spread == "distortions":
        if labels is not None and len(labels) % world:
            raise UsageError(
                "the distortions cannot be shared equally",
                where="data.spread",
                found=f"{len(labels)} distortions",
                expected=f"a multiple of the {world} processes",
            )
    elif data.batch % world:
        raise UsageError(
            "the batch cannot be shared equally",
            where="data.batch",
            found=data.batch,
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


def make_sampler(recipe: Recipe, store: Store, accelerator: Accelerator) -> EpisodeSampler:
    """This process's share of every batch, or (`spread: distortions`) of the distortions."""
    data, labels = recipe.data, tuple(recipe.data.labels or store.labels)
    rank, world = accelerator.rank, accelerator.world
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
    )


def steps_per_epoch(recipe: Recipe, store: Store) -> int:
    return max(1, len(store.items(recipe.data.split)) // recipe.data.batch)


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
        if (not init.only or matched(name, init.only)) and not matched(name, init.skip)
    }
    for pattern in (*init.only, *init.skip):
        if not any(fnmatchcase(name, pattern) for name in tensors):
            raise UsageError(
                "no weight of the checkpoint has such a name",
                where="init",
                found=pattern,
                nearest=nearest(pattern, tensors),
            )
    if init.only or init.skip:
        wanted = own | wanted
    load_weights(net, wanted, source)
    return past


def matched(name: str, patterns: Sequence[str]) -> bool:
    """Whether a parameter's name is one of the patterns (`body.*`, as file names are matched)."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def freeze(net: nn.Module, patterns: Sequence[str]) -> None:
    """Train no parameter of these names.

    Raises:
        UsageError: a pattern that no parameter has, or nothing is left to train.
    """
    names = [name for name, _ in net.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                "no parameter has such a name", where="freeze", found=pattern, nearest=nearest(pattern, names)
            )
    for name, p in net.named_parameters():
        if matched(name, patterns):
            p.requires_grad_(False)
    if not any(p.requires_grad for p in net.parameters()):
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


def assemble(
    recipe: Recipe,
    accelerator: Accelerator,
    labels: Sequence[str],
    per_epoch: int,
    *,
    trust_code: bool = False,
) -> tuple[Trainee, Budget, Provenance]:
    """Net, objective, optimiser and schedule, all new; and what the net has seen before, by its `init`.

    Raises:
        UsageError: a setting that does not fit the others, or a crop that the net does not take.
    """
    net = from_config(recipe.model, trust="code" if trust_code else "modules")
    past = Provenance()
    if recipe.init is not None:
        past = initialise(net, recipe.init)
    freeze(net, recipe.freeze)
    check_crop(net, recipe)
    net = accelerator.place(net)
    settings = recipe.objective.model_dump(exclude={"name"})
    inner = accelerator.reduce if accelerator.world > 1 and recipe.hardware.sync == "inner" else None
    objective = make_objective(
        recipe.objective.name,
        loss=make_loss(recipe.loss, accelerator.device, recipe.hardware),
        seed=recipe.seed,
        reduce=inner,
        **settings,
    )
    passes = objective.passes(len(labels)) * recipe.optim.accumulate
    budget = Budget.of(recipe, passes, per_epoch)
    optimizer = make_optimizer(recipe.optim, net)
    schedule = make_schedule(recipe.optim, optimizer, budget.steps, per_epoch)
    average = None
    if recipe.ema is not None:
        average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
    elif recipe.swa is not None and budget.steps is not None:
        first = round(budget.steps * (1 - recipe.swa))
        average = AveragedModel(net, multi_avg_fn=mean_from(first), use_buffers=True)
    return Trainee(net, objective, optimizer, schedule, passes, average), budget, past
