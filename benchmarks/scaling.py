"""How the cost of scoring grows with architectures, images and devices.

    python -m benchmarks.scaling --picture growth.png   # a table and a picture, minutes on two cores
    python -m benchmarks.scaling --quick
    python -m benchmarks.scaling --json --out FILE      # flat records

Random architectures of one space, from ten to ten thousand, by our evaluator and by the serial switch; images at a
fixed population; and, where there are several devices, the same work on one, two, four ... of them. Each point is the
median of `repetitions` runs after one that compiles; `peak_gib` is what the process has had resident on the host at
most until then. `exponent` is the slope on logarithmic axes: 1 where cost is proportional.
"""

import dataclasses
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np

from benchmarks import command
from benchmarks.evaluator import make_space, timed
from jaxnas import codes, plotting
from jaxnas.checks import Cells, Count, Pixels, Whole, Width
from jaxnas.evaluation import make_evaluator
from jaxnas.spaces import SpaceName
from jaxnas.supernets import make_supernet


@dataclasses.dataclass(frozen=True)
class Config:
    """What is scored, and how often."""

    space: Annotated[str, SpaceName()] = "nasbench201"
    width: Width = 8  # channels of the stem
    image_size: Pixels = 8  # pixels
    cells: Cells = 1  # cells per stage, for spaces of cells
    num_archs: tuple[Count, ...] = (10, 30, 100, 300, 1000, 3000, 10_000)
    most_serial: Annotated[int, Whole(0)] = 300  # the serial switch only up to so many
    num_images: tuple[Count, ...] = (256, 512, 1024, 2048)  # at 100 architectures
    images_per_call: Count = 256
    repetitions: Count = 3
    quick: bool = False  # other defaults
    picture: Path | None = None  # PNG
    json: bool = False  # records instead of a table
    out: Path | None = None  # write the records to this file as well


QUICK = Config(num_archs=(10, 30, 100), num_images=(64, 128), images_per_call=64, repetitions=1, quick=True)


def run(config: Config) -> list[dict[str, Any]]:
    """A flat record for every point."""
    space = make_space(config, config.space)  # type: ignore[arg-type]
    supernet = make_supernet(space, affine=False)
    params = supernet.init(jax.random.key(0))
    shape = (max(config.num_images), *supernet.layers["stem"].in_shape)
    images = np.asarray(jax.random.normal(jax.random.key(1), shape))
    labels = np.arange(len(images)) % space.layout.num_classes
    archs = np.asarray(codes.sample(jax.random.key(2), space, max(*config.num_archs, 100)))
    records: list[dict[str, Any]] = []

    def point(what: str, route: str, archs: np.ndarray, num_images: int, mesh=None) -> None:
        evaluate = make_evaluator(supernet, strategy=route, images_per_call=config.images_per_call, mesh=mesh).evaluate  # type: ignore[arg-type]
        work = params, archs, images[:num_images], labels[:num_images]
        times = [timed(evaluate, *work)[0] for _ in range(config.repetitions + 1)][1:]
        records.append(
            {
                "what": what,
                "space": space.name,
                "route": route,
                "num_archs": len(archs),
                "num_images": num_images,
                "num_devices": 1 if mesh is None else mesh.size,
                "ms": 1000 * float(np.median(times)),
                "image_archs_per_s": len(archs) * num_images / float(np.median(times)),
                "peak_gib": peak_gib(),
                **{name: getattr(config, name) for name in ("width", "image_size", "cells", "images_per_call")},
                "device": command.device_name(),
                "versions": command.versions(),
            }
        )
        print(f"{what}: {len(archs)} x {num_images}, {route}: {records[-1]['ms']:,.0f} ms", file=sys.stderr, flush=True)

    for number in config.num_archs:
        point("architectures", "auto", archs[:number], config.num_images[0])
        if number <= config.most_serial:
            point("architectures", "serial", archs[:number], config.num_images[0])
    for number in config.num_images:
        point("images", "auto", archs[:100], number)
    devices = jax.devices()
    for number in (2**power for power in range(len(devices).bit_length())):
        if len(devices) > 1:
            mesh = jax.sharding.Mesh(np.array(devices[:number]).reshape(1, number), ("archs", "data"))
            point("devices", "auto", archs[:100], max(config.num_images), mesh)
    for record in records:
        record["exponent"] = exponent(records, record["what"], record["route"])
    return records


def peak_gib() -> float:
    """The most memory that the process has had resident so far."""
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


COUNTS = {"architectures": "num_archs", "images": "num_images", "devices": "num_devices"}


def curve(records: Sequence[dict[str, Any]], what: str, route: str) -> tuple[list[int], list[float]]:
    """Counts and seconds of one line of the picture."""
    points = [record for record in records if (record["what"], record["route"]) == (what, route)]
    return [point[COUNTS[what]] for point in points], [point["ms"] / 1000 for point in points]


def exponent(records: Sequence[dict[str, Any]], what: str, route: str) -> float | None:
    counts, seconds = curve(records, what, route)
    return plotting.growth(counts, seconds) if len(counts) > 1 else None


def table(records: Sequence[dict[str, Any]]) -> str:
    first = records[0]
    lines = [
        f"{first['device']}; {first['versions']}",
        f"{first['space']}, width {first['width']}, {first['image_size']} px",
        f"{'growing':14}{'route':8}{'archs':>8}{'images':>8}{'devices':>8}{'ms':>11}{'image·arch/s':>14}{'GiB':>6}{'slope':>7}",
    ]
    for record in records:
        slope = "-" if record["exponent"] is None else f"{record['exponent']:.2f}"
        lines.append(
            f"{record['what']:14}{record['route']:8}{record['num_archs']:8}{record['num_images']:8}"
            f"{record['num_devices']:8}{record['ms']:11,.0f}{record['image_archs_per_s']:14,.0f}{record['peak_gib']:6.2f}{slope:>7}"
        )
    return "\n".join(lines)


def draw(config: Config, records: Sequence[dict[str, Any]]) -> None:
    """Seconds over architectures, for the routes with more than one point."""
    if config.picture:
        routes = [route for route in ("auto", "serial") if exponent(records, "architectures", route) is not None]
        title = f"scoring {records[0]['space']} on {records[0]['num_images']} images: {command.device_name()}"
        curves = {route: curve(records, "architectures", route) for route in routes}
        figure = plotting.cost_growth(curves, title=title, count_label="architectures")
        plotting.save_figure(figure, config.picture)


def main(argv: Sequence[str] | None = None) -> None:
    command.main("scaling", Config, QUICK, __doc__, run, table, argv, draw=draw)


if __name__ == "__main__":
    main()
