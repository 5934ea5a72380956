"""Architecture codes: the one language that every part of jaxnas speaks.

An architecture is an int32 vector `[num_choices]`: the operation taken at each choice. A population is
`archs`, int32 `[num_archs, num_choices]`. Functions that take a `key` are pure jnp and may be jitted; the rest
run on the host with NumPy.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.checks import array, rectangular, shown, whole
from jaxnas.space import SearchSpace


def exist(num_ops: Sequence[int]) -> np.ndarray:
    """Which entries of an array [num_choices, max(num_ops)] stand for an operation: bool of that shape.

    >>> exist([2, 3]).astype(int).tolist()
    [[1, 1, 0], [1, 1, 1]]
    """
    return np.arange(max(num_ops)) < np.array(num_ops)[:, None]


def check(space: SearchSpace, archs: chex.ArrayNumpy | Sequence[Any]) -> np.ndarray:
    """Return `archs` as int32 [num_archs, num_choices], or raise a ValueError that names the first offence."""
    codes = rectangular(f"{space.name}: archs", archs)
    if codes.size == 0:
        raise ValueError(f"{space.name}: the population is empty; give at least one architecture.")
    if codes.ndim != 2 or codes.shape[1] != space.num_choices:
        raise ValueError(
            f"{space.name}: archs have shape {codes.shape}, expected [num_archs, {space.num_choices}]"
            " (one architecture is archs[None])."
        )
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"{space.name}: archs have dtype {codes.dtype}, expected integers.")
    wrong = (codes < 0) | (codes >= np.asarray(space.num_ops))
    if wrong.any():
        row, choice = np.argwhere(wrong)[0]
        raise ValueError(
            f"{space.name}: code {codes[row, choice]} at index {choice} of architecture {row}"
            f" is outside [0, {space.num_ops[choice]})."
        )
    codes = codes.astype(np.int32)
    invalid = ~space.is_valid(codes)
    if invalid.any():
        row = int(np.argmax(invalid))
        raise ValueError(
            f"{space.name}: architecture {row}, {to_text(space, codes[row])}, does not exist in the space."
        )
    return codes


def sample(key: chex.PRNGKey, space: SearchSpace, num_archs: int) -> chex.Array:
    """Draw codes uniformly, each choice independently: int32 [num_archs, num_choices]."""
    num_archs = whole("num_archs", num_archs, 1)
    num_ops = jnp.broadcast_to(jnp.asarray(space.num_ops), (num_archs, space.num_choices))
    return jax.random.randint(key, num_ops.shape, 0, num_ops, jnp.int32)


def mutate(key: chex.PRNGKey, space: SearchSpace, archs: chex.Array) -> chex.Array:
    """Change one uniformly drawn choice of each architecture to another operation, drawn uniformly.

    Only choices with two or more operations are drawn, so every result is at Hamming distance 1.
    """
    num_ops = jnp.asarray(space.num_ops)
    free = np.flatnonzero(np.asarray(space.num_ops) > 1)
    if free.size == 0:
        raise ValueError(f"{space.name}: no choice has a second operation to mutate to.")
    archs = jnp.asarray(archs, jnp.int32)
    choice_key, op_key = jax.random.split(key)
    rows = jnp.arange(archs.shape[0])
    choice = jnp.asarray(free)[jax.random.randint(choice_key, rows.shape, 0, free.size)]
    step = jax.random.randint(op_key, rows.shape, 1, num_ops[choice])
    return archs.at[rows, choice].set((archs[rows, choice] + step) % num_ops[choice])


def crossover(key: chex.PRNGKey, first: chex.Array, second: chex.Array) -> chex.Array:
    """Take each choice of each architecture from `first` or `second`, equally likely; all [num_archs, num_choices]."""
    return jnp.where(jax.random.bernoulli(key, 0.5, first.shape), first, second)


def neighbours(space: SearchSpace, arch: chex.ArrayNumpy) -> np.ndarray:
    """All valid codes at Hamming distance 1 from `arch` [num_choices]: int32 [num_neighbours, num_choices].

    >>> from jaxnas.spaces import get_space
    >>> neighbours(get_space("digits_chain"), [0, 0, 0, 0, 0])[:3].tolist()
    [[1, 0, 0, 0, 0], [2, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
    """
    (arch,) = check(space, np.asarray(arch)[None])
    changed = [
        np.r_[arch[:choice], op, arch[choice + 1 :]]
        for choice, num_ops in enumerate(space.num_ops)
        for op in range(num_ops)
        if op != arch[choice]
    ]
    codes = np.asarray(changed, np.int32).reshape(-1, space.num_choices)
    return codes[space.is_valid(codes)]


def enumerate_archs(space: SearchSpace) -> np.ndarray:
    """Every valid code in lexicographic order: int32 [num_valid, num_choices]; a ValueError beyond 2^24 codes."""
    if space.size > 2**24:
        raise ValueError(
            f"{space.name}: {space.size} codes are too many to enumerate; sample, or use the space's own way."
        )
    codes = np.indices(space.num_ops, np.int32).reshape(space.num_choices, -1).T
    return np.ascontiguousarray(codes[space.is_valid(codes)])


def to_index(space: SearchSpace, archs: chex.ArrayNumpy) -> np.ndarray:
    """The lexicographic number of each code (first choice most significant): int64 [num_archs].

    >>> from jaxnas.spaces import get_space
    >>> to_index(get_space("nasbench201"), [[0, 0, 0, 0, 1, 2]]).tolist()  # five operations: 1 * 5 + 2
    [7]
    """
    if space.size >= 2**63:
        raise ValueError(f"{space.name}: {space.size} codes do not fit int64 indices; use to_text as the key.")
    return np.ravel_multi_index(tuple(check(space, archs).T), space.num_ops)


def from_index(space: SearchSpace, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """The inverse of `to_index`: int32 [num_archs, num_choices]."""
    if space.size >= 2**63:
        raise ValueError(f"{space.name}: {space.size} codes do not fit int64 indices; use to_text as the key.")
    name = f"{space.name}: indices"
    given = rectangular(name, indices)
    indices = array(name, given if given.size else given.astype(int), (None,), "integer", least=0, most=space.size - 1)
    return np.stack(np.unravel_index(indices.astype(np.int64), space.num_ops), axis=-1).astype(np.int32)


def to_text(space: SearchSpace, arch: chex.ArrayNumpy | Sequence[int]) -> str:
    """One code as text, '0-0-0-1', or '0_0_1' of up to three choices: see `joined`."""
    code = array("arch", arch, (space.num_choices,), "integer", least=0, most=max(space.num_ops) - 1)
    return joined(code.tolist())


def joined(entries: Sequence[object]) -> str:
    """What stands at each choice as one text, 0-0-0-1, which a spreadsheet keeps as it is: 0001 would become a number.
    So would 1-2-3 a date, hence 1_2_3 of up to three choices.

    >>> joined([1, 0, "?", "?"]), joined([1, 0, 2])
    ('1-0-?-?', '1_0_2')
    """
    return ("-" if len(entries) > 3 else "_").join(map(str, entries))


def from_text(space: SearchSpace, texts: Iterable[str]) -> np.ndarray:
    """The inverse of `to_text` for many codes: int32 [num_archs, num_choices]; a ValueError for a text that is none.

    Codes without anything between their digits, '0001', as files had them before, are read where no choice has more
    than ten operations.
    """
    codes = []
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise ValueError(f"{space.name}: texts are {shown(texts)}, expected several, each a code.")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{space.name}: {shown(text)} is no text of a code.")
        ops = re.split("[-_]", text)
        if len(ops) == 1 and max(space.num_ops) <= 10:
            ops = list(text)
        if len(ops) != space.num_choices or not all(op.isascii() and op.isdigit() for op in ops):
            example = to_text(space, [0] * space.num_choices)
            raise ValueError(f"{space.name}: {text!r} is no architecture code, expected a text like {example!r}.")
        codes.append([int(op) for op in ops])
    return check(space, np.asarray(codes))
