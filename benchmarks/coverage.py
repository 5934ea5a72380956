"""How often the intervals of `jaxnas.ranking` hold the figure that they are of: simulations with a known one.

    python -m benchmarks.coverage                                   # a table; six minutes on one core
    python -m benchmarks.coverage --quick                           # fewer simulations
    python -m benchmarks.coverage --json --out results/coverage.json    # what the docstrings state

Architectures have a normal quality, which is the truth; a seed of the super-net scores them by it and by normal errors,
so that its Kendall's tau in the population is 2 / pi asin(correlation) and can be chosen. Errors are `alike` (the same
ones in every seed: seeds don't interact with architectures), `mixed` (half of their variance is a seed's own) or `own`
(all of it). Seeds rank equally well or, `differing`, with a standard deviation of 0.08 in tau; then that of a pair's
two sides correlates by 0.7. The simulations of a record take turns between 50, 100 and 200 architectures and a tau of
0.3, 0.5 and 0.7; the difference of a pair is 0.1. The interval of one seed is to hold the tau of that seed.

`ratio` is the length of an interval over that of 1.96 true standard deviations to both sides, on average. Student's
interval of 3, 5, 10 seeds has to have 1.9, 1.3, 1.1 where seeds are all that varies. The mean over seeds is that of
normal and of exponential figures.
"""

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import command
from jaxnas import ranking
from jaxnas.checks import whole

NUM_ARCHS = (50, 100, 200)
TAUS = (0.3, 0.5, 0.7)
NUM_PROBLEMS = len(NUM_ARCHS) * len(TAUS)  # over which simulations take turns
OWN_SHARES = {"alike": 0.0, "mixed": 0.5, "own": 1.0}  # of a seed's own errors, in the variance of all
DEVIATION = 0.08  # of tau between seeds, where they differ
GAIN = 0.1  # of the first side of a pair over the second


@dataclasses.dataclass(frozen=True)
class Config:
    """How much is simulated."""

    num_simulations: int = 1000  # of each record: a coverage of 0.95 is known to 0.007
    quick: bool = False  # other defaults
    json: bool = False  # records instead of a table
    out: Path | None = None  # write the records to this file as well


QUICK = Config(num_simulations=90, quick=True)


def run(config: Config) -> list[dict[str, Any]]:
    """A flat record for each function, number of seeds, kind of errors and kind of seeds."""
    whole("--num-simulations", config.num_simulations, 2 * NUM_PROBLEMS)
    records = []
    for number, setting in enumerate(settings()):
        print(f"{setting} ...", file=sys.stderr, flush=True)
        rng = np.random.default_rng(number)
        found = [simulate(rng, turn, **setting) for turn in range(config.num_simulations)]
        records.append({**setting, **summary(np.array(found)), "num_simulations": config.num_simulations})
    return records


def summary(found: np.ndarray) -> dict[str, float]:
    """Coverage and ratio of intervals [num_simulations, 3], less what they are of."""
    errors, lows, highs = found.T
    alike = [np.arange(len(found)) % NUM_PROBLEMS == problem for problem in range(NUM_PROBLEMS)]
    deviation = np.mean([errors[rows].std(ddof=1) for rows in alike])
    return {
        "coverage": round(float(((lows <= 0) & (highs >= 0)).mean()), 3),
        "ratio": round(float((highs - lows).mean() / (2 * 1.96 * deviation)), 2),
    }


def settings() -> Iterator[dict[str, Any]]:
    for function in ("estimate", "estimate_difference"):
        yield {"function": function, "num_seeds": 1, "errors": "alike", "seeds": "equal"}
        for num_seeds, errors, seeds in itertools.product((3, 5, 10), OWN_SHARES, ("equal", "differing")):
            yield {"function": function, "num_seeds": num_seeds, "errors": errors, "seeds": seeds}
    for num_seeds, errors in itertools.product((3, 5, 10), ("normal", "exponential")):
        yield {"function": "estimate_mean", "num_seeds": num_seeds, "errors": errors, "seeds": "equal"}


def simulate(
    rng: np.random.Generator, turn: int, function: str, num_seeds: int, errors: str, seeds: str
) -> ranking.Estimate:
    """One interval, less the figure that it is of."""
    if function == "estimate_mean":
        draw = rng.normal if errors == "normal" else rng.exponential
        found, known = ranking.estimate_mean(draw(size=num_seeds)), float(errors == "exponential")
    else:
        num_archs, known = list(itertools.product(NUM_ARCHS, TAUS))[turn % NUM_PROBLEMS]
        quality = np.sort(rng.normal(size=num_archs))
        common, own = rng.normal(size=num_archs), rng.normal(size=(num_seeds, num_archs))
        share = OWN_SHARES[errors]
        noise = np.sqrt(1 - share) * common + np.sqrt(share) * own
        deviations = (seeds == "differing") * DEVIATION * rng.normal(size=(2, num_seeds))
        scores = score(quality, noise, known + deviations[0])
        if function == "estimate":
            found = ranking.estimate(kendall_tau, scores, quality)
        else:
            also = np.sqrt(share) * (rng.normal(size=own.shape) - own) + noise  # the other side's own errors
            taus = known - GAIN + 0.7 * deviations[0] + np.sqrt(1 - 0.7**2) * deviations[1]
            found = ranking.estimate_difference(kendall_tau, scores, score(quality, also, taus), quality)
            known = GAIN
    return ranking.Estimate(*(float(figure) - known for figure in found))


def score(quality: np.ndarray, noise: np.ndarray, taus: np.ndarray) -> np.ndarray:
    """Ranks of scores that have these taus with quality in the population: int16 [num_seeds, num_archs]."""
    correlations = np.sin(np.pi / 2 * np.clip(taus, -0.99, 0.99))[:, None]
    scores = correlations * quality + np.sqrt(1 - correlations**2) * noise
    return scores.argsort(axis=1).argsort(axis=1).astype(np.int16)


def kendall_tau(scores: np.ndarray, truth: np.ndarray) -> float:
    """Kendall's tau where the truth ascends and nothing is tied: twenty times faster than `ranking.kendall_tau`."""
    num_archs, scores = len(scores), np.ascontiguousarray(scores)
    discordant = np.count_nonzero(np.greater.outer(scores, scores) & TRIANGLE[:num_archs, :num_archs])
    return 1 - 4 * discordant / (num_archs * (num_archs - 1))


TRIANGLE = ~np.tri(max(NUM_ARCHS), dtype=bool)  # row before column


def table(records: Sequence[dict[str, Any]]) -> str:
    lines = [f"{'function':21}{'seeds':>6} {'errors':12}{'seeds are':11}{'coverage':>9}{'ratio':>7}"]
    for record in records:
        lines.append(
            f"{record['function']:21}{record['num_seeds']:6} {record['errors']:12}{record['seeds']:11}"
            f"{record['coverage']:9.3f}{record['ratio']:7.2f}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    command.main("coverage", Config, QUICK, __doc__, run, table, argv)


if __name__ == "__main__":
    main()
