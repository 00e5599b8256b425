"""Pictures of what a model makes of images: its patch tokens as colours, and where its class token looks.

Shapes: P pictures, N patches, h x w the grid, D width, H side in pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mae_lite.evaluation.preview import sheet

Pixels = npt.NDArray[np.uint8]
_TAIL = 0.02
"""Share of the values at either end that lose their differences, so that a few odd patches do not take all colours."""


def tokens_as_colours(tokens: Tensor) -> tuple[Tensor, float]:
    """Return the first three principal components of patch tokens as red, green and blue, 0 to 1.

    Args:
        tokens: [P, N, D]; the components are those of all P pictures together.

    Returns:
        [P, N, 3] (with zeros, where there are fewer than three components), and the share of the variance that they
        hold.
    """
    flat = tokens.flatten(0, 1).double()
    flat = flat - flat.mean(dim=0)
    _, singular, axes = torch.linalg.svd(flat, full_matrices=False)
    axes = axes[:3] * axes[:3].sum(dim=1, keepdim=True).sign()  # a component has no sign of its own
    found = torch.zeros(len(flat), 3, dtype=torch.float64)
    found[:, : len(axes)] = flat @ axes.T
    variance = singular.square()
    share = float(variance[:3].sum() / variance.sum().clamp_min(torch.finfo(torch.float64).tiny))
    low, high = torch.quantile(found, torch.tensor([_TAIL, 1 - _TAIL], dtype=torch.float64), dim=0)
    return ((found - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).reshape(*tokens.shape[:2], 3), share


def tokens_png(images: Pixels, tokens: Tensor, grid: tuple[int, int]) -> tuple[bytes, float]:
    """Return a PNG of the images above their tokens' colours, and the share of variance that the colours hold.

    Args:
        images: [P, C, H, H].
        tokens: [P, N, D].
        grid: h and w, N = h w.
    """
    colours, share = tokens_as_colours(tokens.cpu())
    return sheet([_shown(images), _enlarged(_bytes(colours), grid, images.shape[-1])]), share


def attention_png(images: Pixels, maps: list[Tensor], grid: tuple[int, int]) -> bytes:
    """Return a PNG of the images above what each patch gets of the class token's attention, a row for each map.

    Args:
        images: [P, C, H, H].
        maps: [P, N] each; in each picture the brightest patch is the one with the largest share.
        grid: h and w, N = h w.
    """
    rows = [_shown(images)]
    for shares in maps:
        scaled = shares / shares.amax(dim=1, keepdim=True).clamp_min(1e-12)
        rows.append(_enlarged(_bytes(_heat(scaled.cpu())), grid, images.shape[-1]))
    return sheet(rows)


def _heat(values: Tensor) -> Tensor:
    """Return a colour [P, N, 3] for each value of 0 to 1, of the scale that heat maps have."""
    from matplotlib import colormaps

    return torch.from_numpy(colormaps["magma"](values.numpy())[..., :3])


def _bytes(values: Tensor) -> Pixels:
    found: Pixels = (values * 255).round().to(torch.uint8).numpy()
    return found


def _enlarged(colours: Pixels, grid: tuple[int, int], side: int) -> Pixels:
    """Lay [P, N, 3] out as pictures [P, H, H, 3]."""
    squares = colours.reshape(len(colours), *grid, 3)
    for axis, count in enumerate(grid, start=1):
        squares = squares.take(np.arange(side) * count // side, axis=axis)
    return squares


def _shown(images: Pixels) -> Pixels:
    """Return images [P, C, H, H] as [P, H, H, 3]: of more than three channels the first three, else the first."""
    chosen = images[:, :3] if images.shape[1] >= 3 else images[:, :1].repeat(3, axis=1)
    return chosen.transpose(0, 2, 3, 1)
