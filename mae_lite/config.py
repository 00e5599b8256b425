"""Every setting of a run, on one page that does not import torch.

A :class:`Recipe` holds all that decides a result; :class:`Runtime` holds where and how the run is
carried out and never changes the schedule. Durations are in epochs; only the engine counts steps.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from mae_lite.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HOG_BINS = 9
"""Directions of a histogram of oriented gradients, from 0 to 180 degrees."""
HOG_CELLS = 2
"""Histograms along one side of a patch: cells of 8 pixels where patches have 16."""


class Config(BaseModel):
    """A frozen page of settings; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class LabNote(Config):
    """Where a recipe comes from and what to expect of it; not part of its identity."""

    source: str
    """Paper section, public table or own search."""
    command: str
    """The command that runs it."""
    cost: str
    """Time and hardware."""
    expected: str
    """The number to expect, and after what."""


def _require_multiple(name: str, value: int, factor: int, because: str) -> None:
    if value % factor:
        raise ConfigError(
            name,
            found=str(value),
            expected=f"a multiple of {because} {factor}",
            fix=f"--{name.replace('_', '-')} {math.ceil(value / factor) * factor}",
        )


class Encoder(Config):
    """The Vision Transformer, built by timm."""

    name: str = "vit_tiny_patch16_224"
    """timm architecture; the fields below override its own values."""
    image_size: int = Field(224, ge=1)
    """Side of the square input, in pixels."""
    channels: int = Field(3, ge=1, le=1024)
    """Channels of the input: 1 (grey), 3 (colour), or as many as the npy or TIFF files have."""
    patch_size: int = Field(16, ge=1)
    """Side of a patch, in pixels."""
    width: int = Field(192, ge=1)
    """Channels of a token."""
    depth: int = Field(12, ge=1)
    """Number of blocks."""
    num_heads: int = Field(12, ge=1)
    """Attention heads; timm's own ViT-Tiny has 3 and computes something else with the same weights."""
    positions: Literal["sincos", "learned"] = "sincos"
    """Start of the position table: fixed 2-D sin-cos values, or N(0, 0.02)."""
    init: Literal["xavier", "trunc_normal"] = "xavier"
    """Start of the linear layers: Xavier uniform (MAE), or truncated normal 0.02 (from scratch)."""
    drop_path: float = Field(0.0, ge=0.0, lt=1.0)
    """Stochastic depth rate of the last block; it rises linearly from 0."""

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return self.grid**2

    @property
    def stride(self) -> int:
        """Pixels along one side that a token of the last block stands for."""
        return self.patch_size

    @model_validator(mode="after")
    def _check(self) -> Encoder:
        if self.image_size % self.patch_size or self.image_size < self.patch_size:
            below = max(self.image_size // self.patch_size, 1) * self.patch_size
            raise ConfigError(
                "encoder.image_size",
                found=str(self.image_size),
                expected=f"a multiple of encoder.patch_size {self.patch_size}",
                fix=f"--encoder.image-size {below} (or {below + self.patch_size})",
            )
        _require_multiple("encoder.width", self.width, self.num_heads, "encoder.num_heads")
        if self.positions == "sincos":
            _require_multiple("encoder.width", self.width, 4, "the sin-cos table's 4 parts, i.e.")
        return self


class Swin(Config):
    """A Swin transformer (Liu et al. 2021), built by timm: windows instead of all tokens, and ever coarser stages."""

    kind: Literal["swin"] = "swin"
    name: str = "swin_tiny_patch4_window7_224"
    """timm architecture; the fields below override its own values."""
    image_size: int = Field(224, ge=1)
    """Side of the square input, in pixels."""
    channels: int = Field(3, ge=1, le=1024)
    """Channels of the input: 1 (grey), 3 (colour), or as many as the npy or TIFF files have."""
    patch_size: int = Field(4, ge=1)
    """Side of a patch, in pixels."""
    width: int = Field(96, ge=1)
    """Channels of a token in the first stage; each stage doubles them and halves the sides of the map."""
    depths: tuple[Annotated[int, Field(ge=1)], ...] = (2, 2, 6, 2)
    """Blocks of each stage."""
    num_heads: tuple[Annotated[int, Field(ge=1)], ...] = (3, 6, 12, 24)
    """Attention heads of each stage."""
    window_size: int = Field(7, ge=1)
    """Side of the windows in which tokens see each other, in tokens; where a map is smaller, its side."""
    drop_path: float = Field(0.0, ge=0.0, lt=1.0)
    """Stochastic depth rate of the last block; it rises linearly from 0."""

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return self.grid**2

    @property
    def stride(self) -> int:
        """Pixels along one side that a token of the last stage stands for."""
        return self.patch_size << len(self.depths) - 1

    @property
    def last_width(self) -> int:
        """Channels of a token in the last stage."""
        return self.width << len(self.depths) - 1

    @property
    def last_grid(self) -> int:
        """Tokens along one side of the last stage's map."""
        return self.image_size // self.stride

    def stage_of(self, block: int) -> int:
        """Return the stage of a block, which is counted from 0 through all stages."""
        return next(stage for stage in range(len(self.depths)) if block < sum(self.depths[: stage + 1]))

    @model_validator(mode="after")
    def _check(self) -> Swin:
        if not self.depths or len(self.depths) != len(self.num_heads):
            raise ConfigError(
                "encoder.num_heads",
                found=f"{len(self.num_heads)} values",
                expected=f"one for each of the {len(self.depths)} stages of encoder.depths, at least one",
                fix="--encoder.depths 2 2 6 2 --encoder.num-heads 3 6 12 24",
            )
        _require_multiple("encoder.image_size", self.image_size, self.stride, "the last stage's stride, in pixels,")
        for stage, heads in enumerate(self.num_heads):
            share = heads // math.gcd(heads, 1 << stage)
            _require_multiple("encoder.width", self.width, share, f"what {heads} heads in stage {stage + 1} need,")
        return self


def _shape_of_encoder(value: Any) -> str:
    """Return the kind of an encoder; a plain Vision Transformer has none."""
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return "plain" if kind is None else str(kind)


AnyEncoder = Annotated[
    Annotated[Encoder, Tag("plain")] | Annotated[Swin, Tag("swin")],
    Discriminator(
        _shape_of_encoder,
        custom_error_type="encoder_kind",
        custom_error_message="Input should be an encoder without a kind (a plain Vision Transformer), or of kind swin",
    ),
]


class Hiding(Config):
    """What the methods that hide parts of an image share."""

    mask_ratio: float = 0.75
    """Share of the patches hidden from the encoder, per image."""

    def kept(self, places: int) -> int:
        """Return how many of ``places`` stay visible: floor(round(N (1 - r), 6))."""
        return math.floor(round(places * (1.0 - self.mask_ratio), 6))


class Masking(Hiding):
    """What the methods share that encode the visible patches alone and predict the others with a decoder."""

    decoder_depth: int = Field(1, ge=1)
    """Decoder blocks."""
    decoder_width: int = Field(96, ge=4)
    """Channels of a decoder token."""
    decoder_heads: int = Field(3, ge=1)
    """Attention heads of the decoder."""

    @model_validator(mode="after")
    def _check_decoder(self) -> Masking:
        _require_multiple("method.decoder_width", self.decoder_width, self.decoder_heads, "method.decoder_heads")
        _require_multiple("method.decoder_width", self.decoder_width, 4, "the sin-cos table's 4 parts, i.e.")
        return self

    def values(self, encoder: Encoder) -> int:
        """Return how many numbers are predicted for a patch."""
        return encoder.channels * encoder.patch_size**2


class Painting(Masking):
    """What the methods share that predict pixels with a decoder."""

    normalize_target: bool = True
    """Predict (pixel - patch mean) / patch deviation instead of the pixel."""


class MAE(Painting):
    """Masked autoencoder (He et al. 2022) with a light decoder."""

    kind: Literal["mae"] = "mae"


def _as_pair(value: Any) -> Any:
    """Read "5:11", as a flag gives it."""
    return tuple(value.split(":")) if isinstance(value, str) else value


class DistilledMAE(Painting):
    """Masked autoencoder that also learns to look like a frozen teacher, which sees the same visible patches."""

    kind: Literal["distilled_mae"] = "distilled_mae"
    target: Literal["attention", "hidden"] = "attention"
    """What is matched: attention between all tokens, or the tokens themselves; each after a learned linear map."""
    teacher_width: int = Field(768, ge=1)
    """Channels of a token of the teacher; its image, patch and channels are those of the encoder."""
    teacher_depth: int = Field(12, ge=1)
    """Blocks of the teacher."""
    teacher_heads: int = Field(12, ge=1)
    """Attention heads of the teacher."""
    blocks: tuple[Annotated[tuple[int, int], BeforeValidator(_as_pair)], ...] | None = None
    """Pairs student:teacher, counted from 0, whose squared errors are added up; None matches the last with the last.
    Of blocks for attention; of representations for hidden, where i is what block i's first LayerNorm puts out, and
    depth what the final LayerNorm does."""
    use_probabilities: bool = False
    """Compare attention after the softmax instead of before; the student's heads are mixed before it."""
    weight: float = Field(1.0, gt=0.0)
    """Factor of the distillation loss; that of the reconstruction has 1."""
    decoupled_at: int | None = Field(None, ge=1)
    """Reconstruct from the tokens before this block, and match the attention of an extra block after the last, which is
    dropped after training (D2-MAE); None reconstructs from the last."""

    @model_validator(mode="after")
    def _check_target(self) -> DistilledMAE:
        _require_multiple("method.teacher_width", self.teacher_width, self.teacher_heads, "method.teacher_heads")
        read = "it is read for --method.target attention"
        unread = [("use_probabilities", read)] if self.target == "hidden" and self.use_probabilities else []
        unread += [("decoupled_at", read)] if self.target == "hidden" and self.decoupled_at is not None else []
        if self.decoupled_at is not None and self.blocks is not None:
            unread.append(("blocks", "decoupled, the extra block is matched with the teacher's last"))
        for name, why in unread:
            raise ConfigError(
                f"method.{name} is not read here", found=f"{getattr(self, name)}", expected=why, fix=f"drop {name}"
            )
        if self.blocks is not None and len(set(self.blocks)) != max(1, len(self.blocks)):
            raise ConfigError(
                "method.blocks", found=f"{self.blocks}", expected="one pair or more, each once", fix="drop blocks"
            )
        return self

    def teacher(self, encoder: Encoder) -> Encoder:
        """Return the teacher's shape, for a student of the shape ``encoder``."""
        own = {"width": self.teacher_width, "depth": self.teacher_depth, "num_heads": self.teacher_heads}
        start = {"positions": "learned", "init": "trunc_normal", "drop_path": 0.0}  # overwritten, so of no account
        return Encoder.model_validate(encoder.model_dump() | own | start)

    def pairs(self, depth: int) -> tuple[tuple[int, int], ...]:
        """Return the pairs (student, teacher) that are matched, for a student of ``depth`` blocks.

        Decoupled, the student's number is ``depth``: the extra block's.
        """
        if self.blocks is not None:
            return self.blocks
        if self.target == "hidden":
            return ((depth, self.teacher_depth),)
        return ((depth if self.decoupled_at is not None else depth - 1, self.teacher_depth - 1),)


class HOGAutoencoder(Masking):
    """Masked autoencoder that predicts histograms of oriented gradients instead of pixels (Wei et al. 2022)."""

    kind: Literal["mae_hog"] = "mae_hog"

    def values(self, encoder: Encoder) -> int:
        """Return how many numbers are predicted for a patch."""
        return hog_values(encoder)


class MaskFeat(Hiding):
    """Histograms of oriented gradients of hidden patches, predicted by the encoder itself (Wei et al. 2022)."""

    kind: Literal["maskfeat"] = "maskfeat"
    mask_ratio: float = 0.4
    """Share of the patches that a learned token replaces, per image."""


class Squares(Hiding):
    """What the methods share that paint hidden squares, larger than a patch, from tokens by one linear layer."""

    mask_ratio: float = 0.6
    """Share of the squares that a learned token replaces, per image."""
    mask_unit_px: int = Field(32, ge=1)
    """Side of a square, in pixels: a multiple of the patch."""

    def painted(self, encoder: Encoder | Swin) -> tuple[int, int]:
        """Return channels and side in pixels of the tokens that are painted from: here the last map's."""
        return (encoder.last_width if isinstance(encoder, Swin) else encoder.width), encoder.stride


class SimMIM(Squares):
    """Pixels of hidden squares, predicted from the encoder's last tokens by one linear layer (Xie et al. 2022)."""

    kind: Literal["simmim"] = "simmim"


class DistilledSimMIM(Squares):
    """SimMIM with a Swin student that also learns the attention of a frozen, larger SimMIM Swin in the last map."""

    kind: Literal["distilled_simmim"] = "distilled_simmim"
    teacher_width: int = Field(128, ge=1)
    """Channels of a token in the teacher's first stage; image, patch, window and channels are those of the encoder."""
    teacher_depths: tuple[Annotated[int, Field(ge=1)], ...] = (2, 2, 18, 2)
    """Blocks of each stage of the teacher, which has as many stages as the encoder."""
    teacher_heads: tuple[Annotated[int, Field(ge=1)], ...] = (4, 8, 16, 32)
    """Attention heads of each stage of the teacher."""
    weight: float = Field(1.0, gt=0.0)
    """Factor of the distillation loss; that of the reconstruction has 1."""
    decoupled_at: int | None = Field(None, ge=1)
    """Paint from what enters this block, counted from 0 through all stages, and match the attention of an extra block
    after the last, which is dropped after training (D2-MAE); None paints from the last map."""

    def painted(self, encoder: Encoder | Swin) -> tuple[int, int]:
        """Return channels and side in pixels of the tokens that are painted from: decoupled, of an earlier stage."""
        if self.decoupled_at is None or not isinstance(encoder, Swin):
            return super().painted(encoder)
        stage = encoder.stage_of(self.decoupled_at)
        return encoder.width << stage, encoder.patch_size << stage

    def teacher(self, encoder: Swin) -> Swin:
        """Return the teacher's shape, for a student of the shape ``encoder``."""
        own = {"width": self.teacher_width, "depths": self.teacher_depths, "num_heads": self.teacher_heads}
        return Swin.model_validate(encoder.model_dump() | own | {"drop_path": 0.0})


def hog_values(encoder: Encoder) -> int:
    """Return the numbers of a patch's histograms of oriented gradients."""
    return HOG_CELLS**2 * encoder.channels * HOG_BINS


class FeatureDistillation(Config):
    """The patch tokens of a frozen teacher, learned from unmasked images through a linear map."""

    kind: Literal["feature_distillation"] = "feature_distillation"
    distance: Literal["smooth_l1", "cosine"] = "smooth_l1"
    """Between tokens of student and teacher, each normalised by a LayerNorm without affine."""
    smooth_l1_beta: float = Field(1.0, gt=0.0)
    """Where smooth L1 turns from a square into an absolute value."""
    teacher_width: int = Field(768, ge=1)
    """Channels of a token of the teacher."""
    teacher_depth: int = Field(12, ge=1)
    """Blocks of the teacher."""
    teacher_heads: int = Field(12, ge=1)
    """Attention heads of the teacher."""
    teacher_patch_size: int = Field(16, ge=1)
    """Side of a patch of the teacher, in pixels; images are resized so that it sees the student's grid of patches."""
    teacher_prefix_tokens: int = Field(1, ge=0)
    """Class and register tokens of the teacher; they are not matched."""

    @model_validator(mode="after")
    def _check_teacher(self) -> FeatureDistillation:
        _require_multiple("method.teacher_width", self.teacher_width, self.teacher_heads, "method.teacher_heads")
        if self.distance == "cosine" and self.smooth_l1_beta != 1.0:
            raise ConfigError(
                "method.smooth_l1_beta is not read here",
                found=f"{self.smooth_l1_beta:g}",
                expected="it is read for --method.distance smooth_l1",
                fix="drop smooth_l1_beta",
            )
        return self

    def teacher(self, encoder: Encoder) -> Encoder:
        """Return the shape of a plain teacher with the patch grid of the student ``encoder``."""
        own = {"width": self.teacher_width, "depth": self.teacher_depth, "num_heads": self.teacher_heads}
        own |= {"patch_size": self.teacher_patch_size, "image_size": encoder.grid * self.teacher_patch_size}
        start = {"positions": "learned", "init": "trunc_normal", "drop_path": 0.0}  # overwritten, so of no account
        return Encoder.model_validate(encoder.model_dump() | own | start)


class Supervised(Config):
    """Classification, for training from scratch and for fine-tuning."""

    kind: Literal["supervised"] = "supervised"
    pooling: Literal["mean", "token"] = "mean"
    """Mean of patch tokens, then a LayerNorm, new unless the starting weights have it; or the class token after
    the final LayerNorm. Swin has no class token; it averages behind its final LayerNorm, which stays."""
    relative_positions: bool = False
    """Add to attention a learned bias for every offset between patches, in each block and head (BEiT)."""
    keep_blocks: tuple[Literal["first", "last"], Annotated[int, Field(ge=0)]] | None = None
    """Keep only the first, or the last, so many blocks of the starting weights; None keeps all. What lies before the
    blocks (patch projection, class token, positions) goes with the first block, the final LayerNorm with the last."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the target spread over all classes."""
    mixup: float = Field(0.0, ge=0.0)
    """alpha of the beta distribution of mixup; 0 switches it off."""
    cutmix: float = Field(0.0, ge=0.0)
    """alpha of the beta distribution of cutmix; 0 switches it off."""
    mix_probability: float = Field(1.0, ge=0.0, le=1.0)
    """Share of the batches that are mixed at all."""


class MoCoV3(Config):
    """Contrastive learning with a momentum encoder (Chen, Xie, He 2021)."""

    kind: Literal["mocov3"] = "mocov3"
    hidden_width: int = Field(4096, ge=1)
    """Channels between the linear layers of projector and predictor."""
    output_width: int = Field(256, ge=1)
    """Channels of what is compared."""
    temperature: float = Field(0.2, gt=0.0)
    """Cosine similarities are divided by it."""
    momentum: float = Field(0.99, ge=0.0, le=1.0)
    """Share of itself that the momentum encoder keeps at first; it rises to 1 along half a cosine."""
    freeze_patch_projection: bool = False
    """Leave the patch projection at its random start: the remedy of section 4.2 against unstable training."""


class DINO(Config):
    """Self-distillation with no labels (Caron et al. 2021): the same prototypes for all views of an image."""

    kind: Literal["dino"] = "dino"
    hidden_width: int = Field(2048, ge=1)
    """Channels between the linear layers of the head."""
    bottleneck_width: int = Field(256, ge=1)
    """Channels of what is compared with the prototypes."""
    prototypes: int = Field(65_536, ge=2)
    """Directions among which the views of an image shall find the same; fewer for small data."""
    student_temperature: float = Field(0.1, gt=0.0)
    """The student's cosine similarities are divided by it."""
    teacher_temperature: float = Field(0.07, gt=0.0)
    """The teacher's, after its warm-up."""
    teacher_start_temperature: float = Field(0.04, gt=0.0)
    """The teacher's at first; it rises linearly."""
    teacher_warmup_epochs: float = Field(30.0, ge=0.0)
    """Epochs until the teacher's temperature has risen."""
    centre_momentum: float = Field(0.9, ge=0.0, lt=1.0)
    """Share of itself that the centre of the teacher's outputs keeps at an update."""
    momentum: float = Field(0.996, ge=0.0, le=1.0)
    """Share of itself that the teacher keeps at first; it rises to 1 along half a cosine."""
    freeze_prototypes_epochs: float = Field(1.0, ge=0.0)
    """Epochs in which the student's prototypes stay at their random start."""


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Method = Annotated[
    MAE
    | DistilledMAE
    | HOGAutoencoder
    | MaskFeat
    | SimMIM
    | DistilledSimMIM
    | FeatureDistillation
    | MoCoV3
    | DINO
    | Supervised,
    Field(discriminator="kind"),
]
ComparesViews = MoCoV3 | DINO
"""The methods that take two views of an image, and whose loss depends on all images of an update together."""


class Augmentation(Config):
    """What happens to an image between decoding and the model."""

    views: int = Field(1, ge=1, le=16)
    """Versions of an image in a batch, each with draws of its own."""
    local_views: int | None = Field(None, ge=1, le=32)
    """Further versions of an image, of another size; None makes none."""
    local_size: int | None = Field(None, ge=1)
    """Side of these, in pixels."""
    local_scale: tuple[float, float] | None = None
    """Share of the area that a random crop covers in these; crop_scale then holds for the other views."""
    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    """Share of the area that a random crop covers; None resizes the whole image."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of width / height of a random crop."""
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    """Resampling in training; "random" picks bicubic or bilinear per image."""
    jitter: tuple[Share, Share, Share, Annotated[float, Field(ge=0.0, le=0.5)]] | None = None
    """Largest change of brightness, contrast, saturation (as shares) and hue (of the circle), in random order; None
    changes none."""
    jitter_probability: float = Field(0.8, ge=0.0, le=1.0)
    """Probability that colours are changed at all."""
    blur: tuple[Share, ...] = (0.0,)
    """Probability of Gaussian blur: one for each view and one more for the local views; or one for all."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's deviation, in pixels of the model's input."""
    grey: float = Field(0.0, ge=0.0, le=1.0)
    """Probability of turning colours into shades of grey."""
    solarise: tuple[Share, ...] = (0.0,)
    """Probability of inverting all values from 128 up: one for each view and one more for the local views; or one
    for all."""
    flip: float = Field(0.5, ge=0.0, le=1.0)
    """Probability of a horizontal flip."""
    rotate_degrees: float = Field(0.0, ge=0.0, le=180.0)
    """Rotation by up to this many degrees either way."""
    shear_degrees: float = Field(0.0, ge=0.0, le=45.0)
    """Slant by up to this many degrees either way."""
    translate: float = Field(0.0, ge=0.0, lt=1.0)
    """Shift by up to this share of the side, either way on each axis."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Range of the scale factor that goes with rotation, slant and shift."""
    randaugment: str | None = None
    """timm's RandAugment string, e.g. "rand-m10-mstd0.5-inc1"."""
    erasing: float = Field(0.0, ge=0.0, le=1.0)
    """Probability of replacing a random rectangle by noise."""
    eval_crop: float = Field(0.875, gt=0.0, le=1.0)
    """Evaluation resizes the short side to image_size / eval_crop and crops the centre."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Channel means of pixels in 0 to 1."""
    std: tuple[float, ...] = IMAGENET_STD
    """Channel standard deviations of pixels in 0 to 1."""

    @model_validator(mode="after")
    def _check(self) -> Augmentation:
        ranges = {
            "crop_scale": self.crop_scale,
            "crop_ratio": self.crop_ratio,
            "blur_sigma": self.blur_sigma,
            "zoom": self.zoom,
            "local_scale": self.local_scale,
        }
        for name, pair in ranges.items():
            if pair is not None and not 0 < pair[0] <= pair[1]:
                raise ConfigError(
                    f"augmentation.{name}", found=f"{pair}", expected="0 < low <= high", fix="give the lower end first"
                )
        for name, scale, usual in (
            ("crop_scale", self.crop_scale, "0.08 1.0"),
            ("local_scale", self.local_scale, "0.05 0.4"),
        ):
            if scale is not None and scale[1] > 1:
                raise ConfigError(
                    f"augmentation.{name}",
                    found=f"{scale}",
                    expected="an upper end of at most 1",
                    fix=f"--augmentation.{name.replace('_', '-')} {usual}",
                )
        _check_local(self)
        _check_shares(self)
        if any(value <= 0 for value in self.std):
            raise ConfigError(
                "augmentation.std", found=f"{self.std}", expected="numbers above 0", fix="use the data set's own"
            )
        return self


def _check_local(augmentation: Augmentation) -> None:
    """Refuse settings of local views of which a part is missing: the others would not be read."""
    names = ("local_views", "local_size", "local_scale")
    missing = [name for name in names if getattr(augmentation, name) is None]
    if 0 < len(missing) < len(names):
        flags = {"local_views": "8", "local_size": "96", "local_scale": "0.05 0.4"}
        raise ConfigError(
            f"augmentation.{missing[0]}",
            found="None",
            expected=f"a value, since there is one of {', '.join(name for name in names if name not in missing)}",
            fix=" ".join(f"--augmentation.{name.replace('_', '-')} {flags[name]}" for name in missing),
        )


def _check_shares(augmentation: Augmentation) -> None:
    views, local = augmentation.views, augmentation.local_views is not None
    for name, shares in (("blur", augmentation.blur), ("solarise", augmentation.solarise)):
        if len(shares) not in (1, views + local):
            more = " and one more for the local views" if local else ""
            raise ConfigError(
                f"augmentation.{name}",
                found=f"{len(shares)} values",
                expected=f"one for each of augmentation.views {views}{more}, or one for all",
                fix=f"--augmentation.{name} {' '.join(['0.1'] * (views + local))}",
            )


class Reading(Config):
    """How an image file becomes 8-bit pixels; the same in training and in evaluation."""

    turn_upright: bool = True
    """Apply the EXIF orientation."""
    background: int = Field(0, ge=0, le=255)
    """Grey value behind transparent pixels."""
    apply_profile: bool = False
    """Convert embedded ICC profiles to sRGB; the field's training sets were read without."""
    value_range: tuple[float, float] | None = None
    """Values that become 0 and 255 in images of more than 8 bits; what lies beyond is cut off. None takes the range of
    the format: 0 to 65535 for whole numbers of 16 bits, 0 to 1 for floating point; anything else is an error."""
    smallest_side: int = Field(1, ge=1)
    """An image with a shorter side, in pixels, counts as bad; smaller ones than the model's input are enlarged."""
    max_pixels: int = Field(100_000_000, ge=1, le=178_956_970)
    """Width x height above which an image counts as bad; the header tells, before any memory is taken. Pillow's own
    limit, 178,956,970, cannot be passed."""

    @model_validator(mode="after")
    def _check(self) -> Reading:
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ConfigError(
                "reading.value_range",
                found=f"{self.value_range}",
                expected="low < high",
                fix="--reading.value-range 0 10000",
            )
        return self


class AdamW(Config):
    """AdamW with decoupled weight decay."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the two moments."""
    eps: float = Field(1e-8, gt=0.0)
    """Added to the denominator."""
    weight_decay: float = Field(0.05, ge=0.0)
    """Decoupled weight decay."""
    final_weight_decay: float | None = Field(None, ge=0.0)
    """Weight decay that the last update comes to, along half a cosine; None keeps the first."""
    no_decay: tuple[Literal["vectors", "tokens"], ...] = ("vectors", "tokens")
    """Exempt from decay: "vectors" (biases, norms), "tokens" (positions, class token)."""

    @model_validator(mode="after")
    def _check(self) -> AdamW:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(
                "optimizer.betas",
                found=f"{self.betas}",
                expected="two numbers from 0 to below 1",
                fix="--optimizer.betas 0.9 0.999",
            )
        return self


class SGD(Config):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    momentum: float = Field(0.9, ge=0.0, lt=1.0)
    """Momentum."""
    nesterov: bool = True
    """Nesterov's variant."""
    weight_decay: float = Field(0.0, ge=0.0)
    """L2 penalty."""
    final_weight_decay: float | None = Field(None, ge=0.0)
    """Penalty that the last update comes to, along half a cosine; None keeps the first."""
    no_decay: tuple[Literal["vectors", "tokens"], ...] = ("vectors", "tokens")
    """Exempt from decay: "vectors" (biases, norms), "tokens" (positions, class token)."""


Optimizer = Annotated[AdamW | SGD, Field(discriminator="kind")]


def _check_mask_ratio(method: Hiding, patches: int) -> None:
    ratio = method.mask_ratio
    if math.isfinite(ratio) and 0 < ratio < 1 and 1 <= method.kept(patches) < patches:
        return
    digits = 10 ** max(4, len(str(patches)) + 1)  # rounded inwards, so that what is named is allowed
    low, high = math.ceil(digits / patches) / digits, math.floor(digits - digits / patches) / digits
    square = isinstance(method, SimMIM)
    what, plural, smaller = ("square", "squares", "mask_unit_px") if square else ("patch", "patches", "patch_size")
    raise ConfigError(
        "method.mask_ratio",
        found=f"{ratio:g}",
        expected=f"{low:.12g} to {high:.12g}, so that at least one of {patches} {plural} is hidden and one visible"
        if patches > 1
        else f"an image of more than one {what}",
        fix=f"--method.mask-ratio {type(method).model_fields['mask_ratio'].default}"
        if patches > 1
        else f"use a larger image_size or a smaller {smaller}",
    )


def _check_hidden(recipe: Recipe, method: Hiding) -> None:
    """Refuse places to hide that do not fit the image, and a share that hides none or all of them."""
    encoder, side = recipe.encoder, recipe.encoder.patch_size
    if isinstance(method, Squares):
        side = method.mask_unit_px
        if side % encoder.patch_size or encoder.image_size % side:
            patches = encoder.image_size // encoder.patch_size
            near = range(1, min(patches, 1024) + 1)  # more patches along a side than anybody has
            fitting = [n * encoder.patch_size for n in near if patches % n == 0]
            raise ConfigError(
                "method.mask_unit_px",
                found=str(side),
                expected=f"a multiple of encoder.patch_size {encoder.patch_size} of which encoder.image_size "
                f"{encoder.image_size} is one",
                fix=f"--method.mask-unit-px {min(fitting, key=lambda n: abs(n - side))}",
            )
    elif isinstance(method, HOGAutoencoder | MaskFeat):
        _require_multiple("encoder.patch_size", side, HOG_CELLS, f"the {HOG_CELLS} cells along a patch, i.e.")
    _check_mask_ratio(method, (encoder.image_size // side) ** 2)


def _check_swin(recipe: Recipe) -> None:
    """Refuse a hierarchical encoder where the method needs a plain one."""
    if not isinstance(recipe.method, Squares | Supervised):
        _ = recipe.plain_encoder
    if isinstance(recipe.method, Supervised) and recipe.method.pooling != "mean":
        raise ConfigError(
            "method.pooling",
            found=recipe.method.pooling,
            expected="mean, since encoder.kind swin has no class token",
            fix="--method.pooling mean",
        )
    if isinstance(recipe.method, Supervised) and recipe.method.relative_positions:
        raise ConfigError(
            "method.relative_positions",
            found="true",
            expected="false, since encoder.kind swin has its own relative positions",
            fix="drop --method.relative-positions",
        )


def _check_kept(recipe: Recipe, method: Supervised) -> None:
    """Refuse a number of blocks to keep of weights that are not there, or of an encoder that is no row of blocks."""
    if method.keep_blocks is None:
        return
    side, count = method.keep_blocks
    if recipe.start == "random" or isinstance(recipe.encoder, Swin):
        raise ConfigError(
            "method.keep_blocks",
            found=f"{side} {count}",
            expected="None, since the recipe starts from random weights"
            if recipe.start == "random"
            else "None, since encoder.kind swin has stages of different widths",
            fix="drop --method.keep-blocks, or use a recipe that fine-tunes a plain Vision Transformer",
        )
    if count > recipe.encoder.depth:
        raise ConfigError(
            "method.keep_blocks",
            found=f"{side} {count}",
            expected=f"0 to encoder.depth {recipe.encoder.depth}",
            fix=f"--method.keep-blocks {side} {recipe.encoder.depth}",
        )


def _check_blocks(method: DistilledMAE, depth: int) -> None:
    at = method.decoupled_at
    if at is not None and at > depth:
        raise ConfigError(
            "method.decoupled_at",
            found=f"{at}",
            expected=f"1 to encoder.depth {depth}",
            fix=f"--method.decoupled-at {max(1, depth * 2 // 3)}",
        )
    more = method.target == "hidden"  # of tokens there is one representation more than blocks
    limits = (depth - 1 + more, method.teacher_depth - 1 + more)
    for pair in method.blocks or ():
        if not all(0 <= number <= limit for number, limit in zip(pair, limits, strict=True)):
            raise ConfigError(
                "method.blocks",
                found=f"{pair[0]}:{pair[1]}",
                expected=f"student:teacher, 0 to {limits[0]} and 0 to {limits[1]}",
                fix=f"--method.blocks {limits[0]}:{limits[1]}",
            )


def _check_last_map(encoder: Encoder | Swin, method: DistilledSimMIM) -> None:
    """Refuse a student whose last attention cannot be compared with the teacher's, and a teacher of other stages."""
    if not isinstance(encoder, Swin):
        raise ConfigError(
            "encoder.kind",
            found="a plain Vision Transformer",
            expected=f"swin, which the method {method.kind} needs",
            fix="--encoder.kind swin, or --method.kind distilled_mae",
        )
    if encoder.last_grid > encoder.window_size:
        raise ConfigError(
            "encoder.window_size",
            found=str(encoder.window_size),
            expected=f"at least {encoder.last_grid}, the side of the last map, so that its tokens all see each other",
            fix=f"--encoder.window-size {encoder.last_grid}",
        )
    for name in ("teacher_depths", "teacher_heads"):
        if len(getattr(method, name)) != len(encoder.depths):
            raise ConfigError(
                f"method.{name}",
                found=f"{len(getattr(method, name))} values",
                expected=f"one for each of the {len(encoder.depths)} stages of encoder.depths",
                fix=f"give {len(encoder.depths)} values",
            )
    method.teacher(encoder)
    blocks = sum(encoder.depths)
    if method.decoupled_at is not None and method.decoupled_at >= blocks:
        raise ConfigError(
            "method.decoupled_at",
            found=f"{method.decoupled_at}",
            expected=f"1 to {blocks - 1}, a block of encoder.depths",
            fix=f"--method.decoupled-at {max(1, blocks * 2 // 3)}",
        )


def _check_views(recipe: Recipe) -> None:
    """Refuse another number of views than the method compares, and colours where there are none."""
    augmentation, method = recipe.augmentation, recipe.method
    views = 2 if isinstance(method, ComparesViews) else 1
    if augmentation.views != views:
        raise ConfigError(
            "augmentation.views",
            found=str(augmentation.views),
            expected=f"{views}, which is what the method {method.kind} takes",
            fix=f"--augmentation.views {views}",
        )
    _check_local_size(recipe)
    channels = recipe.encoder.channels
    for name, value, off in (("jitter", augmentation.jitter, None), ("grey", augmentation.grey, 0.0)):
        if value != off and channels != 3:
            raise ConfigError(
                f"augmentation.{name}",
                found=f"{value} with encoder.channels {channels}",
                expected="3 channels, because it changes colours",
                fix=f"--augmentation.{name} {off}",
            )


def _check_local_size(recipe: Recipe) -> None:
    """Refuse local views that the method does not take, or that cannot be cut into patches."""
    size, patch = recipe.augmentation.local_size, recipe.encoder.patch_size
    if size is None:
        return
    if not isinstance(recipe.method, DINO):
        raise ConfigError(
            "augmentation.local_views",
            found=str(recipe.augmentation.local_views),
            expected=f"None, since the method {recipe.method.kind} takes views of one size",
            fix="drop --augmentation.local-views, --augmentation.local-size and --augmentation.local-scale",
        )
    _require_multiple("augmentation.local_size", size, patch, "encoder.patch_size")


def _check_batch(recipe: Recipe) -> None:
    if recipe.couples_samples and recipe.global_batch_size < 2:
        raise ConfigError(
            "global_batch_size",
            found=str(recipe.global_batch_size),
            expected="at least 2, because the loss compares images with each other, or with what they have in common",
            fix="--global-batch-size 256",
        )


def check_labels(per_class: int | None, fraction: float | None) -> None:
    """Refuse two answers to the question how many labels are used.

    Raises:
        ConfigError: when both are given.
    """
    if per_class is not None and fraction is not None:
        raise ConfigError(
            "labels_per_class and label_fraction",
            found=f"{per_class} and {fraction:g}",
            expected="one of them, or none for all labels",
            fix="drop --labels-per-class (or give None) or --label-fraction",
        )


def _check_labelled(recipe: Recipe) -> None:
    """Refuse a share of the images that a classifier would not read."""
    if recipe.image_fraction is not None:
        raise ConfigError(
            "image_fraction is not read where labels are",
            found=f"{recipe.image_fraction:g}",
            expected="None",
            fix="drop it; --label-fraction, or --labels-per-class, says how many labels are used",
        )


def _check_unread(recipe: Recipe, name_of_method: str) -> None:
    """Refuse settings that pre-training would not read."""
    for name, value, unset, fix in (
        ("labels_per_class", recipe.labels_per_class, None, "pre-training reads no labels: drop --labels-per-class"),
        ("label_fraction", recipe.label_fraction, None, "pre-training reads no labels: use --image-fraction"),
        ("validation_fraction", recipe.validation_fraction, 0.0, "nothing is validated: drop --validation-fraction"),
        (
            "encoder.positions",
            "sincos" if isinstance(recipe.encoder, Swin) else recipe.encoder.positions,
            "sincos",
            f"{name_of_method}'s positions are fixed: drop --encoder.positions",
        ),
    ):
        if value != unset:
            raise ConfigError(f"{name} is not read in {name_of_method} pre-training", found=str(value), fix=fix)
    if isinstance(recipe.method, MoCoV3) and recipe.plain_encoder.init != "xavier":
        raise ConfigError(
            "encoder.init is not read in MoCo-v3 pre-training",
            found=recipe.plain_encoder.init,
            fix="its initial values are its own: drop --encoder.init",
        )


_PRETRAINING = {
    "mae": "MAE",
    "distilled_mae": "MAE",
    "mae_hog": "MAE",
    "maskfeat": "MaskFeat",
    "simmim": "SimMIM",
    "distilled_simmim": "SimMIM",
    "mocov3": "MoCo-v3",
    "dino": "DINO",
    "feature_distillation": "feature distillation",
}
"""What to call the methods that take images without labels."""

_LATER = {
    "augmentation": ("local_views", "local_size", "local_scale"),
    "method": ("relative_positions", "keep_blocks"),
    "optimizer": ("final_weight_decay",),
}
"""Settings by page that came after runs had been made: off, a digest leaves them out, so that it stays what it was."""


class Recipe(Config):
    """Everything that decides the result of a run, given its data and its starting weights."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$")
    """Name of the recipe."""
    note: LabNote
    """Source, command, cost and the number to expect."""
    parent: str | None = None
    """Recipe that this one was derived from."""
    start: Literal["random", "pretrained"] = "random"
    """Whether the run needs weights to start from (--init)."""
    encoder: AnyEncoder = Encoder()
    method: Method
    reading: Reading = Reading()
    augmentation: Augmentation = Augmentation()
    optimizer: Optimizer
    global_batch_size: int = Field(ge=1)
    """Images per update, over all devices and micro-batches."""
    epochs: float = Field(gt=0.0)
    """Passes over the training images."""
    warmup_epochs: float = Field(0.0, ge=0.0)
    """Epochs of linear warm-up, counted in steps."""
    lr_per_256: float = Field(gt=0.0)
    """Peak learning rate at a global batch of 256; it scales linearly."""
    warmup_start_lr: float = Field(0.0, ge=0.0)
    """Learning rate of the first update."""
    final_lr: float = Field(0.0, ge=0.0)
    """End of the cosine; layer decay scales it too."""
    layer_decay: float = Field(1.0, gt=0.0, le=1.0)
    """Factor of the learning rate per layer below the head."""
    clip_grad_norm: float | None = Field(None, gt=0.0)
    """Largest gradient norm; None leaves gradients as they are."""
    ema_decay: float | None = Field(None, gt=0.0, lt=1.0)
    """Decay of an exponential moving average of the weights, used for evaluation; None keeps none."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16 is mixed precision on a GPU and float32 on a CPU."""
    labels_per_class: int | None = Field(None, ge=1)
    """Train on this many images of each class, drawn by the seed; None takes all."""
    label_fraction: float | None = Field(None, gt=0.0, lt=1.0)
    """Train on this share of each class, at least one image, drawn by the seed; None takes all."""
    image_fraction: float | None = Field(None, gt=0.0, lt=1.0)
    """Pre-train on this share of the images, at least one, drawn by the seed whatever their labels; None takes all."""
    validation_fraction: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of train set aside, stratified by seed, when no validation data are given."""
    seed: int = Field(0, ge=0, le=2**63 - 1)
    """Seed of every random draw."""

    @property
    def peak_lr(self) -> float:
        """Learning rate at the end of warm-up."""
        return self.lr_per_256 * self.global_batch_size / 256

    @property
    def plain_encoder(self) -> Encoder:
        """The encoder of a method that takes a plain Vision Transformer only.

        Raises:
            ConfigError: when it is another.
        """
        if isinstance(self.encoder, Encoder):
            return self.encoder
        raise ConfigError(
            "encoder.kind",
            found=self.encoder.kind,
            expected=f"a plain Vision Transformer, which the method {self.method.kind} needs",
            fix="use a recipe with such an encoder, or --method.kind simmim",
        )

    @property
    def couples_samples(self) -> bool:
        """Whether all images of an update meet in the loss, so that it cannot be split into micro-batches."""
        return isinstance(self.method, ComparesViews)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if isinstance(self.encoder, Swin):
            _check_swin(self)
        if isinstance(self.method, DistilledSimMIM):
            _check_last_map(self.encoder, self.method)
        if isinstance(self.method, Hiding):
            _check_hidden(self, self.method)
        if (name := _PRETRAINING.get(self.method.kind)) is not None:
            _check_unread(self, name)
        if isinstance(self.method, Supervised):
            _check_labelled(self)
            _check_kept(self, self.method)
        if isinstance(self.method, DistilledMAE):
            _check_blocks(self.method, self.plain_encoder.depth)
        _check_views(self)
        _check_batch(self)
        check_labels(self.labels_per_class, self.label_fraction)
        for name, values in (("mean", self.augmentation.mean), ("std", self.augmentation.std)):
            if len(values) != self.encoder.channels:
                raise ConfigError(
                    f"augmentation.{name}",
                    found=f"{len(values)} values",
                    expected=f"one for each of encoder.channels {self.encoder.channels}",
                    fix=f"--augmentation.{name} {' '.join(['0.5'] * min(self.encoder.channels, 8))} "
                    "(mae-lite check DATA measures them)",
                )
        if self.warmup_epochs > self.epochs:
            raise ConfigError(
                "warmup_epochs",
                found=f"{self.warmup_epochs:g}",
                expected=f"at most epochs {self.epochs:g}",
                fix=f"--warmup-epochs {self.epochs / 10:g}",
            )
        return self

    def digest(self) -> str:
        """Return the SHA-256 of all settings that decide the result (not name, note and parent)."""
        settings = self.model_dump(mode="json", exclude={"name", "note", "parent"})
        for page, names in _LATER.items():
            for name in names:
                value = settings[page].get(name)
                if value is None or value is False:  # 0.0 is a value
                    settings[page].pop(name, None)
        for name in ("label_fraction", "image_fraction"):
            if settings[name] is None:
                del settings[name]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


LoggerName = Literal["tensorboard", "wandb", "mlflow"]


class Runtime(Config):
    """Where and how a run is carried out; nothing here changes the schedule."""

    data: str
    """Training images: a path (folder, CSV, parquet, shards), "digits", or KIND:PLACE such as torchvision:cifar10."""
    val_data: str | None = None
    """Validation images; without them the data's own validation split, else validation_fraction of train."""
    on_bad: Literal["skip", "fail"] = "skip"
    """An unreadable image is replaced by another, up to 10 or 0.1 % of them, and listed in bad_files.csv; or it ends
    the run."""
    on_nan: Literal["stop", "rollback"] = "stop"
    """An update whose loss or gradient is not finite ends the run before the update; or the run goes back to its newest
    checkpoint and leaves that update out, at most three times. Either way failed/ gets what mae-lite replay needs."""
    allow_empty_classes: bool = False
    """Keep class folders without images as classes, instead of refusing them."""
    out: str | None = None
    """Run folder; by default runs/RECIPE-HASH, so that the same command finds its run again."""
    override: tuple[str, ...] = ()
    """Settings that may differ from those the run in --out was begun with, e.g. epochs; "data" for changed images."""
    init: str | None = None
    """Weights to start from: a run folder, a checkpoint folder, a file, or pretrained:NAME (docs/predict.md)."""
    allow_missing: tuple[str, ...] = ()
    """Patterns of tensors that --init may lack and that then start anew, e.g. encoder.norm.*; each must match one that
    it does lack."""
    teacher: str | None = None
    """Weights of the teacher that a recipe distils: a run folder, a checkpoint folder, a timm folder, a file, or
    timm:NAME for pre-trained weights that timm knows."""
    stop_after_steps: int | None = Field(None, ge=1)
    """Stop early, resumable, when this many updates have been made in all."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Images per device and forward pass; smaller than the batch means accumulation."""
    workers: int | None = Field(None, ge=0)
    """Processes that read images; None chooses."""
    pixels: Literal["exact", "fast"] = "fast"
    """How colour images are made ready in training: "exact" resizes as Pillow does; "fast" as torch does, on
    photographs 0.05 of 255 from it on average, and decodes JPEG files of a million pixels or more at a half, a quarter
    or an eighth where the crop stays twice as large as the model's input. Evaluation is always exact."""
    loading: Literal["auto", "workers", "resident"] = "auto"
    """How training images arrive: "workers" read and augment them one by one. "resident" keeps all of them, which have
    one size, in the memory of the device and augments whole batches there, within single steps of 1/255 of that.
    "auto" is resident on a CUDA device where that can be and half of its free memory is enough, otherwise workers; a
    run goes on as it was begun."""
    log_every_steps: int = Field(10, ge=1)
    """Updates between two rows of metrics.jsonl."""
    save_every_steps: int | None = Field(None, ge=1)
    """Updates between two checkpoints; None saves every minute or so, at most 2 % of the time."""
    validate_every_epochs: float = Field(1.0, gt=0.0)
    """Epochs between two validations, where there are validation images."""
    probe_every_epochs: float | None = Field(None, gt=0.0)
    """Epochs between two probes of a pre-training run: kNN, linear probe, RankMe, feature deviation, previews. None
    chooses about 20 times in the run, at least an epoch apart, at most 5 % of the images read; none below one epoch."""
    probe_images: int = Field(2500, ge=0)
    """Training images that probes look at, one in five to ask about; 0 leaves only the previews."""
    devices: int = Field(1, ge=1)
    """Devices on this machine."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Kind of device."""
    compiled: bool = False
    """Compile the training step with torch.compile, which takes a minute or so and changes rounding; a run that is
    continued stays the same run, bit for bit, with the same choice."""
    loggers: tuple[LoggerName, ...] = ("tensorboard",)
    """Where rows of metrics.jsonl go too: tensorboard (event files), wandb (offline unless the environment says
    otherwise), mlflow (a database in the run folder, or MLFLOW_TRACKING_URI)."""
    tensorboard: bool = True
    """False takes tensorboard out of loggers."""
    progress: bool = True
    """Show progress."""

    @property
    def loggers_used(self) -> tuple[LoggerName, ...]:
        """The loggers, each once, without tensorboard where that is false."""
        return tuple(name for name in dict.fromkeys(self.loggers) if self.tensorboard or name != "tensorboard")


class Request(Runtime, Recipe):
    """A recipe and its runtime on one page: what the command line overrides."""

    def split(self) -> tuple[Recipe, Runtime]:
        """Return the two pages."""
        values = dict(self)
        recipe = {name: values[name] for name in Recipe.model_fields}
        runtime = {name: values[name] for name in Runtime.model_fields}
        return Recipe.model_validate(recipe), Runtime.model_validate(runtime)
