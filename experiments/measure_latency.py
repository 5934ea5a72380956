"""How well a table of single operations predicts the latency of whole networks on the device at hand.

    jaxnas measure_latency --workdir runs/latency

Every operation is timed at its shape, and among them whole random networks, each compiled for itself: inference, in
interleaved rounds (`jaxnas.costs.measuring`). A network is predicted by summing medians over rounds, then by a constant
and a scale that are fitted on `num_calibration` networks. WORKDIR/latency.npz is the table of operations, with these
two numbers, device, batch, type and versions: `--latency-table` of the searches and `jaxnas.costs.latency` read it, and
a limit on `latency_ms` is on this prediction, for one batch. All figures are of `num_archs` other networks:

- `spearman`, `kendall_tau`, `median_relative_error` of the prediction against the medians over rounds;
- the same `between_rounds`, of the even rounds' medians against the odd ones': what noise leaves to be predicted;
- the same of `macs` in place of the table, with a constant and a scale of its own;
- `op_spread` and `network_spread`: the interquartile range over the median, in the middle;
- `num_scattered` of `num_programs`: those whose rounds differ by more than a tenth, even when timed again;
- `num_host_bound`: those that take little more than an empty program, so that they may have timed the host.

Times of a machine that does other work say little; see whether `between_rounds` is good enough. Where they contradict
the prediction altogether, the run ends, and the same command measures again what scattered and keeps the rest. A killed
run compiles little again, but measures from the start: half of a measurement under other circumstances would be none.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
from tqdm import tqdm

from jaxnas import codes, costs, plotting, ranking, runs, tables
from jaxnas.checks import Cells, Count, Pair, Pixels, Seed, Whole, Width
from jaxnas.costs import latency, table_costs
from jaxnas.costs.measuring import MOST_SPREAD, Measured, host_bound, measure, num_programs, scattered, spread
from jaxnas.runs import sealed
from jaxnas.runs.command import main
from jaxnas.runs.workdir import versions
from jaxnas.space import SearchSpace
from jaxnas.spaces import SpaceName, get_space

from .shared.problem import arch_rows

KIND = "measured times"


@dataclasses.dataclass(frozen=True)
class Config:
    """What is timed, and how often."""

    space: Annotated[str, SpaceName()] = "nasbench_macro"
    width: Width | None = None  # channels of the stem; None: the space's own, as searches have it
    image_size: Pixels | None = None  # pixels; None: the space's own
    cells_per_stage: Cells | None = None  # for spaces of cells; chains have none
    batch_size: Count = 8  # images that are timed together
    dtype: Literal["float32", "bfloat16"] = "float32"
    # networks that the prediction is judged on; of a space with fewer, all that are left
    num_archs: Annotated[int, Whole(3)] = 50
    num_calibration: Annotated[int, Whole(3)] = 10  # that constant and scale are fitted to; at most half of the space
    num_rounds: Pair = 10
    num_runs: Count = 5  # of each program in a round; the fastest counts
    seed: Seed = 0  # of the networks drawn
    progress: bool = dataclasses.field(default=True, compare=False)


QUICK = Config()
PRESETS = {
    "tiny": Config(
        space="digits_chain", width=2, batch_size=2, num_archs=4, num_calibration=3, num_rounds=2, num_runs=1
    ),
    "quick": QUICK,
    # As PC-NAS: on the accelerator at hand, 16 images of 224 pixels.
    "paper": Config(space="mobile_large", batch_size=16),
}


def run(config: Config, workdir: Path, identity: str) -> Mapping[str, Any]:
    """Measure, predict, compare; see the module's docstring. Files: latency.npz, networks.npz, networks.csv, a plot."""
    published = get_space(runs.check(config).space)
    if not costs.is_additive(published):
        raise ValueError(f"{published.name}: what an operation costs depends on the whole cell; take another space.")
    is_cells = "cells_per_stage" in published.sizes
    sizes = {"cells_per_stage": config.cells_per_stage} if is_cells else {}
    space = published.resized(width=config.width, image_size=config.image_size, **sizes)
    archs = draw_archs(config, space)
    measured = measure_all(config, space, archs, workdir, identity)
    predicted = table_costs(latency.operation_costs(space, measured.table), archs)
    whole = np.median(measured.networks_ms, axis=1)
    num_fitted = num_drawn(config, space)[0]
    fitted, judged = slice(num_fitted), slice(num_fitted, None)
    try:
        calibration = latency.calibrate(predicted[fitted], whole[fitted])
    except ValueError as error:
        raise ValueError(f"{str(error).split(';')[0]}; {forget(workdir, identity, measured.times_ms)}") from None
    tables.write_table(workdir / "latency.npz", latency.with_calibration(measured.table, calibration))
    macs = costs.arch_costs(space, archs).macs
    slope, offset = np.polyfit(macs[fitted], whole[fitted], 1)  # not `calibrate`: MACs may well predict nothing
    calibrated = calibration.constant + calibration.scale * predicted
    by_macs = latency.agreement(offset + slope * macs[judged], whole[judged])
    halves = [np.median(measured.networks_ms[judged, start::2], axis=1) for start in (0, 1)]
    found = latency.agreement(calibrated[judged], whole[judged])
    rounds = {f"round{number}_ms": column for number, column in enumerate(measured.networks_ms.T)}
    used_for = np.repeat(["calibration", "judgement"], [num_fitted, len(archs) - num_fitted])
    columns = {"used_for": used_for, "predicted_ms": calibrated, **rounds, "macs": macs}
    runs.write_rows(workdir / "networks.csv", arch_rows(space, archs, columns))
    figure = plotting.latency_scatter(
        calibrated[judged],
        whole[judged],
        title=f"{space.name}, batch {config.batch_size}, {config.dtype}, {jax.devices()[0].device_kind}",
        spearman=found.spearman,
        error=found.median_relative_error,
        low=np.quantile(measured.networks_ms[judged], 0.25, axis=1),
        high=np.quantile(measured.networks_ms[judged], 0.75, axis=1),
    )
    plotting.save_figure(figure, workdir / "latency.png")
    errs = f"median relative error {100 * found.median_relative_error:.1f} %"
    return {
        "verdict": f"predicted latencies rank networks with Spearman {found.spearman:.3f}, {errs}",
        "headline": "spearman",
        "space": space.name,
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "num_archs": len(archs) - num_fitted,
        "num_calibration": num_fitted,
        "num_rounds": config.num_rounds,
        **found._asdict(),
        **{f"between_rounds_{name}": value for name, value in latency.agreement(*halves)._asdict().items()},
        "macs_spearman": ranking.spearman(macs[judged], whole[judged]),
        "macs_kendall_tau": ranking.kendall_tau(macs[judged], whole[judged]),
        "macs_median_relative_error": by_macs.median_relative_error,
        "constant_ms": calibration.constant,
        "scale": calibration.scale,
        "uncalibrated_median_relative_error": latency.agreement(predicted[judged], whole[judged]).median_relative_error,
        "fastest_network_ms": float(whole[judged].min()),
        "slowest_network_ms": float(whole[judged].max()),
        "op_spread": spread(measured.table.columns[latency.LATENCY_MS]),
        "network_spread": spread(measured.networks_ms),
        "num_programs": len(measured.times_ms),
        "num_scattered": len(scattered(measured.times_ms)),
        "num_host_bound": len(host_bound(measured.times_ms)),
        "table": "latency.npz",
    }


