"""One factor at a time around a recipe of MAE: what each setting is worth, on the accuracy after fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mae_lite import recipes
from mae_lite.config import MAE, Recipe
from mae_lite.errors import ConfigError
from mae_lite.studies.values import Pretraining, Row, Scale, Study, Task


class _Subject(NamedTuple):
    """What goes with a recipe that can be varied."""

    tuned: str
    data: str | None
    images: int
    test_images: int
    classes: int
    seeds: tuple[int, ...]
    gflops_per_second: float
    hardware: str


SUBJECTS: Mapping[str, _Subject] = {
    "mae-tiny": _Subject("finetune-improved", None, 1_281_167, 50_000, 1000, (0,), 10_000.0, "one GPU"),
    "mae-small": _Subject("finetune-improved-small", None, 1_281_167, 50_000, 1000, (0,), 10_000.0, "one GPU"),
    "cifar10-mae-tiny": _Subject("cifar10-finetune", None, 50_000, 10_000, 10, (0, 1, 2), 10_000.0, "one GPU"),
    "digits-mae": _Subject("digits-finetune", "digits", 1346, 451, 10, (0, 1, 2), 40.0, "one CPU core"),
}

_MASK_RATIOS = (0.5, 0.6, 0.75, 0.85)
_DECODER_DEPTHS = (1, 2, 4, 8)
_WIDTH_FACTORS = (0.5, 2.0)
_HEADS = (3, 6, 12)
_CROPS = (0.08, 0.2, 0.5)
_LAYER_DECAYS = (0.65, 0.75, 0.85, 1.0)
_EPOCH_FACTORS = (0.25, 0.5, 2.0)
_IMAGE_FRACTIONS = (0.01, 0.1, 0.5)
_FEWEST_BATCHES = 2
"""In an epoch of pre-training; of a smaller share of the images no row is made."""


def study(scale: Scale, subject: str | None) -> Study:
    """Return the study around the recipe ``subject``; smoke cuts all to 10 updates, cpu and full are the same.

    Raises:
        ConfigError: for a recipe that is not one of :data:`SUBJECTS`.
    """
    if subject is None or subject not in SUBJECTS:
        raise ConfigError(
            "the recipe to vary",
            found="none" if subject is None else repr(subject),
            expected=f"one of {', '.join(SUBJECTS)}",
            fix="mae-lite study ablation mae-tiny --data DATA",
        )
    facts, base = SUBJECTS[subject], recipes.get(subject)
    tuned = recipes.get(facts.tuned)
    rows = [_row("as it is", base, tuned), *_pretraining(base, tuned, facts.images), *_finetuning(base, tuned)]
    return Study(
        name=f"ablation-{subject}" + ("-smoke" if scale == "smoke" else ""),
        title=f"One factor at a time around {subject}",
        notes=(
            f"Each row changes one setting of {subject}, or of {facts.tuned} after it; differences are to the row 'as "
            "it is', with the same seed.",
            "Settings act together: the best of each need not be the best of all.",
        ),
        data=facts.data,
        images=facts.images,
        test_images=facts.test_images,
        classes=facts.classes,
        rows=tuple(rows),
        tasks=(Task(name="after fine-tuning"),),
        seeds=facts.seeds,
        against="as it is",
        runtime={"workers": 0, "probe_images": 0, "accelerator": "cpu"} if facts.data == "digits" else {},
        gflops_per_second=facts.gflops_per_second,
        hardware=facts.hardware,
        updates=10 if scale == "smoke" else None,
    )


def _row(name: str, recipe: Recipe, tuned: Recipe) -> Row:
    return Row(name=name, pretraining=Pretraining(recipe=recipe), finetuning=tuned)


def _pretraining(base: Recipe, tuned: Recipe, images: int) -> Iterator[Row]:
    """Yield the rows that change the pre-training; its values in ``base`` are the row 'as it is'."""
    method, encoder = base.method, base.plain_encoder
    assert isinstance(method, MAE)  # SUBJECTS has no others
    for ratio in _MASK_RATIOS:
        if ratio != method.mask_ratio:
            yield _row(f"mask ratio {ratio:g}", recipes.derive(base, method={"mask_ratio": ratio}), tuned)
    for depth in _DECODER_DEPTHS:
        if depth != method.decoder_depth:
            yield _row(f"decoder depth {depth}", recipes.derive(base, method={"decoder_depth": depth}), tuned)
    for factor in _WIDTH_FACTORS:
        width = int(method.decoder_width * factor)
        yield _row(f"decoder width {width}", recipes.derive(base, method={"decoder_width": width}), tuned)
    for heads in _HEADS:
        if heads != encoder.num_heads and encoder.width % heads == 0:
            own = {"num_heads": heads}
            yield _row(f"{heads} heads", recipes.derive(base, encoder=own), recipes.derive(tuned, encoder=own))
    yield _row("pixels as they are", recipes.derive(base, method={"normalize_target": False}), tuned)
    if encoder.patch_size >= 4:
        gradients = method.model_dump(exclude={"kind", "normalize_target"}) | {"kind": "mae_hog"}
        yield _row("gradients (HOG) as the target", recipes.derive(base, method=gradients), tuned)
    if base.augmentation.crop_scale is not None:
        for smallest in _CROPS:
            if smallest != base.augmentation.crop_scale[0]:
                cropped = recipes.derive(base, augmentation={"crop_scale": (smallest, 1.0)})
                yield _row(f"crops from {smallest:g}", cropped, tuned)
    for factor in _EPOCH_FACTORS:
        longer = recipes.derive(base, epochs=base.epochs * factor, warmup_epochs=base.warmup_epochs * factor)
        yield _row(f"{longer.epochs:g} epochs", longer, tuned)
    for share in _IMAGE_FRACTIONS:
        if share * images >= _FEWEST_BATCHES * base.global_batch_size:
            longer_by = (images // base.global_batch_size) / (int(share * images) // base.global_batch_size)
            epochs, warmup = base.epochs * longer_by, base.warmup_epochs * longer_by
            fewer = recipes.derive(base, image_fraction=share, epochs=epochs, warmup_epochs=warmup)
            yield _row(f"{share:.0%} of the images, as many updates".replace("%", " %"), fewer, tuned)


def _finetuning(base: Recipe, tuned: Recipe) -> Iterator[Row]:
    """Yield the rows that change what comes after."""
    for decay in _LAYER_DECAYS:
        if decay != tuned.layer_decay:
            yield _row(f"layer decay {decay:g}", base, recipes.derive(tuned, layer_decay=decay))
    strong = {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1}
    yield _row("strong mixing of images", base, recipes.derive(tuned, method=strong))
    if tuned.augmentation.randaugment is not None:
        yield _row("no RandAugment", base, recipes.derive(tuned, augmentation={"randaugment": None}))
    yield _row("drop path 0.1", base, recipes.derive(tuned, encoder={"drop_path": 0.1}))
