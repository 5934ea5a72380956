"""A search space of the user's own, named by where its object is: `package.module:object` or `file.py:object`."""

import functools
import importlib
import importlib.util
import os
import sys
from types import ModuleType

from jaxnas.space import SearchSpace


def import_space(text: str) -> SearchSpace:
    """The space that `text` names; of the same text always the same object.

    Raises:
      ValueError: no such module, file or object, one that fails when it is imported, or an object of another kind.
    """
    where, _, name = text.rpartition(":")
    try:
        module = _load(os.path.abspath(where)) if where.endswith(".py") else importlib.import_module(where)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(f"space {text!r}: cannot import {where} ({type(error).__name__}: {error}).") from error
    found = getattr(module, name, None)
    if isinstance(found, SearchSpace):
        return found
    spaces = [key for key, value in vars(module).items() if isinstance(value, SearchSpace)]
    problem = "there is no such object" if found is None else f"this is a {type(found).__name__}, no SearchSpace"
    raise ValueError(f"space {text!r}: {problem}; the spaces of {where} are {', '.join(spaces) or 'none'}.")


@functools.cache
def _load(path: str) -> ModuleType:
    """The module of a file; what the file imports may lie beside it."""
    spec = importlib.util.spec_from_file_location(f"_space_{abs(hash(path))}", path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look there
    sys.path.insert(0, os.path.dirname(path))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(os.path.dirname(path))
    return module