def draw_archs(config: Config, space: SearchSpace) -> np.ndarray:
    """Distinct random architectures: those of the calibration first, then the judged ones."""
    wanted = sum(num_drawn(config, space))
    return codes.from_index(space, np.random.default_rng(config.seed).choice(space.size, wanted, replace=False))


def num_drawn(config: Config, space: SearchSpace) -> tuple[int, int]:
    """How many networks are calibrated and judged by: as many as the config says, or as the space has."""
    num_fitted = min(config.num_calibration, space.size // 2)
    if num_fitted < 3:
        raise ValueError(f"{space.name} has {space.size} networks, expected at least 6: 3 to calibrate, 3 to judge by.")
    return num_fitted, min(config.num_archs, space.size - num_fitted)


def measure_all(config: Config, space: SearchSpace, archs: np.ndarray, workdir: Path, identity: str) -> Measured:
    """All times, those that an earlier run kept in times.json among them; writes them and networks.npz."""
    path, known = workdir / "times.json", None
    if path.exists():
        known = np.array(sealed.read_json(path, KIND, origin(identity)), np.float64)  # None becomes NaN
    missing = num_programs(space, len(archs)) if known is None else int(np.isnan(known).any(axis=1).sum())
    compiling = tqdm(total=missing, unit="program", desc="compile", disable=not (config.progress and missing))
    timing = tqdm(total=config.num_rounds, unit="round", desc="measure", disable=not (config.progress and missing))
    with compiling, timing:
        measured = measure(
            space,
            archs,
            batch_size=config.batch_size,
            dtype=config.dtype,
            num_rounds=config.num_rounds,
            num_runs=config.num_runs,
            known_ms=known,
            provenance={
                "source": f"python -m {__package__}.measure_latency",
                "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
            },
            on_program=compiling.update,
            on_round=timing.update,
        )
    sealed.write_json(path, KIND, measured.times_ms.tolist(), origin(identity))
    networks, units = {latency.LATENCY_MS: measured.networks_ms}, {latency.LATENCY_MS: "ms"}
    table = tables.make_table(space, archs, networks, units=units, provenance=measured.table.provenance)
    tables.write_table(workdir / "networks.npz", table)
    return measured


def origin(identity: str) -> dict[str, str]:
    """What kept times belong to: they are of no use on another device."""
    return {"run": identity, "device": jax.devices()[0].device_kind}


def forget(workdir: Path, identity: str, times_ms: np.ndarray) -> str:
    """Drop what scatters from the kept times, and say what can be done."""
    rows = scattered(times_ms)
    if not rows.size:
        return (
            "no program scatters, so these networks differ too little: choose another --workdir and a larger"
            " --batch-size or --num-calibration."
        )
    none = [None] * times_ms.shape[1]
    kept = [none if row in rows else times for row, times in enumerate(times_ms.tolist())]
    sealed.write_json(workdir / "times.json", KIND, kept, origin(identity))
    return (
        f"{len(rows)} of {len(times_ms)} programs scatter by more than {MOST_SPREAD:.0%}, as on a machine that does"
        " other work; once it is idle, the same command measures those again and keeps the rest."
    )


if __name__ == "__main__":
    main(f"{__package__}.measure_latency", __doc__, run, PRESETS)
