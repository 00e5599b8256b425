"""Every setting of a run, on one page that does not import torch.

A :class:`Recipe` holds all that decides a result; :class:`Runtime` holds where and how the run is
carried out and never changes the schedule. Durations are in epochs; only the engine counts steps.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mae_lite.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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


class Masking(Config):
    """What the methods that hide patches and paint them share."""

    mask_ratio: float = 0.75
    """Share of the patches hidden from the encoder, per image."""
    decoder_depth: int = Field(1, ge=1)
    """Decoder blocks."""
    decoder_width: int = Field(96, ge=4)
    """Channels of a decoder token."""
    decoder_heads: int = Field(3, ge=1)
    """Attention heads of the decoder."""
    normalize_target: bool = True
    """Predict (pixel - patch mean) / patch deviation instead of the pixel."""

    @model_validator(mode="after")
    def _check_decoder(self) -> Masking:
        _require_multiple("method.decoder_width", self.decoder_width, self.decoder_heads, "method.decoder_heads")
        _require_multiple("method.decoder_width", self.decoder_width, 4, "the sin-cos table's 4 parts, i.e.")
        return self

    def kept(self, patches: int) -> int:
        """Return how many of ``patches`` stay visible: floor(round(N (1 - r), 6))."""
        return math.floor(round(patches * (1.0 - self.mask_ratio), 6))


class MAE(Masking):
    """Masked autoencoder (He et al. 2022) with a light decoder."""

    kind: Literal["mae"] = "mae"


def _as_pair(value: Any) -> Any:
    """Read "5:11", as a flag gives it."""
    return tuple(value.split(":")) if isinstance(value, str) else value


class DistilledMAE(Masking):
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
    """Mean of patch tokens, then a new LayerNorm; or the class token after the final LayerNorm."""
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


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Method = Annotated[MAE | DistilledMAE | FeatureDistillation | MoCoV3 | Supervised, Field(discriminator="kind")]


class Augmentation(Config):
    """What happens to an image between decoding and the model."""

    views: int = Field(1, ge=1, le=16)
    """Versions of an image in a batch, each with draws of its own."""
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
    """Probability of Gaussian blur: one for each view, or one for all."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's deviation, in pixels of the model's input."""
    grey: float = Field(0.0, ge=0.0, le=1.0)
    """Probability of turning colours into shades of grey."""
    solarise: tuple[Share, ...] = (0.0,)
    """Probability of inverting all values from 128 up: one for each view, or one for all."""
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
        }
        for name, pair in ranges.items():
            if pair is not None and not 0 < pair[0] <= pair[1]:
                raise ConfigError(
                    f"augmentation.{name}", found=f"{pair}", expected="0 < low <= high", fix="give the lower end first"
                )
        if self.crop_scale is not None and self.crop_scale[1] > 1:
            raise ConfigError(
                "augmentation.crop_scale",
                found=f"{self.crop_scale}",
                expected="an upper end of at most 1",
                fix="--augmentation.crop-scale 0.08 1.0",
            )
        for name, shares in (("blur", self.blur), ("solarise", self.solarise)):
            if len(shares) not in (1, self.views):
                raise ConfigError(
                    f"augmentation.{name}",
                    found=f"{len(shares)} values",
                    expected=f"one for each of augmentation.views {self.views}, or one for all",
                    fix=f"--augmentation.{name} {' '.join(['0.1'] * self.views)}",
                )
        if any(value <= 0 for value in self.std):
            raise ConfigError(
                "augmentation.std", found=f"{self.std}", expected="numbers above 0", fix="use the data set's own"
            )
        return self


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
    no_decay: tuple[Literal["vectors", "tokens"], ...] = ("vectors", "tokens")
    """Exempt from decay: "vectors" (biases, norms), "tokens" (positions, class token)."""


Optimizer = Annotated[AdamW | SGD, Field(discriminator="kind")]


