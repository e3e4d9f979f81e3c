"""Tiled equals untiled on a net that looks no farther than the halo."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dilkit.errors import UsageError
from dilkit.inference.forward import Tiling, pad_to_multiple, restore_batch, restore_image, restore_tiled


class Local(nn.Module):
    """A fixed random convolution of radius 3."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 7, padding=3, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@given(
    length=st.integers(1, 300), tile=st.integers(20, 90), halo=st.integers(0, 5), feather=st.integers(1, 5)
)
@settings(max_examples=100, deadline=None)
def test_weights_add_up_to_one(length: int, tile: int, halo: int, feather: int) -> None:
    total = np.zeros(length)
    for s in Tiling(tile, halo, feather).segments(length):
        assert 0 <= s.first <= s.low < s.high <= s.last <= length
        assert s.last - s.first <= tile or s.last == length
        total[s.low : s.high] += s.weights(1)
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(70, 95), (64, 64), (33, 200), (10, 12), (49, 50)])
def test_tiled_equals_untiled(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((*shape, 3)).astype(np.float32)
    whole = restore_image(Local(), image)
    tiled = restore_image(Local(), image, tiling=Tiling(32, 4, 4))
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_a_halo_that_is_too_small_shows() -> None:
    image = np.random.default_rng(0).random((70, 70, 3)).astype(np.float32)
    tiled = restore_image(Local(), image, tiling=Tiling(32, 0, 4))
    assert np.abs(tiled - restore_image(Local(), image)).max() > 1e-3


def test_bands_come_in_order_with_a_scale() -> None:
    image = np.random.default_rng(0).random((50, 41, 3)).astype(np.float32)
    bands = list(
        restore_tiled(
            lambda y, x: image[y, x], lambda p: p.repeat(2, 0).repeat(2, 1), (50, 41), Tiling(20, 2, 4)
        )
    )
    assert [first for first, _ in bands] == np.cumsum([0, *(len(b) for _, b in bands)])[:-1].tolist()
    np.testing.assert_allclose(
        np.concatenate([b for _, b in bands]), image.repeat(2, 0).repeat(2, 1), atol=1e-6
    )


def test_sides_are_padded_to_what_the_net_needs() -> None:
    class Halving(nn.Module):
        multiple = 8

        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[-1] % 8 == x.shape[-2] % 8 == 0
            return x

    x = torch.rand(1, 3, 13, 18)
    assert torch.equal(restore_batch(Halving(), x), x)
    assert torch.equal(pad_to_multiple(x, 8)[..., :13, 18:], x[..., 11:17].flip(-1))


def test_tiles_too_small_are_refused() -> None:
    with pytest.raises(UsageError, match="too small"):
        Tiling(32, 16, 4)
