"""Is the representation invariant? Indices per layer, with the PSNR beside them, for a collapsed net scores
perfectly on every one of them.

For each layer, features are the means over a coarse grid of cells, of the same contents under every
distortion: an array (contents, distortions, features).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from dilkit.devices import pick_device
from dilkit.distortions import ConfounderSet, as_float, confounder_set
from dilkit.distortions.novelty import novelty
from dilkit.errors import UsageError
from dilkit.evaluation.degrade import Degradation
from dilkit.evaluation.testsets import Data, find_images
from dilkit.inference.forward import to_tensor
from dilkit.inference.nets import Nets, open_nets
from dilkit.metrics import psnr

Floats = npt.NDArray[np.float64]
CELLS = 4
"""Features are means over a 4 x 4 grid of each channel."""
INDICES = ("cosine", "cka", "by_distortion", "by_content", "probe")


@dataclass(frozen=True)
class Invariance:
    """Attributes:
    layers: per net and layer, the indices of `INDICES`.
    nets: per net, the gradient agreement, the equivariance defect, and PSNR on the distortions trained on
        (`seen_psnr`) and on the others (`unseen_psnr`).
    """

    layers: pd.DataFrame
    nets: pd.DataFrame


def invariance(
    nets: Nets,
    data: Data,
    distort: Any,
    *,
    crop: int = 96,
    limit: int = 32,
    seed: int = 0,
    clip: bool = True,
    trust_code: bool = False,
    device: str = "auto",
) -> Invariance:
    """Measure how much of the distortion the layers of nets still show.

    Args:
        nets: as `evaluate` takes them.
        data: clean images; the centre crop of each is one content.
        distort: at least two distortions.
        crop, limit: side of the crops, and how many at most.

    Raises:
        UsageError: fewer than two distortions or contents.
    """
    words = confounder_set(distort)
    chosen = pick_device(device)
    clean = centre_crops(data, crop, limit)
    if len(words) < 2 or len(clean) < 2:
        raise UsageError(
            "similarity needs at least two distortions and two images",
            found=f"{len(words)} distortions, {len(clean)} images of at least {crop}x{crop}",
        )
    degrade = Degradation(seed, clip, False)
    views = {w.label: to_tensor([degrade(x, w) for x in clean], chosen) for w in words}
    target = to_tensor(clean, chosen)
    layers, whole = [], []
    for net in open_nets(nets, chosen, trust_code=trust_code):
        if net.module is None:
            raise UsageError("the input itself has no layers")
        features, outputs = features_of(net.module, views)
        for k, (layer, values) in enumerate(features.items()):
            layers.append({"net": net.label, "depth": k, "layer": layer, **indices(values)})
        whole.append(
            {
                "net": net.label,
                "gradient_cosine": gradient_agreement(net.module, views, target),
                "equivariance_defect": equivariance_defect(net.module, next(iter(views.values()))),
                **_psnr(outputs, clean, words, net.trained),
            }
        )
    return Invariance(pd.DataFrame(layers), pd.DataFrame(whole))


def centre_crops(data: Data, side: int, limit: int) -> list[npt.NDArray[np.float32]]:
    """The centre of each of the first `limit` images, of those that are large enough."""
    images = [as_float(image.read()) for image in find_images(data)[:limit]]
    large = [x for x in images if min(x.shape[:2]) >= side]
    corners = [((x.shape[0] - side) // 2, (x.shape[1] - side) // 2) for x in large]
    return [x[i : i + side, j : j + side] for x, (i, j) in zip(large, corners, strict=True)]


@torch.inference_mode()
def features_of(
    module: nn.Module, views: Mapping[str, Tensor], batch: int = 8
) -> tuple[dict[str, Floats], dict[str, Tensor]]:
    """By layer, (contents, distortions, features); and the outputs by distortion, (B, 3, H, W)."""
    found: dict[str, list[list[Floats]]] = {}
    outputs = {}
    for label, view in views.items():
        parts: dict[str, list[Floats]] = {}
        restored = []
        for part in view.split(batch):
            with _hooked(module) as caught:
                restored.append(module(part).clamp(0, 1).cpu())
            for name, x in caught.items():
                parts.setdefault(name, []).append(x)
        outputs[label] = torch.cat(restored)
        for name, pieces in parts.items():
            found.setdefault(name, []).append(list(np.concatenate(pieces)))
    stacked = {name: np.swapaxes(np.array(values), 0, 1) for name, values in found.items()}
    return stacked, outputs


@contextmanager
def _hooked(module: nn.Module) -> Iterator[dict[str, Floats]]:
    """The outputs of all convolutions and linear layers of one forward pass, coarsely pooled."""
    caught: dict[str, Floats] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[-2:]) >= CELLS:
                pooled = nn.functional.adaptive_avg_pool2d(output.float(), CELLS)
                caught[name] = pooled.flatten(1).double().cpu().numpy()

        return hook

    handles = [
        layer.register_forward_hook(keep(name))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    ]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def indices(features: Floats) -> dict[str, float]:
    """The indices of one layer, from (contents, distortions, features).

    cosine, cka: similarity of the same contents under two distortions, mean over pairs (1: invariant).
    by_distortion, by_content: Calinski-Harabasz index of the groups that the distortions, or the contents,
        form (an invariant layer has a low first and a high second).
    probe: accuracy of a ridge classifier for the distortion, cross-validated over contents (chance:
        invariant).
    """
    contents, distortions, size = features.shape
    flat = features.reshape(-1, size)
    kind = np.tile(np.arange(distortions), contents)
    content = np.repeat(np.arange(contents), distortions)
    pairs = [(a, b) for a in range(distortions) for b in range(a)]
    return {
        "cosine": float(np.mean([_cosine(features[:, a], features[:, b]) for a, b in pairs])),
        "cka": float(np.mean([cka(features[:, a], features[:, b]) for a, b in pairs])),
        "by_distortion": calinski_harabasz(flat, kind),
        "by_content": calinski_harabasz(flat, content),
        "probe": probe_accuracy(features),
    }


def _cosine(a: Floats, b: Floats) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(norms, 1e-12)).mean())


def cka(a: Floats, b: Floats) -> float:
    """Linear centred kernel alignment (Kornblith et al., ICML 2019) of (n, p) and (n, q)."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    k, l = a @ a.T, b @ b.T
    norm = np.linalg.norm(k) * np.linalg.norm(l)
    return float((k * l).sum() / norm) if norm > 0 else 1.0


