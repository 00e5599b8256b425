"""The options of every command, beside those of recipes and runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mae_lite import config
from mae_lite.copies.settings import DuplicateSettings
from mae_lite.frozen.settings import EmbedSettings, ProbeSettings


class NoOptions(config.Config):
    """A command without options."""


class ListOptions(config.Config):
    """Options of mae-lite recipes; words before them are looked for in names of recipes and of their methods."""

    json_output: bool = False
    """Print JSON with every setting instead of a table (also --json)."""


class EvaluateOptions(config.Config):
    """Options of mae-lite evaluate."""

    data: str | None = None
    """Labelled images; by default the test split of the run's own data."""
    split: Literal["train", "val", "test"] = "test"
    """Split of data that has both."""
    batch_size: int = Field(256, ge=1)
    """Images per forward pass."""
    workers: int = Field(0, ge=0)
    """Processes that read images."""
    on_bad: Literal["fail", "skip"] = "fail"
    """An unreadable image ends the evaluation, or is left out and counted."""
    allow_empty_classes: bool = False
    """Accept class folders without images."""
    json_output: bool = False
    """Print JSON instead of a table."""


class ReplayOptions(config.Config):
    """Options of mae-lite replay."""

    data: str | None = None
    """Where the training images are now; by default where they were."""
    val_data: str | None = None
    """Where the validation images are now."""
    teacher: str | None = None
    """Where the teacher of a distilling recipe is now."""
    precision: Literal["bf16", "fp32"] | None = None
    """Arithmetic to try; by default the recipe's."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Kind of device."""
    json_output: bool = False
    """Print JSON instead of text (also --json)."""


class PlanRequest(config.Request):
    """A run, and how ``mae-lite plan`` looks at it."""

    seconds: float = Field(5.0, ge=0.0)
    """Length of each measurement."""
    json_output: bool = False
    """Print JSON instead of text."""


class BenchRequest(PlanRequest):
    """A run, and how ``mae-lite bench`` times it."""

    batch: int | None = Field(None, ge=1)
    """Images per update; None takes those of a forward pass, at most 1024 on a GPU and 64 elsewhere."""


class CheckOptions(config.Config):
    """Options of mae-lite check."""

    recipe: str = "mae-tiny"
    """Recipe whose reading rules, channels and augmentation are tried."""
    channels: int | None = Field(None, ge=1)
    """Channels of the images, where the recipe is for another number."""
    reading: config.Reading = config.Reading()
    """How files become pixels; give here what training will be given."""
    val_data: str | None = None
    """Validation images, to be checked as well and compared; by default the data's own validation split."""
    sample: int | None = Field(None, ge=1)
    """Look at this many images, drawn at random, instead of all."""
    workers: int | None = Field(None, ge=0)
    """Processes that read images; None chooses."""
    on_bad: Literal["fail", "skip"] = "fail"
    """Whether the exit code is 3 when a file is bad, or 0 as long as training would go on."""
    save_hashes: str | None = None
    """File to write the SHA-256 of every image to, in the format of sha256sum."""
    compare_hashes: str | None = None
    """Such a file, to find images that have changed since."""
    out: str = "runs/check"
    """Folder for check.json, preview.png and bad_files.csv."""
    json_output: bool = False
    """Print JSON instead of text (also --json)."""


class PrepareOptions(config.Config):
    """Options of mae-lite prepare, which makes a pack.

    JPEGs have their short side at ``side``; smaller images are not enlarged, and plain ones not encoded again. uint8
    keeps pixels: images are resized, and cut to the square in their middle, so that none has to be decoded later.

    A pack that was interrupted goes on when the same command is given again; a damaged one is mended by it.
    """

    kind: Literal["jpeg", "uint8"] = "jpeg"
    """How images are kept: small on the disk, or read fastest."""
    side: int | None = Field(None, ge=1, le=65_500)
    """Short side in pixels; None takes 256, or the common side of smaller images."""
    quality: int | None = Field(None, ge=1, le=95)
    """Of the JPEGs; None takes 90."""
    channels: int = Field(3, ge=1)
    """Channels of the images; other than 3 with --kind uint8 alone."""
    reading: config.Reading = config.Reading()
    """How files become pixels; give here what training would be given."""
    workers: int | None = Field(None, ge=0)
    """Processes that convert; None chooses."""
    on_bad: Literal["fail", "skip"] = "fail"
    """Whether an unreadable image is an error, or is left out, up to 10 or 0.1 % of them; bad_files.csv names them."""
    allow_empty_classes: bool = False
    """Accept class folders without images."""
    dry_run: bool = False
    """Convert a few images, tell time and size of the whole, and write nothing."""
    verify: bool = False
    """Read a finished pack again, every hash and every image; DATA is not looked at."""


class ConvertOptions(config.Config):
    """Options of mae-lite convert."""

    to: Literal["ours", "timm", "huggingface"] = "ours"
    """Format to write: a folder for --init, for timm, or for Hugging Face transformers."""
    heads: int | None = Field(None, ge=1)
    """Attention heads, where the source does not say and its width does not tell."""
    decoder_heads: int | None = Field(None, ge=1)
    """Attention heads of the decoder, likewise."""
    image_size: int | None = Field(None, ge=1)
    """Resize the positions to images of this side in pixels; None keeps them."""
    prefix: str = ""
    """Take only tensors whose names begin with this, in a checkpoint of several models."""


