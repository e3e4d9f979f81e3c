"""From a recipe to the things it names: data, net, objective, optimiser, schedule, budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dilkit.confounders.episodes import EpisodeSampler
from dilkit.confounders.store import Store
from dilkit.errors import UsageError
from dilkit.models import from_config
from dilkit.objectives import build as build_objective
from dilkit.recipe import Recipe
from dilkit.training.checkpoint import fit, net_tensors, read
from dilkit.training.engine import Engine
from dilkit.training.loop import Trainee
from dilkit.training.losses import make_loss
from dilkit.training.schedule import make_optimizer, make_schedule
from dilkit.training.shares import refuse_unequal


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


def assemble(recipe: Recipe, engine: Engine, labels: Sequence[str], per_epoch: int) -> tuple[Trainee, Budget]:
    """Net, objective, optimiser and schedule, all new."""
    net = from_config(recipe.model)
    if recipe.init is not None:
        fit(net, net_tensors(read(recipe.init)[0]), recipe.init)
    net = engine.place(net)
    settings = recipe.objective.model_dump(exclude={"name"})
    inner = engine.reduce if engine.world > 1 and recipe.hardware.sync == "inner" else None
    objective = build_objective(
        recipe.objective.name,
        loss=make_loss(recipe.loss, engine.device, recipe.hardware),
        seed=recipe.seed,
        reduce=inner,
        **settings,
    )
    budget = Budget.of(recipe, objective.passes(len(labels)), per_epoch)
    optimizer = make_optimizer(recipe.optim, net.parameters())
    schedule = make_schedule(recipe.optim, optimizer, budget.steps, per_epoch)
    average = None
    if recipe.ema is not None:
        average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
    return Trainee(net, objective, optimizer, schedule, objective.passes(len(labels)), average), budget
