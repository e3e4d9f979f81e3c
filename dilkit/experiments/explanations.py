"""What could explain who generalises, measured alike on all nets of a study: one row per net.

Each column is an explanation that the table can refute: early stopping (`distance` from the start), agreement
of the distortions' gradients (`gradient_cosine`), flatness (`sharpness`, `sharpness_ascent`), the noise of a
step (`step_noise`), and the indices of `dilkit.evaluation.invariance`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dilkit.devices import pick_device
from dilkit.errors import UsageError
from dilkit.evaluation.degrade import Degradation
from dilkit.evaluation.invariance import INDICES, centre_crops, gradient_agreement, invariance
from dilkit.evaluation.rows import SETTINGS, read_rows
from dilkit.evaluation.testsets import Data
from dilkit.experiments.partial_correlation import partial_correlations
from dilkit.inference.forward import to_tensor
from dilkit.inference.nets import Net, open_nets
from dilkit.losses import loss_of, parse_loss
from dilkit.meta.hvp import gradient
from dilkit.models import from_config
from dilkit.recipe import Recipe
from dilkit.training.assemble import initialise

LANDSCAPE = ("distance", "gradient_cosine", "gradient_norm", "step_noise", "sharpness", "sharpness_ascent")
"""The columns that `landscape` gives beside `loss` and `weights`."""
RADIUS = 0.02
"""Length of the perturbations of theta that measure sharpness, as a share of |theta|."""


@dataclass(frozen=True)
class Explanations:
    """Attributes:
    nets: a row per net: tier, arm, net, what `landscape` gives, the indices of `invariance`
        (mean over layers, and with ` last` the last layer but one), `seen_psnr` and `unseen_psnr`.
    correlations: of each with `unseen_psnr`, given `seen_psnr` and the tier (see `partial_correlations`);
        empty where there are too few nets.
    """

    nets: pd.DataFrame
    correlations: pd.DataFrame


def explain_study(
    folder: str | Path,
    data: Data,
    distort: Any = None,
    *,
    crop: int = 96,
    limit: int = 16,
    seed: int = 0,
    trust_code: bool = False,
    device: str = "auto",
    tell: Callable[[str], None] = lambda line: None,
) -> Explanations:
    """Measure the nets of a study or a comparison that its test measured, or the checkpoints of a run.

    Args:
        folder: of a study, a comparison or a run; of a run, the checkpoints it has archived, whose PSNR is
            taken on the crops.
        data: clean images.
        distort: of the indices of invariance; by default those that each net was measured on.
        crop, limit: side of the centre crops, and how many at most.
        seed: of the distortions' randomness and of the random perturbations.

    Raises:
        UsageError: no measured net in the folder.
    """
    folder = Path(folder)
    found_places = (_place(path, folder) for path in sorted(folder.rglob("rows.json")))
    places = [place for place in found_places if place is not None]
    if not places and distort is not None:
        archived = sorted((folder / "checkpoints").glob("step-*.safetensors"))
        places = [({"net": path.stem}, path, None) for path in archived]
    if not places:
        raise UsageError(
            "there is no net to measure",
            where=folder,
            expected="a study or a comparison; or, with --distort, a run that archives checkpoints",
        )
    lines = []
    for k, (named, path, rows) in enumerate(places):
        tell(f"{k + 1} of {len(places)}: {', '.join(str(part) for part in named.values() if part != '')}")
        (net,) = open_nets({str(named["net"]): str(path)}, pick_device(device), trust_code=trust_code)
        plan = {} if rows is None else rows.attrs[SETTINGS]["compared"]
        how: dict[str, Any] = {"crop": crop, "limit": limit, "seed": seed, "clip": plan.get("clip", True)}
        try:
            found = invariance(net, data, distort or plan["distort"], device=device, **how)
            line = {**named, **landscape(net, data, trust_code=trust_code, **how)}
        except UsageError as error:  # a net that must be told the degree, or a foreign one
            tell(f"left out: {error}")
            continue
        last = found.layers[found.layers["depth"] == found.layers["depth"].max() - 1]
        own = found.nets.iloc[0]
        line |= {name: float(found.layers[name].mean()) for name in INDICES}
        line |= {f"{name} last": float(last[name].mean()) for name in INDICES}
        line["equivariance_defect"] = own["equivariance_defect"]
        line |= dict(own[["seen_psnr", "unseen_psnr"]]) if rows is None else _psnr(rows)
        lines.append(line)
    if not lines:
        raise UsageError("not one net could be measured", where=folder)
    nets = pd.DataFrame(lines)
    columns = [*LANDSCAPE, *INDICES, *(f"{name} last" for name in INDICES), "equivariance_defect"]
    groups = "tier" if "tier" in nets and nets["tier"].nunique() > 1 else None
    try:
        correlations = partial_correlations(nets, columns, groups=groups)
    except UsageError as error:  # too few nets
        tell(str(error))
        correlations = pd.DataFrame()
    return Explanations(nets, correlations)


def landscape(
    net: Net,
    data: Data,
    *,
    crop: int = 96,
    limit: int = 16,
    seed: int = 0,
    clip: bool = True,
    radius: float = RADIUS,
    directions: int = 4,
    trust_code: bool = False,
) -> dict[str, float]:
    """Where a net lies in the landscape of its own loss, on the distortions that it was trained on.

    Args:
        trust_code: whether a loss that loads the weights of another net may be taken (`perceptual`).

    Returns:
        `loss`, its mean over distortions and images; `weights`, |theta|; `distance`, |theta - theta_0| from
        the weights that its recipe starts from, as a share of |theta_0|; `gradient_norm`; `gradient_cosine`,
        the mean over pairs of distortions; `step_noise`, the variance over images of the pooled gradient
        over the square of its mean (one over the signal-to-noise ratio of a step on one image);
        `sharpness`, the rise of the loss as a share of it under a random perturbation of length
        `radius * |theta|`, mean over `directions`; `sharpness_ascent`, the same along the gradient.

    Raises:
        UsageError: a net without a recipe, as a foreign one; a loss that is not trusted.
    """
    if net.module is None or net.trained is None or "recipe" not in net.metadata:
        raise UsageError("only a net with its recipe says where it started", found=net.label)
    module, recipe = net.module, Recipe.model_validate(net.metadata["recipe"], by_alias=True, by_name=True)
    if not trust_code and any(name == "perceptual" for _, name in parse_loss(recipe.loss)):
        raise UsageError(
            "its loss would load the weights of another net, 548 MB",
            where=net.label,
            found=recipe.loss,
            remedy="--trust-code (trust_code=True), if that may be",
        )
    clean, views = _views(net, data, crop, limit, Degradation(seed, clip, False))
    measured = loss_of(recipe.loss)
    parameters = [p for p in module.parameters() if p.requires_grad]

    def loss(image: slice = slice(None)) -> Tensor:
        return torch.stack([measured(module(v[image]), clean[image]) for v in views.values()]).mean()

    each = [_flat(gradient(loss(slice(k, k + 1)), parameters)) for k in range(len(clean))]
    mean = torch.stack(each).mean(0)
    noise = torch.stack([(g - mean).square().sum() for g in each]).sum() / max(1, len(each) - 1)
    theta = _flat(parameters)
    start = _flat([p for p in _start(recipe).parameters() if p.requires_grad]).to(theta)
    length = radius * theta.norm()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        base = float(loss())

        def rise(direction: Tensor) -> float:
            moved = theta + length * direction / direction.norm()
            _put(parameters, moved)
            return float(loss()) / base - 1

        try:
            drawn = [torch.randn(len(theta), generator=random).to(theta) for _ in range(directions)]
            sharpness, ascent = float(np.mean([rise(d) for d in drawn])), rise(mean)
        finally:
            _put(parameters, theta)
    return {
        "loss": base,
        "weights": float(theta.norm()),
        "distance": float((theta - start).norm() / start.norm()),
        "gradient_norm": float(mean.norm()),
        "gradient_cosine": gradient_agreement(module, views, clean) if len(views) > 1 else float("nan"),
        "step_noise": float(noise / mean.square().sum()),
        "sharpness": sharpness,
        "sharpness_ascent": ascent,
    }


def _views(
    net: Net, data: Data, crop: int, limit: int, degrade: Degradation
) -> tuple[Tensor, dict[str, Tensor]]:
    """Centre crops, and what they are under each distortion the net was trained on."""
    clean = centre_crops(data, crop, limit)
    if len(clean) < 2:
        raise UsageError("at least two images are needed", expected=f"images of at least {crop}x{crop}")
    views = {w.label: to_tensor([degrade(x, w) for x in clean], net.device) for w in net.trained or ()}
    return to_tensor(clean, net.device), views


def _start(recipe: Recipe) -> nn.Module:
    """The net as its recipe starts it (see `dilkit.training.assemble`); what code of its own it has was run
    when the trained net was opened."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = from_config(recipe.model, trust="code")
    if recipe.init is not None:
        initialise(net, recipe.init)
    return net


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors]).double()


