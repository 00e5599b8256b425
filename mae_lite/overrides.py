"""From flags and files to validated settings, with one clear error for all that is wrong.

Flags become a nested mapping that is validated together with the recipe by pydantic, so a flag, a
Python call and a recipe file meet the same rules; tyro only renders ``--help``.
"""

from __future__ import annotations

import itertools
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mae_lite.errors import ConfigError, nearest

ModelT = TypeVar("ModelT", bound=BaseModel)
Values = dict[str, Any]
_UNIONS = ("encoder", "method", "optimizer")
"""Pages of several kinds; pydantic puts the kind behind their name."""


def flags(settings: Iterable[tuple[str, Any]]) -> list[str]:
    """Return settings as words of a command line, which :func:`parse` understands."""
    return [word for name, value in settings for word in (f"--{name.replace('_', '-')}", *_as_words(value))]


def _as_words(value: Any) -> list[str]:
    if not isinstance(value, list | tuple):
        return [str(value)]
    return [":".join(map(str, item)) if isinstance(item, list | tuple) else str(item) for item in value]


def parse(argv: Sequence[str], model: type[BaseModel], base: Mapping[str, Any]) -> Values:
    """Turn ``["--encoder.depth", "6", "--crop-scale=0.2", "1.0"]`` into a nested mapping over ``base``.

    Args:
        argv: flags with their values; a bare flag of a yes-or-no field means yes, ``None`` means no value.
        model: the page whose fields the flags name; it also says which fields are lists.
        base: values that hold where no flag is given.

    Raises:
        ConfigError: for an unknown flag, a repeated flag or a value without a flag.
    """
    values = _other_kinds(argv, _deep_copy(base))
    known = set(leaf_fields(model, values))
    for name, words in _flags(argv, known).items():
        holder, page = values, model
        *parents, leaf = name.split(".")
        for parent in parents:
            page = _inner_model(page.model_fields[parent].annotation, holder[parent]) or page
            holder = holder[parent]
        holder[leaf] = _value(name, words, page.model_fields[leaf].annotation)
    return values


def _other_kinds(argv: Sequence[str], values: Values) -> Values:
    """Where a flag asks for another method or optimiser, drop the settings of the one in ``values``."""
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for flag, kind in itertools.pairwise(words):
        page = flag.removeprefix("--").removesuffix(".kind")
        if flag == f"--{page}.kind" and page in values and values[page].get("kind") != kind:
            values[page] = {"kind": kind}
    return values


def build(model: type[ModelT], values: Mapping[str, Any]) -> ModelT:
    """Validate ``values``.

    Raises:
        ConfigError: one that names each wrong field, what was found and what was expected.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        items = error.errors(include_url=False)
        problems = "; ".join(_explain(model, values, item) for item in items)
        missing = [f"--{item['loc'][0]} VALUE" for item in items if item["type"] == "missing" and len(item["loc"]) == 1]
        if len(missing) == len(items):
            raise ConfigError(problems, fix=f"add {' '.join(missing)}".replace("_", "-")) from None
        raise ConfigError(problems, fix=f"correct {'this field' if len(items) == 1 else 'these fields'}") from None


def leaf_fields(model: type[BaseModel], values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the dotted name of every setting, taking ``values`` to say which method or optimiser it is."""
    yield from (name for name, _ in leaves(model, values))


def leaves(model: type[BaseModel], values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every setting as :func:`leaf_fields` does, with the field that describes it."""
    for name, field in model.model_fields.items():
        value = values.get(name)
        inner = _inner_model(field.annotation, value)
        if inner is None:
            yield prefix + name, field
        else:
            yield from leaves(inner, value if isinstance(value, Mapping) else {}, f"{prefix}{name}.")


def _flags(argv: Sequence[str], known: set[str]) -> dict[str, list[str]]:
    flags: dict[str, list[str]] = {}
    current: list[str] | None = None
    for word in argv:
        if word.startswith("--") and len(word) > 2:
            flag, equals, attached = word[2:].partition("=")
            name = flag.replace("-", "_")
            if name not in known:
                raise _unknown_flag(flag, known)
            if name in flags:
                raise ConfigError(f"--{flag}", found="it twice", expected="once", fix=f"give --{flag} once")
            current = flags[name] = [attached] if equals else []
        elif current is None:
            raise ConfigError(f"{word!r} belongs to no flag", fix="write --FIELD VALUE; --help lists the fields")
        else:
            current.append(word)
    return flags


def _unknown_flag(flag: str, known: set[str]) -> ConfigError:
    name = flag.replace("-", "_")
    same_leaf = sorted(field for field in known if field.rsplit(".", 1)[-1] == name)
    close = f" (nearest: {same_leaf[0]!r})" if same_leaf else nearest(name, known)
    better = close.partition("'")[2].partition("'")[0].replace("_", "-")
    fix = f"--{better} VALUE" if better else "--help lists the fields"
    return ConfigError(f"unknown option --{flag}{close.replace('_', '-')}", fix=fix)


def _value(name: str, words: Sequence[str], annotation: Any) -> Any:
    options = _options(annotation)
    if list(words) == ["None"] and types.NoneType in options:
        return None
    if any(typing.get_origin(option) is tuple for option in options):
        return tuple(words)
    if not words and bool in options:
        return True
    if not words:
        flag = f"--{name.replace('_', '-')}"
        raise ConfigError(flag, found="no value", expected="one", fix=f"{flag} VALUE")
    return words[0] if len(words) == 1 else tuple(words)


def _options(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    return typing.get_args(annotation) if union else (annotation,)


def _inner_model(annotation: Any, value: Any) -> type[BaseModel] | None:
    members = [_options(item)[0] if typing.get_origin(item) is Annotated else item for item in _options(annotation)]
    models = [item for item in members if isinstance(item, type) and issubclass(item, BaseModel)]
    kind = value.get("kind") if isinstance(value, Mapping) else None
    return next((item for item in models if kind and _kind(item) == kind), next(iter(models), None))


def _kind(model: type[BaseModel]) -> Any:
    """Return what tells ``model`` from the others of its union; None for the one that needs no such word."""
    field = model.model_fields.get("kind")
    return None if field is None else field.default


def _explain(model: type[BaseModel], values: Mapping[str, Any], item: Any) -> str:
    known = set(leaf_fields(model, values))
    steps = [str(step) for step in item["loc"]]
    path = ".".join(step for i, step in enumerate(steps) if not (i == 1 and steps[0] in _UNIONS))
    if item["type"] == "extra_forbidden":
        if len(steps) == 1 and path in known:  # one name with a dot in it, instead of a field of a group
            group, _, name = path.rpartition(".")
            return f"field {path!r} is one name, expected {name!r} inside {group!r}"
        return f"unknown field {path!r}{nearest(path, known)}"
    if item["type"] == "missing":
        return f"{path} is missing"
    expected = item["msg"].removeprefix("Input should be ")
    words = re.findall(r"'([^']*)'", expected) if item["type"] == "literal_error" else []
    close = nearest(str(item["input"]), words)
    return f"{path}: found {item['input']!r}{close}, expected {expected[0].lower()}{expected[1:]}"


def _deep_copy(values: Mapping[str, Any]) -> Values:
    return {name: _deep_copy(value) if isinstance(value, Mapping) else value for name, value in values.items()}
