"""Maps of several resolutions from a plain Vision Transformer, for detection and segmentation.

The simple feature pyramid of ViTDet (Li et al. 2022, arXiv:2203.16527, section 3 and appendix A.2): every level is made
of the encoder's last map alone, by transposed convolutions or by pooling. Shapes: B images, C channels, H x W pixels,
p side of a patch, h x w = H / p x W / p patches, D width of a token, O channels of the pyramid.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
from timm.layers.format import Format
from timm.layers.norm import LayerNorm2d
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae_lite import draws
from mae_lite.errors import ConfigError
from mae_lite.models.relative import has_tables

SCALES = (4.0, 2.0, 1.0, 0.5)
"""Sizes of ViTDet's levels, as multiples of the patch grid."""


def oddity(model: nn.Module) -> str | None:
    """Return why a model has no map that a pyramid could be made of; None for a Vision Transformer of any size."""
    if not isinstance(model, VisionTransformer) or type(model.patch_embed) is not PatchEmbed:
        return f"{type(model).__name__}, which has no single map of patches behind a patch projection"
    if has_tables(model.state_dict()):
        return "relative positions, which belong to one size of image"
    down, across = model.patch_embed.patch_size
    return None if down == across else f"patches of {down} x {across} pixels"


class Pyramid(nn.Module):
    """A plain Vision Transformer with a simple feature pyramid; torchvision's detectors take it as ``backbone``."""

    transform: Any
    """What makes an input of an image; its ``mean`` and ``std`` normalise. Set by whoever knows the source."""

    def __init__(
        self,
        encoder: Any,
        channels: int = 256,
        scales: Sequence[float] | None = None,
        *,
        freeze: bool = False,
        seed: int = 0,
    ) -> None:
        """Take over ``encoder``, which from now on accepts images of any size, and build the levels.

        Args:
            encoder: a timm Vision Transformer without :func:`oddity`.
            channels: O.
            scales: sizes of the levels as multiples of the patch grid, from :data:`SCALES`, finest first; None takes
                all of these that have a stride of whole pixels.
            freeze: whether the encoder keeps its weights and stays in eval mode.
            seed: decides the initial values of the levels.

        Raises:
            ConfigError: for channels and scales that cannot be.
        """
        super().__init__()
        patch = int(encoder.patch_embed.patch_size[0])
        chosen = _checked_scales(scales, patch)
        if channels < 1:
            raise ConfigError("channels", found=str(channels), expected="1 or more", fix="channels=256")
        self.patch_size, self.frozen, self.out_channels = patch, freeze, channels
        self.channels: tuple[int, ...] = (channels,) * len(chosen)
        """Channels of each level."""
        self.strides: tuple[int, ...] = tuple(round(patch / scale) for scale in chosen)
        """Pixels of the image, along one side, that a place of each level stands for."""
        self.encoder = _of_any_size(encoder)
        if freeze:
            self.encoder.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draws.key(seed, "init pyramid") >> 1)
            self.levels = nn.ModuleList(_level(int(encoder.embed_dim), channels, scale) for scale in chosen)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but a frozen encoder."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def last_map(self, images: Tensor) -> Tensor:
        """Return the patch tokens of the last block, after the final norm where there is one.

        Positions are interpolated (bicubic) where the images are not of the size that the encoder was trained with.

        Args:
            images: [B, C, H, W], normalised.

        Returns:
            [B, D, h, w].

        Raises:
            ConfigError: for images with other channels, or with sides that are not multiples of the patch.
        """
        self._check(images)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps: list[Tensor] = self.encoder.forward_intermediates(images, 1, norm=True, intermediates_only=True)
        return maps[0]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Return the levels, finest first, under the names "0", "1", ...

        Args:
            images: [B, C, H, W], normalised; H and W multiples of the patch.

        Returns:
            Level i is [B, O, ceil(H / s), ceil(W / s)], where s is ``strides[i]``.

        Raises:
            ConfigError: as :meth:`last_map` does.
        """
        last = self.last_map(images)
        return OrderedDict((str(number), level(last)) for number, level in enumerate(self.levels))

    def _check(self, images: Tensor) -> None:
        wanted, patch = self.encoder.patch_embed.proj.in_channels, self.patch_size
        if images.ndim != 4 or images.shape[1] != wanted:
            raise ConfigError(
                "the images for the pyramid",
                found=f"a tensor {list(images.shape)}",
                expected=f"[B, {wanted}, H, W], with the channels that the encoder was trained on",
                fix=f"give a batch of images of {wanted} channels, images.unsqueeze(0) for a single one",
            )
        height, width = images.shape[2:]
        if not height or not width or height % patch or width % patch:
            up = [max(-(-side // patch), 1) * patch for side in (height, width)]
            raise ConfigError(
                "the size of the images for the pyramid",
                found=f"{height} x {width} pixels",
                expected=f"sides that are multiples of the patch, {patch} pixels",
                fix=f"pad or resize them, for instance to {up[0]} x {up[1]}",
            )


def _of_any_size(encoder: Any) -> Any:
    """Set what ``timm.create_model(..., dynamic_img_size=True)`` sets, in a model that exists."""
    encoder.dynamic_img_size = True
    encoder.patch_embed.strict_img_size = False
    encoder.patch_embed.flatten, encoder.patch_embed.output_fmt = False, Format.NHWC
    return encoder


def _checked_scales(scales: Sequence[float] | None, patch: int) -> tuple[float, ...]:
    possible = tuple(scale for scale in SCALES if patch % scale == 0)
    chosen = possible if scales is None else tuple(map(float, scales))
    falling = all(before > after for before, after in pairwise(chosen))
    if not chosen or not falling or not set(chosen) <= set(possible):
        raise ConfigError(
            "scales",
            found=str(scales),
            expected=f"some of {possible}, largest first: those with a stride of whole pixels at a patch of {patch}",
            fix=f"scales={possible}",
        )
    return chosen


def _level(width: int, channels: int, scale: float) -> nn.Sequential:
    """Return what makes [B, O, scale h, scale w] of the last map [B, D, h, w]."""
    half, quarter = max(width // 2, 1), max(width // 4, 1)
    resize: list[nn.Module]
    if scale == 4:
        resize = [nn.ConvTranspose2d(width, half, 2, 2), LayerNorm2d(half), nn.GELU()]
        resize.append(nn.ConvTranspose2d(half, quarter, 2, 2))
    elif scale == 2:
        resize = [nn.ConvTranspose2d(width, half, 2, 2)]
    elif scale == 1:
        resize = []
    else:
        resize = [nn.MaxPool2d(2, ceil_mode=True)]  # a last odd row is kept
    entering = {4.0: quarter, 2.0: half}.get(scale, width)
    output: list[nn.Module] = [nn.Conv2d(entering, channels, 1, bias=False), LayerNorm2d(channels)]
    output += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), LayerNorm2d(channels)]
    return nn.Sequential(*resize, *output)