class AnalyzeOptions(config.Config):
    """Options of mae-lite analyze."""

    data: str
    """Images to look at; with labels, unless --importance none."""
    split: Literal["train", "val", "test"] = "test"
    """Split of data that has several."""
    images: int = Field(1000, ge=10)
    """Images to look at, drawn by seed; of each class as many where there are labels."""
    importance: Literal["skip", "reinitialise", "none"] = "skip"
    """What is done to one block at a time, to see what it costs nearest neighbours."""
    pictures: int = Field(8, ge=0)
    """Images to show with the model's tokens and attention, and with what a masked autoencoder paints."""
    mask_ratios: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = (0.5, 0.75, 0.9)
    """Shares of the patches to hide from runs of masked autoencoders, to see what they paint."""
    heads: int | None = Field(None, ge=1)
    """Attention heads of weights that do not say and whose width does not tell."""
    random: bool = False
    """Give models named timm:NAME initial values instead of published weights."""
    seed: int = Field(0, ge=0)
    """Of the choice of images and of initial values."""
    batch_size: int = Field(64, ge=4)
    """Images per forward pass and per estimate of CKA, which averages over them."""
    workers: int = Field(0, ge=0)
    """Processes that read images."""
    on_bad: Literal["fail", "skip"] = "fail"
    """An unreadable image ends the analysis, or is left out."""
    reading: config.Reading = config.Reading()
    """How files become pixels."""
    out: str = "analysis"
    """Folder for figures and numbers."""
    json_output: bool = False
    """Print JSON instead of text (also --json)."""


class ProbeOptions(ProbeSettings):
    """Options of mae-lite probe."""

    out: str = "probe"
    """Folder for probe.json, figures over blocks, the list of few labels, and numbers of models that are no runs."""
    json_output: bool = False
    """Print JSON instead of text (also --json)."""


class EmbedOptions(EmbedSettings):
    """Options of mae-lite embed."""

    out: str
    """File to write: a table .parquet, or an array .npy with a list .csv beside it."""


class DuplicatesOptions(DuplicateSettings):
    """Options of mae-lite duplicates."""

    out: str = "runs/duplicates"
    """Folder for duplicates.json, duplicates.csv with every pair, and duplicates.png."""
    json_output: bool = False
    """Print JSON instead of text (also --json)."""


class PredictOptions(config.Config):
    """Options of mae-lite predict."""

    top: int = Field(3, ge=1)
    """Classes to name for each image, the most probable first."""
    split: Literal["train", "val", "test"] | None = None
    """Part of a folder or data set that has several; None takes all of a folder, and test of a data set."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many images; None takes all."""
    heads: int | None = Field(None, ge=1)
    """Attention heads of weights that do not say and whose width does not tell."""
    batch_size: int = Field(64, ge=1)
    """Images per forward pass."""
    workers: int = Field(0, ge=0)
    """Processes that read images."""
    on_bad: Literal["fail", "skip"] = "fail"
    """Whether the exit code is 3 or 0 when an image cannot be read; all others are predicted either way."""
    out: str | None = None
    """File to write instead of a table: .csv or .json."""
    json_output: bool = False
    """Print JSON instead of a table (also --json)."""


class LayersRequest(config.Request):
    """A fine-tuning, and how often ``mae-lite layers`` repeats it with a part of the pre-trained blocks."""

    keep: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Numbers of first, and of last, pre-trained blocks to keep; none and all are added. None takes quarters."""
    seeds: tuple[Annotated[int, Field(ge=0, le=2**63 - 1)], ...] = (0, 1, 2)
    """Every point is fine-tuned once with each of these, in place of --seed."""
    test_data: str | None = None
    """Labelled images to measure on; by default the test split of the data."""
    test_split: Literal["val", "test"] = "test"
    """Split of data that has several, to measure on."""
    processes: int = Field(1, ge=1)
    """Runs carried out at once; they share processors and GPU."""
    json_output: bool = False
    """Print JSON instead of a table (also --json)."""


class ReportOptions(config.Config):
    """Options of mae-lite report."""

    out: str = "report.html"
    """The page to write."""
    title: str | None = None
    """Title of the page; None makes one of recipes and data."""


class WatchOptions(config.Config):
    """Options of mae-lite watch."""

    port: int = Field(8123, ge=0, le=65535)
    """Port on this machine; 0 takes any that is free."""
    title: str | None = None
    """Title of the page."""


class DemoOptions(config.Config):
    """Options of mae-lite demo."""

    out: str = "runs/demo"
    """Folder for the runs and the page."""
    processes: int = Field(2, ge=1)
    """Runs carried out at once, one thread each."""
    pretrain_steps: int | None = Field(None, ge=1)
    """Shorter pre-training, for a quick look."""
    finetune_steps: int | None = Field(None, ge=1)
    """Shorter fine-tuning, for a quick look."""
    json_output: bool = False
    """Print JSON instead of a table (also --json)."""
