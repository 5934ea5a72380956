"""Optuna: its samplers as a search like all others, and any search's evaluations as a study of its own.

    search = optuna_search(space, limit, sampler=optuna.samplers.GPSampler)    # asked and told as every search
    to_study(space, state, name="mine", storage="sqlite:///study.db")          # optuna-dashboard sqlite:///study.db

pip install 'jaxnas[optuna]'.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from jaxnas.checks import whole
from jaxnas.codes import to_text
from jaxnas.costs import CostFn, Limit
from jaxnas.search.pareto import objectives
from jaxnas.search.search import Proposals, Search, SearchState, make_search
from jaxnas.space import SearchSpace

INSTALL = "pip install 'jaxnas[optuna]'"
TRIES = 3  # for each architecture wanted


class MakeSampler(Protocol):
    """A class of optuna's samplers, such as `optuna.samplers.TPESampler`, or what makes one."""

    def __call__(self, *, seed: int) -> Any: ...


def optuna_search(
    space: SearchSpace, limit: Limit | None = None, *, sampler: MakeSampler | None = None, num_archs: int = 10
) -> Search:
    """Ask one of Optuna's samplers, over a categorical parameter for each choice of the space.

    Each `ask` makes a study in memory of all that was told, with a sampler whose seed follows from the key and from how
    much that is; so a killed search goes on exactly. What is infeasible or was evaluated before is left out, three
    tries for each architecture wanted, and random feasible ones fill up.

    Args:
      sampler: None: Optuna's TPE (Bergstra et al., NeurIPS 2011), all choices together.
      num_archs: architectures of an `ask`, which don't know of each other's scores.

    Raises:
      ValueError: Optuna isn't installed, a bad setting, or no architecture meets the limit.
    """
    optuna = need_optuna()
    num_archs = whole("optuna: num_archs", num_archs, 1)
    given = distributions(space)

    def propose(proposals: Proposals, rng: np.random.Generator, state: SearchState) -> None:
        seed = int(rng.integers(2**31))
        made = optuna.samplers.TPESampler(seed=seed, multivariate=True) if sampler is None else sampler(seed=seed)
        with _quiet(optuna):
            study = optuna.create_study(direction="maximize", sampler=made)
            study.add_trials(_trials(space, state.archs, state.scores[:, None]))
            for _ in range(TRIES * num_archs):
                if len(proposals.archs) < num_archs:
                    params = study.ask(given).params
                    code = [given[name].choices.index(params[name]) for name in given]
                    proposals.add(np.array([code], np.int32), at_most=1)
        proposals.add_random(rng, num_archs - len(proposals.archs))

    return make_search("optuna", space, limit, propose)


def to_study(
    space: SearchSpace,
    state: SearchState,
    *,
    name: str,
    storage: Any = None,
    costs: Mapping[str, CostFn] | None = None,
) -> Any:
    """Enter what a search has evaluated, whichever search, into the Optuna study of that name, and return it.

    The study is made where it isn't there; architectures that it has already are not entered again. Its values are the
    score, which is maximised, and the costs.

    Args:
      storage: as of `optuna.create_study`, such as "sqlite:///study.db"; None: in memory.
      costs: name -> (archs -> costs), as for `nsga2`.

    Raises:
      ValueError: Optuna isn't installed, or the study has other objectives.
    """
    optuna, costs = need_optuna(), costs or {}
    names = ["score", *costs]
    with _quiet(optuna):
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=["maximize", *["minimize"] * len(costs)],
            load_if_exists=True,
        )
        if study.metric_names not in (None, names):
            raise ValueError(f"study {name}: its values are {study.metric_names}, expected {names}; take another name.")
        study.set_metric_names(names)
        there = {trial.user_attrs.get("arch") for trial in study.get_trials(deepcopy=False)}
        new = [row for row, code in enumerate(state.archs) if to_text(space, code) not in there]
        values = objectives(state, costs) * np.array([-1, *[1] * len(costs)])
        study.add_trials(_trials(space, state.archs[new], values[new]))
    return study


def distributions(space: SearchSpace) -> dict[str, Any]:
    """A categorical parameter for each choice, whose values are "0 identity", "1 mb3_k3" and so on."""
    categorical = need_optuna().distributions.CategoricalDistribution
    return {
        f"choice_{choice}": categorical(tuple(f"{op} {name}" for op, name in enumerate(names)))
        for choice, names in enumerate(space.op_names)
    }


def need_optuna() -> Any:
    """The module optuna, or a ValueError that says how to get it."""
    try:
        import optuna  # an extra
    except ImportError as error:
        raise ValueError(f"this search is Optuna's, which isn't there ({error}); {INSTALL}") from None
    return optuna


def _trials(space: SearchSpace, archs: np.ndarray, values: np.ndarray) -> list[Any]:
    """A finished trial for each architecture; values [num_archs, num_objectives]."""
    given = distributions(space)
    create = need_optuna().trial.create_trial
    return [
        create(
            params={name: given[name].choices[op] for name, op in zip(given, code, strict=True)},
            distributions=given,
            values=row.tolist(),
            user_attrs={"arch": to_text(space, code)},
        )
        for code, row in zip(archs, values, strict=True)
    ]


@contextlib.contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Without a line for each study that is made, and for names of values being experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