def _put(parameters: Sequence[Tensor], flat: Tensor) -> None:
    parts = flat.split([p.numel() for p in parameters])
    for p, part in zip(parameters, parts, strict=True):
        p.copy_(part.view_as(p))


def _place(path: Path, folder: Path) -> tuple[dict[str, Any], Path, pd.DataFrame | None] | None:
    """What a measured run is called, its checkpoint, and its rows: TIER/ARM/SETTINGS/seed-N/rows.json; None
    for rows that no comparison has measured."""
    rows, run = read_rows(path), path.parent
    parts = run.relative_to(folder).parts
    if len(parts) < 3 or "compared" not in rows.attrs.get(SETTINGS, {}):
        return None
    *tier, arm, label, seed = parts
    named = {"tier": "/".join(tier), "arm": arm, "net": f"{label}/{seed}"}
    (source,) = (each["source"] for each in rows.attrs[SETTINGS]["nets"].values())
    return named, run / "checkpoints" / Path(source).name, rows


def _psnr(rows: pd.DataFrame) -> Mapping[str, float]:
    distorted = rows[rows["type"] != "clean"]
    seen = distorted["novelty"] == "seen"
    means = distorted.groupby("distortion")["psnr"].mean()
    kinds = {"seen_psnr": seen, "unseen_psnr": ~seen}
    return {n: float(means[distorted.loc[k, "distortion"].unique()].mean()) for n, k in kinds.items()}
