"""The built-in digits, and what every source can do, shown on them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_lite.data.opening import open_source
from mae_lite.data.sources import Subset, subset
from mae_lite.data.splits import aligned, few_labels, stratified_split
from mae_lite.errors import ConfigError, DataError
from tests import toy


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    train, test = open_source("digits"), open_source("digits", "test")
    assert len(train) + len(test) == 1797
    assert (train.split, train.in_memory, train.classes) == ("train", True, tuple("0123456789"))
    known = {
        np.rint(image * 255 / 16).astype(np.uint8).tobytes(): int(label)
        for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    seen = []
    for source in (train, test):
        for index in range(len(source)):
            image = toy.picture(source, index, 1)
            assert (image.mode, image.size) == ("L", (8, 8))
            seen.append(image.tobytes())
            assert known[seen[-1]] == source.labels[index]
    assert sorted(seen) == sorted(np.rint(image * 255 / 16).astype(np.uint8).tobytes() for image in bunch.images)


def test_digits_split_is_stratified_and_fixed() -> None:
    train, test = open_source("digits"), open_source("digits", "test")
    for digit in range(10):
        of_train, of_test = int((train.labels == digit).sum()), int((test.labels == digit).sum())
        assert of_test == int((of_train + of_test) * 0.25 + 0.5)
    # Recorded once: the split must never change, for numbers would no longer compare.
    assert test.labels[:12].tolist() == RECORDED_LABELS
    assert str(test.fingerprint()["sha256"])[:16] == RECORDED_DIGEST


RECORDED_LABELS = [5, 0, 2, 5, 8, 9, 5, 8, 1, 6, 3, 3]
RECORDED_DIGEST = "36be179b3c1d6f4b"


def test_digits_in_colour_repeat_the_grey_values() -> None:
    source = open_source("digits")
    colour, grey = np.asarray(toy.picture(source, 3, 3)), np.asarray(toy.picture(source, 3, 1))
    assert (colour == grey[..., None]).all() and colour.shape == (8, 8, 3)


def test_describe_and_fingerprint() -> None:
    train, test = open_source("digits"), open_source("digits", "test")
    assert "digits" in train.describe() and "10 classes" in train.describe() and "\n" not in train.describe()
    assert train.fingerprint()["count"] == len(train)
    assert train.fingerprint() == open_source("digits").fingerprint() != test.fingerprint()


def test_subset_is_a_view() -> None:
    source = open_source("digits")
    view = subset(source, [5, 3, 9])
    assert len(view) == 3 and view.classes == source.classes
    assert view.labels.tolist() == source.labels[[5, 3, 9]].tolist()
    assert toy.picture(view, 1, 1).tobytes() == toy.picture(source, 3, 1).tobytes()
    again = pickle.loads(pickle.dumps(view))
    assert toy.picture(again, 2, 1).tobytes() == toy.picture(source, 9, 1).tobytes()
    assert view.fingerprint() == again.fingerprint() != subset(source, [5, 3, 8]).fingerprint()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.01, 0.99), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_stratified_split_properties(values: list[int], fraction: float, seed: int) -> None:
    labels = np.array(values, dtype=np.int64)
    train, aside = stratified_split(labels, fraction, seed)
    assert sorted([*train.tolist(), *aside.tolist()]) == list(range(len(labels)))
    assert train.tolist() == sorted(train.tolist()) and aside.tolist() == sorted(aside.tolist())
    for label in set(values):
        count, held = values.count(label), int((labels[aside] == label).sum())
        assert held == 0 if count == 1 else 1 <= held <= count - 1
        assert count == 1 or abs(held - count * fraction) <= 1
    again = stratified_split(labels, fraction, seed)
    assert (again[0] == train).all() and (again[1] == aside).all()


def test_stratified_split_depends_on_the_seed_and_accepts_no_labels() -> None:
    labels = np.full(100, -1, dtype=np.int64)
    assert len(stratified_split(labels, 0.2, 0)[1]) == 20
    assert stratified_split(labels, 0.2, 0)[1].tolist() != stratified_split(labels, 0.2, 1)[1].tolist()
    for fraction in (0.0, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="Fix: --validation-fraction"):
            stratified_split(labels, fraction, 0)


@given(st.integers(1, 8), st.integers(0, 8), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_few_labels_are_nested_and_exact(few: int, more: int, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(5), 16)).astype(np.int64)
    small, large = few_labels(labels, few, seed), few_labels(labels, few + more, seed)
    assert set(small.tolist()) <= set(large.tolist())
    assert small.tolist() == sorted(small.tolist())
    assert np.bincount(labels[small]).tolist() == [few] * 5


def test_few_labels_differ_by_seed() -> None:
    labels = open_source("digits").labels
    assert few_labels(labels, 4, 0).tolist() != few_labels(labels, 4, 1).tolist()


@pytest.mark.parametrize(
    ("labels", "per_class", "classes", "words"),
    [
        ([0, 0, 1], 2, ("cat", "dog"), "'dog'"),
        ([0, 0, 0], 1, ("cat", "dog"), "'dog'"),
        ([0, 0, 1], 2, None, "'1'"),
        ([0, 1], 0, ("cat", "dog"), "'cat'"),
        ([-1, -1], 1, None, "labels"),
    ],
)
def test_few_labels_name_the_class_that_lacks(
    labels: list[int], per_class: int, classes: tuple[str, ...] | None, words: str
) -> None:
    with pytest.raises(DataError) as caught:
        few_labels(np.array(labels, dtype=np.int64), per_class, 0, classes)
    assert caught.value.exit_code == 3
    assert words in str(caught.value) and "Fix: " in str(caught.value)


def test_labels_mean_the_same_class_as_in_training(caplog: pytest.LogCaptureFixture) -> None:
    train, test = open_source("digits"), open_source("digits", "test")
    assert aligned(test, train.classes, train.name) is test
    labels = test.labels.copy()
    test.classes = tuple("1023456789")
    swapped = aligned(test, train.classes, train.name)
    assert swapped.classes == train.classes and not caplog.records
    assert swapped.labels.tolist() == [{0: 1, 1: 0}.get(label, label) for label in labels.tolist()]
    assert toy.picture(swapped, 5, 1).tobytes() == toy.picture(test, 5, 1).tobytes()
    test.classes = tuple("012345678x")
    with pytest.raises(DataError, match=r"(?s)extra 'x'; missing '9'.*Fix: "):
        aligned(test, train.classes, train.name)
    test.classes = None
    with pytest.raises(DataError, match="missing"):
        aligned(test, train.classes, train.name)
    with pytest.raises(DataError, match="extra"):
        aligned(train, None, "photos")


def test_a_class_without_validation_images_is_named(caplog: pytest.LogCaptureFixture) -> None:
    train, test = open_source("digits"), open_source("digits", "test")
    fewer = Subset(test, np.flatnonzero(test.labels > 0), test.labels[test.labels > 0] - 1, tuple("123456789"))
    view = aligned(fewer, train.classes, train.name)
    assert view.classes == train.classes and view.labels.tolist() == test.labels[test.labels > 0].tolist()
    assert "lacks 1 classes of the training data: '0'" in caplog.text
