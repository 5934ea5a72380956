"""What a training step costs against the same step with its path fixed while tracing.

    python -m benchmarks.train_step                     # a table, minutes on two cores (most of them compiling)
    python -m benchmarks.train_step --quick             # smaller networks
    python -m benchmarks.train_step --json --out FILE   # flat records

One step of SGD on one batch, in turns within one run, medians. Routes:

    fixed       the path is known while tracing: a plain network, the least that any step can cost
    fixed_scan  the same inside `lax.scan`, eight steps a call: loops must not cost anything
    single      the same path, drawn while running: one architecture a step
    fair        strict fairness, as many architectures a step as a choice has operations; ms are those of one of them
    single_seeds, fair_seeds    four super-nets side by side in one program, each with paths of its own
    landmarks   `single`, and all pairs of 30 landmarks from one batched forward
    serial_pair `single`, and one pair of them from two forwards, one after the other, as the method's authors do it
    codes       `single`, the path drawn by the controller of ENAS, which a limit leaves no other
    controller  an update of that controller: 20 codes judged on a batch, no step of the weights
    mixture     all candidates of each place, mixed by the weights of DARTS
    darts       `mixture`, and the update of these weights on another batch
    operations  no step: the sum of the fixed costs of each candidate at each place, which a mixture is measured by
    torch_eager, torch_best    the path of `fixed` in PyTorch, see benchmarks/peer_training.py; where they are asked for

What `landmarks` and `serial_pair` take beyond `single`, divided by their number of pairs, is `ms_per_pair`. The sum of
`operations` is that of the fixed paths with one candidate everywhere; what all have in common, the cheapest of them,
counts once. All routes of one path begin at the same weights, and nothing is reported where their losses differ in
the first five steps.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from benchmarks import command
from benchmarks.steps import (
    NUM_PAIRS,
    OF_ALL_CODES,
    OF_ONE_PATH,
    OWN_ROUTES,
    Route,
    Sizes,
    make_problem,
    make_steps,
)
from jaxnas.checks import Count
from jaxnas.codes import to_text
from jaxnas.spaces import SpaceName

CHECKED = 5  # first steps, whose losses are compared; from the fourth on PyTorch replays them on a GPU
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.05}  # nats


@dataclasses.dataclass(frozen=True)
class Config(Sizes):
    """What to time, at which size."""

    spaces: tuple[Annotated[str, SpaceName()], ...] = ("nasbench201", "nasbench_macro")
    routes: tuple[Route, ...] = OWN_ROUTES
    repetitions: Count = 10  # of every route, in turns; the median counts
    quick: bool = False  # other defaults
    json: bool = False  # records instead of a table
    out: Path | None = None  # write the records to this file as well


QUICK = Config(width=8, image_size=8, batch_size=16, num_paths=1, repetitions=3, quick=True)


def run(config: Config, note: command.Note = lambda record: None) -> command.Records:
    """A flat record for every space and route; `note` is told of each path as it is timed.

    Raises:
      RuntimeError: routes that train the same network to other losses.
    """
    records = []
    for name in config.spaces:
        supernet, codes, batch = make_problem(config, name)
        ms: dict[Route, list[float]] = {route: [] for route in config.routes}
        compile_s = dict.fromkeys(config.routes, 0.0)
        for code in codes:
            print(f"{name}: {to_text(supernet.space, code)} ...", file=sys.stderr, flush=True)
            routes = [route for route in config.routes if route not in OF_ALL_CODES or not ms[route]]
            dtype, losses = config.compute_dtype, dict[Route, list[Any]]()
            steps = [(route, *made) for route in routes for made in make_steps(supernet, route, code, batch, dtype)]
            for route, step, _ in steps:
                start = time.perf_counter()
                step()
                compile_s[route] += time.perf_counter() - start
                losses[route] = [step.loss] + [step() or step.loss for _ in range(CHECKED - 1)]
            check_losses(losses, TOLERANCES[dtype])
            took = np.zeros((config.repetitions, len(steps)))
            for turn in took:
                for number, (_, step, num_steps) in enumerate(steps):
                    start = time.perf_counter()
                    step()
                    turn[number] = (time.perf_counter() - start) / num_steps
            medians = 1000 * np.median(took, axis=0)
            for route in routes:
                parts = medians[[each == route for each, *_ in steps]]
                ms[route].append(float(parts.sum() - (len(parts) - 1) * parts.min()))
                note({"space": name, "route": route, "path": to_text(supernet.space, code), "ms": ms[route][-1]})
        fixed, operations = (float(np.mean(ms[name])) if name in ms else None for name in ("fixed", "operations"))
        for route, times in ms.items():
            mean = float(np.mean(times))
            records.append(
                {
                    "space": name,
                    "route": route,
                    "ms": mean,
                    "ratio_to_fixed": mean / fixed if fixed else None,
                    "ratio_to_operations": mean / operations if operations and route in OF_ALL_CODES else None,
                    "ms_per_pair": ms_per_pair(route, ms),
                    "compile_s": compile_s[route] / len(times),
                    **sizes_of(config),
                    "repetitions": config.repetitions,
                    "device": command.device_name(),
                    "versions": command.versions(),
                }
            )
    return records


def check_losses(losses: dict[Route, list[Any]], tolerance: float) -> None:
    """A RuntimeError where routes of one path differ in the loss of one of their first steps."""
    of_one_path = {route: np.array(each, np.float64) for route, each in losses.items() if route in OF_ONE_PATH}
    for route, each in of_one_path.items():
        first = next(iter(of_one_path))
        difference = float(np.max(np.abs(each - of_one_path[first])))
        if not difference <= tolerance:  # NaN too
            raise RuntimeError(
                f"the losses of {route} and {first} differ by up to {difference:.3g} nats in {len(each)} steps,"
                f" expected at most {tolerance}; nothing is reported."
            )


def sizes_of(config: Sizes) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(Sizes)}


def ms_per_pair(route: Route, ms: dict[Route, list[float]]) -> float | None:
    """What one pair of landmarks adds to the step, None where there is none or no `single` to compare with."""
    if route not in NUM_PAIRS or "single" not in ms:
        return None
    return float(np.mean(ms[route]) - np.mean(ms["single"])) / NUM_PAIRS[route]


def table(records: Sequence[dict[str, Any]]) -> str:
    first = records[0]
    lines = [
        f"{first['device']}; {first['versions']}",
        f"width {first['width']}, {first['image_size']} px, batch {first['batch_size']}; ms of one architecture",
        f"{'space':16}{'route':12}{'ms':>9}{'against fixed':>15}{'operations':>12}{'ms a pair':>11}{'compile s':>11}",
    ]
    for record in records:
        ratio = f"{record['ratio_to_fixed']:.2f}x" if record["ratio_to_fixed"] else "-"
        of_sum = f"{record['ratio_to_operations']:.2f}x" if record["ratio_to_operations"] else "-"
        pair = f"{record['ms_per_pair']:.2f}" if record["ms_per_pair"] is not None else "-"
        lines.append(
            f"{record['space']:16}{record['route']:12}{record['ms']:9.1f}{ratio:>15}{of_sum:>12}{pair:>11}"
            f"{record['compile_s']:11.1f}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    command.main("train_step", Config, QUICK, __doc__, run, table, argv)


if __name__ == "__main__":
    main()
