"""Histograms of oriented gradients (Dalal and Triggs 2005) as targets: MaskFeat (Wei et al. 2022), *Target Features*.

Shapes: B images, C channels, H side in pixels, N patches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from mae_lite.config import HOG_BINS, HOG_CELLS

_EPS = 1e-6
"""Below this length a histogram counts as empty; one step of 8-bit pixels gives a thousand times as much."""


@torch.no_grad()
def hog_targets(images: Tensor, patch_size: int) -> Tensor:
    """Return the histograms of every patch; inside a patch the order is cell row, cell column, channel, bin.

    Each pixel votes with the length of its gradient (differences of its neighbours; 0 across the border of the image)
    for the bin of its direction, from 0 to 180 degrees. A channel of a cell is a histogram of its own and has length
    1, or 0 where nothing changes. So the mean and deviation that each channel was normalised with drop out: these are
    the histograms of the pixels themselves.

    Args:
        images: [B, C, H, H], normalised per channel or not.
        patch_size: side of a patch in pixels, a multiple of the cells along it.

    Returns:
        [B, N, cells² · C · bins] float32.
    """
    pixels = images.float()
    across, down = torch.zeros_like(pixels), torch.zeros_like(pixels)
    across[..., 1:-1] = pixels[..., 2:] - pixels[..., :-2]
    down[..., 1:-1, :] = pixels[..., 2:, :] - pixels[..., :-2, :]
    length = torch.sqrt(across.square() + down.square())
    # -180 degrees to 180; opposite directions are one, and what rounds to 180 is 0.
    bins = (torch.atan2(down, across) * (HOG_BINS / math.pi)).remainder(HOG_BINS).floor().remainder(HOG_BINS)
    cell = patch_size // HOG_CELLS
    # A bin at a time: adding up into bins by index is not deterministic on a GPU.
    votes = [avg_pool2d(torch.where(bins == number, length, 0.0), cell) for number in range(HOG_BINS)]
    histograms = torch.stack(votes, dim=-1)  # [B, C, H / cell, H / cell, bins]
    units = histograms / histograms.norm(dim=-1, keepdim=True).clamp_min(_EPS)
    batch, channels, cells, _, _ = units.shape
    grid = cells // HOG_CELLS
    cut: Tensor = units.reshape(batch, channels, grid, HOG_CELLS, grid, HOG_CELLS, HOG_BINS)
    return cut.permute(0, 2, 4, 3, 5, 1, 6).reshape(batch, grid * grid, HOG_CELLS**2 * channels * HOG_BINS)
