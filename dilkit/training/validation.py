"""PSNR along the way, on seen distortions and on one that is held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from dilkit.confounders.duplicates import SeenImages, perceptual_hash
from dilkit.confounders.images import expand
from dilkit.confounders.store import Store
from dilkit.distortions import ConfounderSet, Image, SampleKey, Word, as_float, confounder_set, pixel_hash
from dilkit.errors import UsageError
from dilkit.metrics import Channel, psnr
from dilkit.models.noise_map import NoiseMap
from dilkit.recipe import Recipe
from dilkit.training.assemble import degrees_told

if TYPE_CHECKING:
    from dilkit.recipe.schema import Validate

_SEED = 20230622
"""Of validation noise: other than any run's seed is likely to be, and the same for all runs."""


@dataclass(frozen=True)
class Pair:
    distorted: Image
    clean: Image


@dataclass(frozen=True)
class Validation:
    """Centre crops under fixed draws of the seen and the held-out distortions."""

    seen: dict[str, list[Pair]]
    held_out: dict[str, list[Pair]]
    channel: Channel
    border: int
    select: str
    seen_images: SeenImages
    """The images themselves, for the record of what a checkpoint was selected by."""
    degrees: Mapping[str, float]
    """By label, what a net of `model.noise_map` is told; of others, nothing."""

    @classmethod
    def of(cls, recipe: Recipe, store: Store, labels: Sequence[str]) -> Validation | None:
        """What the recipe's `validate` section declares; None where it has none.

        Raises:
            UsageError: no images, or no one degree to tell the net.
        """
        plan = recipe.validation
        if plan is None:
            return None
        seen = ConfounderSet.of(store.word(label) for label in labels)
        held_out = confounder_set(plan.held_out) if plan.held_out is not None else ConfounderSet.of(())
        images, looks = _images(plan, store)
        pairs = [{w.label: [_pair(w, x) for x in images] for w in words} for words in (seen, held_out)]
        degrees = degrees_told([*seen, *held_out]) if recipe.model.noise_map else {}
        return cls(pairs[0], pairs[1], recipe.test.channel, recipe.test.border, plan.select, looks, degrees)

    def measure(
        self,
        net: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[dict[str, float], dict[str, Image]]:
        """Mean PSNR in dB: `val/<label>` each, `val/seen`, `val/held_out`, and `val/select`; and, by label,
        input, output and clean image of the first pair side by side, (H, W, 3) uint8."""
        row, pictures = {}, {}
        total = sum(len(pairs) for words in (self.seen, self.held_out) for pairs in words.values())
        done = 0
        training = net.training
        net.eval()
        try:
            for group, words in (("seen", self.seen), ("held_out", self.held_out)):
                for label, pairs in words.items():
                    values = []
                    if isinstance(net, NoiseMap):
                        net.degree = self.degrees[label]
                    for pair in pairs:
                        batch = torch.from_numpy(pair.distorted.transpose(2, 0, 1)[None].copy())
                        with torch.no_grad():
                            output = net(batch.to(device, dtype))
                        restored = output[0].float().cpu().numpy().transpose(1, 2, 0)
                        values.append(psnr(restored, pair.clean, channel=self.channel, border=self.border))
                        if label not in pictures:
                            pictures[label] = _side_by_side(pair.distorted, restored, pair.clean)
                        progress(done := done + 1, total)
                    row[f"val/{label}"] = float(np.mean(values))
                if words:
                    row[f"val/{group}"] = float(np.mean([row[f"val/{label}"] for label in words]))
        finally:
            net.train(training)
        return {**row, "val/select": row[f"val/{self.select}"]}, pictures


def _side_by_side(*images: Image) -> Image:
    """Images of one height, or whole fractions of it, with a white line between them, as uint8."""
    height = max(image.shape[0] for image in images)
    parts = [image.repeat(height // len(image), 0).repeat(height // len(image), 1) for image in images]
    line = np.ones((height, 4, 3), np.float32)
    whole = np.concatenate([parts[0], line, parts[1], line, parts[2]], 1)
    return np.asarray(np.rint(whole.clip(0, 1) * 255), np.uint8)


def _images(plan: Validate, store: Store) -> tuple[list[Image], SeenImages]:
    """The centre crops to measure on, and what the images that they are of look like."""
    if plan.images is not None:
        found = [as_float(image.load("refuse")) for image in expand(plan.images)[: plan.limit]]
        looks = SeenImages([perceptual_hash(image) for image in found])
    else:
        if "validation" not in store.index["split"].astype(str):
            raise UsageError(
                "the store has no items of the split `validation`",
                where="validate.images",
                remedy="name images in validate.images, or make the store with --validation 0.1",
            )
        found = [as_float(store.clean(int(i))) for i in store.items("validation")[: plan.limit]]
        looks = store.seen_images("validation")
    if not found:
        raise UsageError("there is no image to validate on", where="validate.images", found=plan.images)
    return [_centre(image, plan.crop) for image in found], looks


def _centre(image: Image, side: int) -> Image:
    h, w = (min(side, n) // 8 * 8 for n in image.shape[:2])
    y, x = (image.shape[0] - h) // 2, (image.shape[1] - w) // 2
    return np.ascontiguousarray(image[y : y + h, x : x + w])


def _pair(word: Word, clean: Image) -> Pair:
    return Pair(word.apply(clean, SampleKey(_SEED, pixel_hash(clean))), clean)
