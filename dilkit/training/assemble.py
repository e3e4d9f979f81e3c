"""The outer optimiser and its learning rate over time, both from torch.

How the processes share a step. Torch is not imported here, so that this is refused before any starts.

From a recipe to the things it names: data, net, objective, optimiser, schedule, budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dilkit.checkpoint import load_weights, net_tensors, read
from dilkit.confounders.episodes import Batch, EpisodeSampler
from dilkit.confounders.orbit import Orbit
from dilkit.confounders.store import Store
from dilkit.errors import UsageError
from dilkit.losses import loss_of
from dilkit.models import from_config
from dilkit.objectives import make_objective
from dilkit.objectives.base import Loss
from dilkit.recipe import Recipe
from dilkit.recipe.schema import Constant, Cosine, Data, Hardware, Optim, Staircase
from dilkit.training.engine import Engine
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
    trained = [p for p in net.parameters() if p.requires_grad]
    fused = all(p.device.type in ("cpu", "cuda") for p in trained)
    if optim.name == "sgd":
        return torch.optim.SGD(
            trained, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay, fused=fused
        )
    kind = torch.optim.Adam if optim.name == "adam" else torch.optim.AdamW
    return kind(
        trained, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay, fused=fused
    )


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
    elif data.sources is not None:
        from dilkit.confounders.live import LiveStore

        store = LiveStore(
            data.sources,
            data.distort,
            tile=data.tile,
            stride=data.tile,
            seed=recipe.seed,
            validation=data.validation,
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


def make_sampler(recipe: Recipe, store: Store, engine: Engine) -> EpisodeSampler:
    """This process's share of every batch, or (`spread: distortions`) of the distortions."""
    data, labels = recipe.data, tuple(recipe.data.labels or store.labels)
    rank, world = engine.rank, engine.world
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
        orbit=Orbit(data.orbit.name, data.orbit.probability, data.orbit.reach) if data.orbit else None,
    )


def training_images(store: Store, split: str | None) -> list[str] | None:
    """Perceptual hashes of the images trained on, by which a test image among them is found out; None for
    more than 50,000 images, whose list would outweigh a net, and where images are read as they are needed."""
    if "perceptual_hash" not in store.index:
        return None
    found = {int(looks) for looks in store.index["perceptual_hash"][store.items(split)]}
    return sorted(f"{looks:016x}" for looks in found) if len(found) <= 50_000 else None


def steps_per_epoch(recipe: Recipe, store: Store) -> int:
    return max(1, len(store.items(recipe.data.split)) // recipe.data.batch)


def assemble(
    recipe: Recipe, engine: Engine, labels: Sequence[str], per_epoch: int, *, trust_code: bool = False
) -> tuple[Trainee, Budget]:
    """Net, objective, optimiser and schedule, all new."""
    net = from_config(recipe.model, trust="code" if trust_code else "modules")
    if recipe.init is not None:
        load_weights(net, net_tensors(read(recipe.init)[0]), recipe.init)
    net = engine.place(net)
    settings = recipe.objective.model_dump(exclude={"name"})
    inner = engine.reduce if engine.world > 1 and recipe.hardware.sync == "inner" else None
    objective = make_objective(
        recipe.objective.name,
        loss=make_loss(recipe.loss, engine.device, recipe.hardware),
        seed=recipe.seed,
        reduce=inner,
        **settings,
    )
    budget = Budget.of(recipe, objective.passes(len(labels)), per_epoch)
    optimizer = make_optimizer(recipe.optim, net)
    schedule = make_schedule(recipe.optim, optimizer, budget.steps, per_epoch)
    average = None
    if recipe.ema is not None:
        average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
    return Trainee(net, objective, optimizer, schedule, objective.passes(len(labels)), average), budget
