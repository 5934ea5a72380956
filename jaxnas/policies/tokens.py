"""Operations as tokens, for recurrent networks over codes."""

import numpy as np

from jaxnas.space import SearchSpace


def token_numbers(space: SearchSpace) -> np.ndarray:
    """The token of each operation of each choice, int32 [num_choices, max(num_ops)]; choices with the same candidates
    share theirs. Where a choice has fewer operations stands its last token.

    >>> from jaxnas.spaces import get_space
    >>> token_numbers(get_space("nasbench201"))[4].tolist()
    [0, 1, 2, 3, 4]
    """
    first: dict[tuple[str, ...], int] = {}
    for names in space.op_names:
        first.setdefault(names, sum(map(len, first)))
    most = max(space.num_ops)
    return np.array(
        [[first[names] + min(op, len(names) - 1) for op in range(most)] for names in space.op_names], np.int32
    )
