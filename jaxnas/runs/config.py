"""Configurations made of parts: frozen dataclasses whose fields are values or dataclasses again, written flat.

A run's files and its command line know a field by its name alone, whichever part it stands in, so names are unique.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

ConfigType = TypeVar("ConfigType")


def fields(config: Any) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """(field, value) of each field that is no part but a value, those of the parts in their places.

    Raises:
      TypeError: two parts have a field of the same name.
    """
    seen = set()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for entry in fields(value) if dataclasses.is_dataclass(value) else [(field, value)]:
            if entry[0].name in seen:
                raise TypeError(f"{type(config).__name__} has two fields called {entry[0].name}; rename one.")
            seen.add(entry[0].name)
            yield entry


def flat(config: Any) -> dict[str, Any]:
    """The values of a configuration by the names of their fields."""
    return {field.name: value for field, value in fields(config)}


def replace(config: ConfigType, **changes: Any) -> ConfigType:
    """The configuration with other values, given by the names of their fields, whichever part these stand in.

    Raises:
      TypeError: no part has a field of that name.
    """
    unknown = changes.keys() - flat(config).keys()
    if unknown:
        raise TypeError(f"{type(config).__name__} has no field {', '.join(sorted(unknown))}.")
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            within = flat(value)
            changed[field.name] = replace(value, **{name: changes[name] for name in changes if name in within})
        elif field.name in changes:
            changed[field.name] = changes[field.name]
    return dataclasses.replace(config, **changed)  # type: ignore[type-var]


def check_least(config: Any, **least: int) -> None:
    """Raise a ValueError where a field is below its least value; None stands for no number and passes."""
    for name, value in flat(config).items():
        if name in least and value is not None and value < least[name]:
            raise ValueError(f"{name} must be at least {least[name]}, got {value}.")


def read_value(config: Any, name: str, text: str) -> Any:
    """The value that `text` stands for, by the type of the field `name`: a number, true or false, a word, a literal."""
    kind = _types(config)[name]
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    known: dict[str, Any] = {"true": True, "false": False} if bool in kinds else {}
    for entry in kinds:
        if typing.get_origin(entry) is typing.Literal:
            known |= {word: word for word in typing.get_args(entry)}
    numbers = [entry for entry in kinds if entry in (int, float, str)]
    if text in known:
        return known[text]
    if not numbers:
        raise ValueError(f"{name}: unknown value {text!r}; choose among {', '.join(known)}.")
    try:
        return numbers[0](text)
    except ValueError:
        raise ValueError(f"{name}: expected a value of type {numbers[0].__name__}, got {text!r}.") from None


def _types(config: Any) -> dict[str, Any]:
    """The type of each field that is a value."""
    found = typing.get_type_hints(type(config))
    for name in list(found):
        if dataclasses.is_dataclass(part := getattr(config, name)):
            del found[name]
            found |= _types(part)
    return found