def calinski_harabasz(x: Floats, labels: npt.NDArray[np.int_]) -> float:
    """Between-group over within-group variance, each per degree of freedom (Calinski and Harabasz, 1974)."""
    names = np.unique(labels)
    centre = x.mean(axis=0)
    groups = [x[labels == name] for name in names]
    between = sum(len(g) * float(((g.mean(axis=0) - centre) ** 2).sum()) for g in groups)
    within = sum(float(((g - g.mean(axis=0)) ** 2).sum()) for g in groups)
    if within == 0:
        return float("inf") if between > 0 else 0.0
    return between / within * (len(x) - len(names)) / (len(names) - 1)


def probe_accuracy(features: Floats, folds: int = 4, ridge: float = 1.0) -> float:
    """Accuracy of a linear (ridge) classifier of the distortion on contents it was not fitted on."""
    contents, distortions, size = features.shape
    folds = min(folds, contents)
    hits = 0
    for fold in range(folds):
        held = np.arange(contents) % folds == fold
        train, test = features[~held].reshape(-1, size), features[held].reshape(-1, size)
        mean, scale = train.mean(axis=0), train.std(axis=0) + 1e-9
        train, test = (train - mean) / scale, (test - mean) / scale
        wanted = np.tile(np.eye(distortions), ((~held).sum(), 1)) - 1 / distortions
        kernel = train @ train.T
        dual = np.linalg.solve(kernel + ridge * size * np.eye(len(train)), wanted)
        guess = (test @ train.T @ dual).argmax(axis=1)
        hits += int((guess == np.tile(np.arange(distortions), held.sum())).sum())
    return hits / (contents * distortions)


def gradient_agreement(module: nn.Module, views: Mapping[str, Tensor], clean: Tensor) -> float:
    """Mean cosine between the gradients (L1, all parameters) of every two distortions."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        return float("nan")
    gradients = []
    for view in views.values():
        loss = (module(view) - clean).abs().mean()
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients.append(torch.cat([g.flatten() for g in grads if g is not None]).double())
    unit = torch.stack([g / g.norm().clamp_min(1e-30) for g in gradients])
    cosines = unit @ unit.T
    count = len(gradients)
    return float((cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1)))


@torch.inference_mode()
def equivariance_defect(
    module: nn.Module, y: Tensor, gain: Sequence[float] = (0.5, 2.0), offset: Sequence[float] = (-0.1, 0.1)
) -> float:
    """Mean of |f(a y + b) - a f(y) - b| / |y| over gains and offsets (zero for an equivariant net)."""
    restored = module(y)
    found = [float((module(a * y + b) - a * restored - b).norm() / y.norm()) for a in gain for b in offset]
    return float(np.mean(found))


def rank_correlations(layers: pd.DataFrame, nets: pd.DataFrame, against: str = "unseen_psnr") -> pd.DataFrame:
    """Spearman's rank correlation, over nets, between each index (of the last but one layer, and of the mean
    over layers) and the PSNR, with its p-value. Columns index, layer, correlation, p, nets."""
    from scipy.stats import spearmanr  # kept out of start-up

    target = nets.set_index("net")[against]
    last = layers[layers["depth"] == layers.groupby("net")["depth"].transform("max") - 1].set_index("net")
    means = layers.groupby("net")[list(INDICES)].mean()
    series = {("last but one", name): last[name] for name in INDICES}
    series |= {("mean", name): means[name] for name in INDICES}
    own = nets.set_index("net")
    series |= {("net", name): own[name] for name in ("gradient_cosine", "equivariance_defect", "seen_psnr")}
    found = []
    for (layer, name), values in series.items():
        both = pd.concat([values, target], axis=1, keys=["a", "b"]).dropna()
        result = spearmanr(both["a"], both["b"])
        found.append(
            {
                "index": name,
                "layer": layer,
                "correlation": result.statistic,
                "p": result.pvalue,
                "nets": len(both),
            }
        )
    return pd.DataFrame(found)


def _psnr(
    outputs: Mapping[str, Tensor],
    clean: Sequence[npt.NDArray[np.float32]],
    words: ConfounderSet,
    trained: ConfounderSet | None,
) -> dict[str, float]:
    found: dict[str, list[float]] = {"seen_psnr": [], "unseen_psnr": []}
    for word in words:
        restored = outputs[word.label].permute(0, 2, 3, 1).numpy()
        value = float(np.mean([psnr(a, b) for a, b in zip(restored, clean, strict=True)]))
        seen = novelty(word, trained) in ("seen", "unknown")
        found["seen_psnr" if seen else "unseen_psnr"].append(value)
    return {name: float(np.mean(values)) if values else float("nan") for name, values in found.items()}
