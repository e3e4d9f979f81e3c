"""Synthetic scenes are made from their seed alone."""

from __future__ import annotations

import numpy as np
import pytest

from dilkit.confounders.images import expand
from dilkit.confounders.scenes import scene
from dilkit.errors import UsageError


def test_a_scene_is_a_function_of_seed_index_and_size() -> None:
    first = scene(0, 3, 64)
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert (first == scene(0, 3, 64)).all()
    for other in (scene(1, 3, 64), scene(0, 4, 64)):
        assert (first != other).mean() > 0.5


def test_scenes_have_edges_and_texture() -> None:
    images = np.stack([scene(0, i, 96) for i in range(6)]).astype(float)
    assert images.std() > 25
    assert np.median(np.abs(np.diff(images, axis=2))) > 0


def test_the_source_names_them() -> None:
    [first, second] = expand(["scenes:2@48"], seed=5)
    assert (first.name, second.name) == ("scenes/000000", "scenes/000001")
    assert first.licence.startswith("CC0")
    assert first.header().height == 48
    assert (first.load("refuse") == scene(5, 0, 48)).all()
    with pytest.raises(UsageError, match="not a synthetic source"):
        expand(["scenes:none"])


def test_leaves_and_scenes_of_one_index_are_two_images() -> None:
    assert len({image.name for image in expand(["deadleaves:2", "scenes:2"])}) == 4


def test_the_free_samples_have_licences_and_are_not_those_of_the_test() -> None:
    free = {image.name: image.licence for image in expand(["samples:free"])}
    assert all(licence.startswith(("CC0", "public domain")) for licence in free.values())
    assert not free.keys() & {image.name for image in expand(["samples:test"])}