def _check_mask_ratio(method: Masking, patches: int) -> None:
    ratio = method.mask_ratio
    if math.isfinite(ratio) and 0 < ratio < 1 and 1 <= method.kept(patches) < patches:
        return
    low, high = 1 / patches, 1 - 1 / patches
    raise ConfigError(
        "method.mask_ratio",
        found=f"{ratio:g}",
        expected=f"{low:.4g} to {high:.4g}, so that at least one of {patches} patches is hidden and one visible"
        if patches > 1
        else "an image of more than one patch",
        fix="--method.mask-ratio 0.75" if patches > 1 else "use a larger image_size or a smaller patch_size",
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


def _check_views(recipe: Recipe) -> None:
    """Refuse another number of views than the method compares, and colours where there are none."""
    augmentation, method = recipe.augmentation, recipe.method
    views = 2 if isinstance(method, MoCoV3) else 1
    if augmentation.views != views:
        raise ConfigError(
            "augmentation.views",
            found=str(augmentation.views),
            expected=f"{views}, which is what the method {method.kind} takes",
            fix=f"--augmentation.views {views}",
        )
    channels = recipe.encoder.channels
    for name, value, off in (("jitter", augmentation.jitter, None), ("grey", augmentation.grey, 0.0)):
        if value != off and channels != 3:
            raise ConfigError(
                f"augmentation.{name}",
                found=f"{value} with encoder.channels {channels}",
                expected="3 channels, because it changes colours",
                fix=f"--augmentation.{name} {off}",
            )


def _check_batch(recipe: Recipe) -> None:
    if recipe.couples_samples and recipe.global_batch_size < 2:
        raise ConfigError(
            "global_batch_size",
            found=str(recipe.global_batch_size),
            expected="at least 2, because images are compared with each other and normalised by batch statistics",
            fix="--global-batch-size 256",
        )


def _check_unread(recipe: Recipe, name_of_method: str) -> None:
    """Refuse settings that pre-training would not read."""
    for name, value, unset, fix in (
        ("labels_per_class", recipe.labels_per_class, None, "pre-training takes all images: drop --labels-per-class"),
        ("validation_fraction", recipe.validation_fraction, 0.0, "nothing is validated: drop --validation-fraction"),
        (
            "encoder.positions",
            recipe.encoder.positions,
            "sincos",
            f"{name_of_method}'s positions are fixed: drop --encoder.positions",
        ),
    ):
        if value != unset:
            raise ConfigError(f"{name} is not read in {name_of_method} pre-training", found=str(value), fix=fix)
    if isinstance(recipe.method, MoCoV3) and recipe.encoder.init != "xavier":
        raise ConfigError(
            "encoder.init is not read in MoCo-v3 pre-training",
            found=recipe.encoder.init,
            fix="its initial values are its own: drop --encoder.init",
        )


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
    encoder: Encoder = Encoder()
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
    validation_fraction: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of train set aside, stratified by seed, when no validation data are given."""
    seed: int = Field(0, ge=0, le=2**63 - 1)
    """Seed of every random draw."""

    @property
    def peak_lr(self) -> float:
        """Learning rate at the end of warm-up."""
        return self.lr_per_256 * self.global_batch_size / 256

    @property
    def couples_samples(self) -> bool:
        """Whether all images of an update meet in the loss, so that it cannot be split into micro-batches."""
        return isinstance(self.method, MoCoV3)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if isinstance(self.method, Masking):
            _check_mask_ratio(self.method, self.encoder.patches)
            _check_unread(self, "MAE")
        elif isinstance(self.method, MoCoV3):
            _check_unread(self, "MoCo-v3")
        elif isinstance(self.method, FeatureDistillation):
            _check_unread(self, "feature distillation")
        if isinstance(self.method, DistilledMAE):
            _check_blocks(self.method, self.encoder.depth)
        _check_views(self)
        _check_batch(self)
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
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


class Runtime(Config):
    """Where and how a run is carried out; nothing here changes the schedule."""

    data: str
    """Training images: a path (folder, CSV, parquet, shards), "digits", or KIND:PLACE such as torchvision:cifar10."""
    val_data: str | None = None
    """Validation images; without them the data's own validation split, else validation_fraction of train."""
    on_bad: Literal["skip", "fail"] = "skip"
    """An unreadable image is replaced by another, up to 10 or 0.1 % of them, and listed in bad_files.csv; or it ends
    the run."""
    allow_empty_classes: bool = False
    """Keep class folders without images as classes, instead of refusing them."""
    out: str | None = None
    """Run folder; by default runs/RECIPE-HASH, so that the same command finds its run again."""
    init: str | None = None
    """Weights to start from: a run folder, a checkpoint folder or a file."""
    teacher: str | None = None
    """Weights of the teacher that a recipe distils: a run folder, a checkpoint folder, a timm folder, a file, or
    timm:NAME for pre-trained weights that timm knows."""
    stop_after_steps: int | None = Field(None, ge=1)
    """Stop early, resumable, when this many updates have been made in all."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Images per device and forward pass; smaller than the batch means accumulation."""
    workers: int | None = Field(None, ge=0)
    """Processes that read images; None chooses."""
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
    tensorboard: bool = True
    """Write TensorBoard event files beside metrics.jsonl."""
    progress: bool = True
    """Show progress."""


class Request(Runtime, Recipe):
    """A recipe and its runtime on one page: what the command line overrides."""

    def split(self) -> tuple[Recipe, Runtime]:
        """Return the two pages."""
        values = dict(self)
        recipe = {name: values[name] for name in Recipe.model_fields}
        runtime = {name: values[name] for name in Runtime.model_fields}
        return Recipe.model_validate(recipe), Runtime.model_validate(runtime)
