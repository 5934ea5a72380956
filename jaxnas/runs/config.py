"""Configurations made of parts: frozen dataclasses whose fields are values or dataclasses again, written flat.

A run's files and its command line know a field by its name alone, whichever part it stands in, so names are unique.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from jaxnas.checks import MOST, Kind, Number, OneOf, Text, Whole, shown
from jaxnas.files import one_line, read_file

ConfigType = TypeVar("ConfigType")
MOST_CONFIG_BYTES = 2**20
# What a type admits of which nothing is said.
PLAIN: dict[Any, Kind] = {int: Whole(-MOST), float: Number(), str: Text()}


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


def check(config: ConfigType) -> ConfigType:
    """The config, if each field's value is one that its type admits, and none contradict each other.

    A type says it by a kind of `jaxnas.checks`, as in `Annotated[int, Whole(1)] | None`, a literal by its words; a
    `tuple[X, ...]` has at least one X. What values ask of each other is said by a part's own `check()`.

    Raises:
      ValueError: another value, or values that contradict each other.
      TypeError: a type of which it is not known what it admits.
    """
    values = flat(config)
    for name, kind in kinds(config).items():
        kind.check(name, values[name])
    for part in _parts(config):
        if hasattr(part, "check"):
            part.check()
    return config


def kinds(config: Any) -> dict[str, Kind]:
    """What each field admits, by its name."""
    return {name: kind_of(hint) for name, hint in _types(config).items()}


def kind_of(hint: Any) -> Kind:
    """What a field's type admits; `str` of it is what --help shows."""
    origin, within = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        said = [entry for entry in within[1:] if hasattr(entry, "check")]
        return said[0] if said else kind_of(within[0])
    if origin in (types.UnionType, typing.Union):
        return _Either(tuple(map(kind_of, within)))
    if origin is tuple:
        return _Several(kind_of(within[0]))
    if origin is typing.Literal:
        return OneOf(within)
    if hint in (bool, types.NoneType):
        return OneOf([False, True] if hint is bool else [None])
    if hint is Path:
        return _File()
    if hint in PLAIN:
        return PLAIN[hint]
    raise TypeError(f"a field of type {hint} says neither range nor list; annotate it with a kind of jaxnas.checks.")


class _Either(NamedTuple):
    kinds: tuple[Kind, ...]

    def __str__(self) -> str:
        return " or ".join(map(str, self.kinds))

    def check(self, name: str, value: Any) -> Any:
        errors = []
        for kind in self.kinds:
            try:
                return kind.check(name, value)
            except ValueError as error:
                errors.append(str(error).rstrip("."))
        raise ValueError(", or ".join([errors[0], *map(str, self.kinds[1:])]) + ".")


class _Several(NamedTuple):
    kind: Kind

    def __str__(self) -> str:
        return f"one or more: {self.kind}"

    def check(self, name: str, value: Any) -> Any:
        if not isinstance(value, tuple) or not value:
            raise ValueError(f"{name} is {shown(value)}, expected {self}.")
        return tuple(self.kind.check(name, entry) for entry in value)


class _File(NamedTuple):
    def __str__(self) -> str:
        return "a path"

    def check(self, name: str, value: Any) -> Any:
        Text("a path").check(name, str(value) if isinstance(value, Path) else value)
        return value


def read_value(config: Any, name: str, text: str) -> Any:
    """The value that `text` stands for, by the type of the field `name`: a number, true or false, a word, a literal."""
    kinds = _plain_types(_types(config)[name])
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


def read_fields(path: Path, name: str) -> tuple[str | None, dict[str, Any]]:
    """The preset that a configuration file names, if it does, and its fields: YAML or JSON, flat, as in

        preset: cpu
        space: nasbench201
        num_seeds: 3

    or the config.json of a workdir of the experiment `name`.

    Raises:
      ValueError: no such file, or anything else in it.
    """
    import yaml  # not by whoever imports jaxnas.runs

    try:
        content = yaml.safe_load(read_file(path, MOST_CONFIG_BYTES))
    except FileNotFoundError:
        raise ValueError(f"--config {path}: no such file.") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"--config {path}: neither YAML nor JSON ({one_line(error)}).") from None
    expected = "expected lines such as `num_seeds: 3`, or a workdir's config.json"
    if (
        isinstance(content, dict)
        and set(content) == {"name", "preset", "config"}
        and isinstance(content["config"], dict)
    ):
        if content["name"] != name:
            raise ValueError(f"--config {path}: of the experiment {shown(content['name'])}, not {name}.")
        content = {"preset": content["preset"], **content["config"]}
    if not isinstance(content, dict) or not all(isinstance(field, str) for field in content):
        raise ValueError(f"--config {path}: no fields with values, {expected}.")
    for field, value in content.items():
        for entry in value if isinstance(value, list) else [value]:
            if entry is not None and not isinstance(entry, bool | int | float | str):
                raise ValueError(f"--config {path}: {field} has a {type(entry).__name__} in it, {expected}.")
    preset = content.pop("preset", None)
    return preset if preset is None else str(preset), content


def with_fields(config: ConfigType, given: Mapping[str, Any], source: str) -> ConfigType:
    """The config with the fields that a file gave; YAML's numbers, texts and lists become what the fields hold.

    Raises:
      ValueError: a field that it doesn't have or a value that it doesn't admit, with the nearest name that it does.
    """
    admitted, changes = kinds(config), dict[str, Any]()
    for name, value in given.items():
        if name not in admitted:
            raise ValueError(
                f"{source}: there is no field {shown(name)}{_near(name, admitted)}; --help lists all fields."
            )
        try:
            changes[name] = admitted[name].check(name, _as_field(config, name, value))
        except ValueError as error:
            near = _near(value, re.findall(r"[\w.-]+", str(admitted[name]))) if isinstance(value, str) else ""
            raise ValueError(f"{source}: {str(error).rstrip('.')}{near}.") from None
    return replace(config, **changes)


def _as_field(config: Any, name: str, value: Any) -> Any:
    """A value of YAML as the field's type has it: 1 as 1.0, "5e-4", which is a text there, as a number, lists as
    tuples, texts as paths."""
    plain = _plain_types(_types(config)[name])
    if isinstance(value, list) or (value is not None and any(typing.get_origin(kind) is tuple for kind in plain)):
        return tuple(value) if isinstance(value, list) else (value,)
    if isinstance(value, str) and Path in plain:
        return Path(value)
    if isinstance(value, str) and str not in plain:
        return read_value(config, name, value)
    if isinstance(value, int) and not isinstance(value, bool) and float in plain and int not in plain:
        return float(value)
    return value


def _near(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {found[0]}?" if found else ""


def _types(config: Any) -> dict[str, Any]:
    """The type of each field that is a value, with what is said of it."""
    found = typing.get_type_hints(type(config), include_extras=True)
    for name in list(found):
        if dataclasses.is_dataclass(part := getattr(config, name)):
            del found[name]
            found |= _types(part)
    return found


def _plain_types(hint: Any) -> list[Any]:
    """The members of a union, or the one type that it is, without what is said of them."""
    if typing.get_origin(hint) is Annotated:
        return _plain_types(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return [member for entry in typing.get_args(hint) for member in _plain_types(entry)]
    return [hint]


def _parts(config: Any) -> Iterator[Any]:
    """Its parts, theirs before them, and the config itself at last."""
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(part := getattr(config, field.name)):
            yield from _parts(part)
    yield config
