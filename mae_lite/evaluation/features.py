"""Features of images: what an encoder makes of them, as one table, the same on all ranks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from mae_lite.data.loader import Batch, to_device
from mae_lite.data.sources import Indices
from mae_lite.errors import ConfigError

Values = npt.NDArray[np.float32]
Token = Literal["patches", "class"]


@dataclass(frozen=True)
class Features:
    """Features of n images in the order of their ids, D numbers each."""

    values: Values
    """[n, D] float32."""
    labels: Indices
    """[n] class numbers, -1 without labels."""
    ids: Indices
    """[n] position of each image in its source; images that could not be read are missing."""


@torch.no_grad()
def extract(
    encoder: Any,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    token: Token = "patches",
) -> Features:
    """Run an encoder in eval mode over whole images; nothing is hidden from it, however it was trained.

    Where torch.distributed is initialised, each rank brings its own batches and all return the same table, so that
    what is computed from it depends on the number of ranks through the rounding of the encoder alone.

    Args:
        encoder: a timm Vision Transformer or Swin transformer, in any mode; put back as it was.
        batches: uint8 images [B, C, H, H], as many or few as this rank has.
        device: where the encoder is.
        mean: [C] channel means of pixels in 0 to 1.
        std: [C] channel deviations of pixels in 0 to 1.
        token: "patches" takes the mean of the patch tokens after the final norm, "class" the class token there.

    Raises:
        ConfigError: when a class token is asked of an encoder without one.
    """
    prefix = getattr(encoder, "num_prefix_tokens", 0)
    if token == "class" and not prefix:
        raise ConfigError("this encoder has no class token", fix='take the mean of its tokens: "patches"')
    was_training = encoder.training
    encoder.eval()
    parts: list[tuple[Values, Indices, Indices]] = []
    for host in batches:
        tokens = encoder.forward_features(to_device(host, device, mean, std).images).float()  # [B, prefix + N, D]
        tokens = tokens.flatten(1, -2)  # Swin's are a map [B, h, h, D]
        pooled = tokens[:, 0] if token == "class" else tokens[:, prefix:].mean(dim=1)  # [B, D]
        parts.append((pooled.cpu().numpy(), host.labels.numpy(), host.ids.numpy()))
    encoder.train(was_training)
    return _in_order(_from_all_ranks(parts), encoder.num_features)


def _from_all_ranks(parts: list[tuple[Values, Indices, Indices]]) -> list[tuple[Values, Indices, Indices]]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return parts
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, parts)
    return [part for of_rank in gathered for part in of_rank]


def _in_order(parts: list[tuple[Values, Indices, Indices]], width: int) -> Features:
    nothing = np.empty(0, dtype=np.int64)
    values, labels, ids = zip((np.empty((0, width), dtype=np.float32), nothing, nothing), *parts, strict=True)
    order = np.argsort(np.concatenate(ids), kind="stable")
    return Features(np.concatenate(values)[order], np.concatenate(labels)[order], np.concatenate(ids)[order])
