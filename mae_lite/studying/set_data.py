"""The images of a set, opened before anything is trained on them: test images are none that were trained on."""

from __future__ import annotations

from mae_lite.data.opening import open_source, own_split
from mae_lite.data.sources import Source
from mae_lite.data.splits import aligned
from mae_lite.errors import DataError, SplitError
from mae_lite.studies.suites import Set


def check(one: Set) -> str:
    """Open training and test images, and return how many there are, in words.

    What torchvision downloads is downloaded here, once, and not by several runs at the same time.

    Raises:
        DataError: when one cannot be read, has no labels or other classes, or test images took part in training.
    """
    train = open_source(one.data, "train")
    if train.classes is None or len(train.classes) < 2:
        raise DataError(
            f"set {one.name!r}: {one.data!r}",
            found="no labels" if train.classes is None else f"one class, {train.classes[0]!r}",
            expected="labelled images of two classes at least",
            fix="give a folder with one sub-folder per class, or a table with labels",
        )
    test = _test(one)
    own = own_split(one.data, train, "val")
    for other, what, why in ((train, "training", "trained on"), (own, "validation", "what the grid is measured on")):
        if other is not None and other.fingerprint() == test.fingerprint():
            raise DataError(
                f"set {one.name!r}: the test images are the {what} images",
                found=f"the same {len(test):,} images in {one.test!r}",
                expected=f"images that are not {why}",
                fix=_fix(one),
            )
    aligned(test, train.classes, one.data)
    kept = "" if own is None else f", {len(own):,} validation images of its own"
    return f"{len(train):,} training images{kept}, {len(test):,} test images, {len(train.classes):,} classes"


def _test(one: Set) -> Source:
    """Open the test images; validation images, which choose the settings, do not stand in."""
    try:
        test = open_source(one.test, "test", strict=True)
    except SplitError as error:
        raise DataError(
            f"set {one.name!r}: {error.what}", found=error.found, expected="test images", fix=_fix(one)
        ) from error
    if test.classes is None:
        raise DataError(f"set {one.name!r}: {one.test!r} has no labels", fix="give labelled test images")
    return test


def _fix(one: Set) -> str:
    return f'name others in a file for --sources, below [{one.name}]: test_data = "PATH", or data = "PATH#train" too'
