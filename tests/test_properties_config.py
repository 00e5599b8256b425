"""Whatever a recipe holds, it is a valid one or one clear error; a valid one survives JSON."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mae_lite import recipes
from mae_lite.config import Hiding, Recipe
from mae_lite.errors import ConfigError
from mae_lite.overrides import build, leaf_fields
from tests import toy

BUILT_IN = {name: recipes.get(name).model_dump(mode="json") for name in recipes.names()}
FIELDS = {name: sorted(leaf_fields(Recipe, values)) for name, values in BUILT_IN.items()}
WORDS = ["mae", "swin", "sgd", "None", "nan", "1e999", "../../x", "${x}", "kind", "\x1b[2J\n", "0x10", "5:11", "true"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**63, 10**30, 10**400, -(10**400)]),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=8),
)
KEYS = st.one_of(st.sampled_from([*Recipe.model_fields, "kind", "betas", "depth", "recipe"]), st.text(max_size=6))
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6))


def numbers(value: Any) -> Iterator[float]:
    """Yield every number of nested values."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from numbers(one)
    elif isinstance(value, int | float):
        yield value


def refused(error: ConfigError) -> None:
    """Check what a refusal says."""
    what, fix = str(error).split("\nFix: ")
    assert len(what) > 10 and "\n" not in what and len(fix) > 5 and "\n" not in fix, str(error)
    assert "pydantic" not in what and "<class" not in what, str(error)


def kept(recipe: Recipe) -> None:
    """Check a recipe that was taken."""
    assert all(math.isfinite(number) for number in numbers(recipe.model_dump()))
    again = build(Recipe, json.loads(recipe.model_dump_json()))
    assert again == recipe and again.digest() == recipe.digest()
    assert build(Recipe, json.loads(json.dumps(recipe.model_dump(mode="json")))) == recipe


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes") / "one.json"


@given(content=JSON)
@settings(max_examples=100, deadline=None, derandomize=True)
@example(content={"recipe": {**BUILT_IN["mae-tiny"], "epochs": 10**400}})
def test_a_file_with_anything_is_a_recipe_or_one_error(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")
    try:
        kept(recipes.get(str(file)))
    except ConfigError as error:
        refused(error)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"epochs": ' + "9" * 5000 + "}", '{"a": 1' * 50_000])
def test_a_file_that_no_reader_likes_is_one_error(text: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        recipes.get(str(file))
    refused(caught.value)


@given(data=st.data())
@settings(max_examples=250, deadline=None, derandomize=True)
def test_any_field_of_a_recipe_may_be_anything(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(BUILT_IN)))
    *pages, leaf = data.draw(st.sampled_from(FIELDS[name])).split(".")
    values = json.loads(json.dumps(BUILT_IN[name]))
    page = values
    for one in pages:
        page = page[one]
    page[leaf] = data.draw(JSON)
    try:
        recipe = build(Recipe, values)
    except ConfigError as error:
        refused(error)
    else:
        kept(recipe)


@pytest.mark.parametrize("kind", toy.EVERY)
def test_no_field_takes_a_number_that_is_not_finite(kind: str) -> None:
    """Where words are free, "-inf" is one."""
    whole = toy.EVERY[kind]().model_dump(mode="json")
    for name, number in itertools.product(leaf_fields(Recipe, whole), (math.nan, math.inf, "-inf")):
        values = json.loads(json.dumps(whole))
        *pages, leaf = name.split(".")
        page = values
        for one in pages:
            page = page[one]
        page[leaf] = number
        try:
            kept(build(Recipe, values))
        except ConfigError as error:
            refused(error)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_recipe_survives_json(name: str) -> None:
    kept(recipes.get(name))


RATIOS = st.one_of(
    st.floats(0.0, 1.0),
    st.floats(-0.5, 1.5),
    st.sampled_from([0.0, 1.0, 1e-9, 1 - 1e-9, math.nan, math.inf, -math.inf]),
)


@given(
    grid=st.integers(1, 40), unit=st.sampled_from([1, 2, 4]), odd=st.integers(0, 3), ratio=RATIOS, kind=st.booleans()
)
@settings(max_examples=250, deadline=None, derandomize=True)
@example(grid=14, unit=1, odd=0, ratio=1.0, kind=True)
def test_a_share_to_hide_fits_the_size_or_the_error_names_what_does(
    grid: int, unit: int, odd: int, ratio: float, kind: bool
) -> None:
    """With patches of 4 pixels: ``grid`` x ``grid`` places of ``unit`` x ``unit`` patches, and ``odd`` pixels more."""
    toy_recipe = toy.mae if kind else toy.simmim
    side, count = 4 * (1 if kind else unit), grid**2
    method: dict[str, Any] = {"mask_ratio": ratio} if kind else {"mask_ratio": ratio, "mask_unit_px": side}
    shape = {"image_size": grid * side + odd, "patch_size": 4}

    def attempt(share: float) -> Recipe:
        return toy_recipe(encoder=shape, method={**method, "mask_ratio": share})

    try:
        recipe = attempt(ratio)
    except ConfigError as error:
        refused(error)
        if odd:
            assert "encoder.image_size" in error.what
        elif not math.isfinite(ratio):
            assert "method.mask_ratio" in error.what and "finite" in error.what
        else:
            assert error.what == "method.mask_ratio" and not 1 / count <= ratio <= 1 - 1 / count
            allowed = re.match(r"([0-9.e-]+) to ([0-9.e-]+), ", error.expected)
            assert (allowed is None) == (count == 1), error.expected
            for end in allowed.groups() if allowed else ():
                attempt(float(end))
    else:
        assert isinstance(recipe.method, Hiding) and not odd
        assert 1 <= recipe.method.kept(count) < count
