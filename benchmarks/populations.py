"""Random populations against the reference: every route scores what one architecture after the other scores.

    python -m benchmarks.populations --count 10000 --minutes 40 --out results/populations.json
    python -m benchmarks.populations --quick

Each population draws its space, batch-norm mode, affine or not, route, size (1 to 300, small ones as often as large
ones), repetitions and the settings that cut it into calls; number i of a seed is always the same one. Spaces of many
candidates, whose programs take minutes to compile, are drawn a fortieth as often. The reference is
`Supernet.apply` on one code at a time in a plain loop, losses and pooled statistics by NumPy and SciPy. Whatever comes
out is compared image by image, as two networks hardly ever agree on all of them: an architecture that is dropped,
doubled, moved or given another's score is counted, and named on stderr. On tiny networks, kernels in large spaces 3 x 3
at most, so that what takes the time is compiling; a folder in JAX_COMPILATION_CACHE_DIR keeps that for the next time.
"""

import collections
import dataclasses
import functools
import io
import math
import re
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import chex
import jax
import numpy as np
import scipy.special
from tqdm import tqdm

from benchmarks import command
from jaxnas.evaluation import BNMode, Evaluator, Scores, Strategy, make_evaluator
from jaxnas.evaluation.planning import COMPILED
from jaxnas.ops import OPS
from jaxnas.runs import workdir
from jaxnas.search.regions import Region
from jaxnas.space import SearchSpace
from jaxnas.spaces import SPACES, get_space
from jaxnas.supernets import Supernet, make_supernet, select_stats

MODES, ROUTES = get_args(BNMode), get_args(Strategy)
LARGE = {name for name in SPACES if name.startswith("mobile")} | {"darts", "nasbench101", "nasbench101_v6"}
ALL_PROGRAMS = {"digits_chain"}  # elsewhere these routes are compiled for one mode each, or few fit
FIXED = {"mask": (True, "batch"), "serial": (False, "tracked"), "dispatch": (True, "calibrated")}
MOST_ARCHS = 300
PER_CALL = 5  # architectures of a call of these
CUTS = (  # settings that cut a graph into programs: by architectures, and by what they hold at once
    {"archs_per_call": 64, "workers": 2},
    {"archs_per_call": 7, "workers": 3},
    {"archs_per_call": 64, "workers": 1, "memory_budget": COMPILED + 2**23},
)
NUM_CODES = 200  # of a space, from which populations are drawn
TOLERANCE = 2e-3  # nats of an image; float32 sums in another order, through many normalisations of few images


@dataclasses.dataclass(frozen=True)
class Config:
    """How many populations, of what."""

    spaces: tuple[str, ...] = tuple(name for name, space in SPACES.items() if not space.is_text)
    count: int = 10_000
    minutes: float = math.inf  # after which no other population is begun
    seed: int = 0
    quick: bool = False  # other defaults
    json: bool = False  # records instead of a table
    out: Path | None = None  # write the records to this file as well


QUICK = Config(spaces=("digits_chain",), count=30, quick=True)


class Setting(NamedTuple):
    """What a population is scored with."""

    space: str
    affine: bool
    bn_mode: str
    route: str
    options: tuple[tuple[str, Any], ...]  # of the evaluator


def run(config: Config) -> list[dict[str, Any]]:
    """Score and compare: a flat record for each space and batch-norm mode, and one for all of them together.

    Raises:
      ValueError: unusable settings.
    """
    if not config.spaces or config.count < 1 or not config.minutes > 0:
        raise ValueError("--spaces must name one, --count be at least 1 and --minutes above 0.")
    for name in config.spaces:
        get_space(name)
    counts: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    largest: dict[tuple[str, str], float] = collections.defaultdict(float)
    begin = time.monotonic()
    for number in tqdm(range(config.count), unit="population", mininterval=1):
        if time.monotonic() - begin > 60 * config.minutes:
            break
        setting, rows = draw(config, number)
        verdict, difference = judge(setting, rows)
        if verdict != "equal":
            print(f"population {number}: {verdict}, {len(rows)} architectures, {setting}", file=sys.stderr, flush=True)
        place = setting.space, setting.bn_mode
        counts[place].update(["populations", verdict, setting.route, "affine" if setting.affine else "plain"])
        counts[place]["architectures"] += len(rows)
        counts[place]["repeated"] += len(rows) - len(set(rows.tolist()))
        largest[place] = max(largest[place], difference)
    made = {
        "command": f"python -m benchmarks.populations --spaces {' '.join(config.spaces)} --count {config.count}"
        f" --minutes {config.minutes:g} --seed {config.seed}",
        "commit": workdir.commit(),
        "versions": command.versions(),
        "device": command.device_name(),
        "seconds": round(time.monotonic() - begin),
    }
    names = "populations", "equal", "dropped", "different", "architectures", "repeated", *ROUTES, "affine", "plain"
    records: list[dict[str, Any]] = [
        {"space": space, "bn_mode": mode, **{name: counts[space, mode][name] for name in names},
         "largest_difference": largest[space, mode]}
        for space, mode in sorted(counts)
    ]  # fmt: skip
    total = {"space": "all", "bn_mode": "all", **{name: sum(record[name] for record in records) for name in names}}
    return [total | {"largest_difference": max(largest.values())} | made, *records]


def draw(config: Config, number: int) -> tuple[Setting, np.ndarray]:
    """Setting and rows int [num_archs] among the space's codes, of population `number`."""
    rng = np.random.default_rng([config.seed, number])
    weights = np.array([1 / 40 if name in LARGE else 1.0 for name in config.spaces])
    space = config.spaces[rng.choice(len(weights), p=weights / weights.sum())]
    affine, bn_mode, route = bool(rng.integers(2)), MODES[rng.integers(len(MODES))], ROUTES[rng.integers(len(ROUTES))]
    num_archs = int(math.exp(rng.uniform(0, math.log(MOST_ARCHS + 1))))
    if route in ("auto", "graph"):
        options = CUTS[zlib.crc32(f"{space} {affine} {bn_mode} {route}".encode()) % len(CUTS)]  # one is compiled each
    else:  # compiled programs have the size of a call
        options = {"archs_per_call": PER_CALL, "groups": 2, "workers": 2}
        num_archs = max(num_archs, 2)
        if space not in ALL_PROGRAMS:
            affine, bn_mode = FIXED[route]
    span = int(rng.integers(1, NUM_CODES + 1)) if rng.random() < 0.5 else NUM_CODES
    affine |= space in LARGE
    setting = Setting(space, affine, bn_mode, route, tuple(options.items()))
    if route not in ("auto", "graph"):
        plan = make_reference(space, affine).evaluator(setting).plan
        while plan(num_archs, 1).archs_per_call < PER_CALL:
            num_archs += 1  # so that one size is compiled
    return setting, rng.integers(span, size=min(num_archs, MOST_ARCHS))


def judge(setting: Setting, rows: np.ndarray) -> tuple[str, float]:
    """ "equal", "dropped" or "different", and the largest difference in nats of an image."""
    reference = make_reference(setting.space, setting.affine)
    bar = tqdm(total=len(rows), file=io.StringIO(), mininterval=math.inf)
    scores = reference.score(setting, rows, bar)
    losses, margins, hits = (np.stack(column) for column in zip(*(reference.of(setting.bn_mode, row) for row in rows)))
    if bar.n != len(rows) or not np.array_equal(scores.archs, reference.archs[rows]):
        return "dropped", 0.0
    assert scores.image_loss is not None and scores.image_correct is not None
    difference = np.abs(scores.image_loss - losses).max()
    certain = margins > TOLERANCE  # elsewhere rounding decides what is the largest logit
    same = difference <= TOLERANCE and np.array_equal(scores.image_correct[certain], hits[certain])
    summed = np.allclose(scores.loss, scores.image_loss.mean(axis=1, dtype=np.float64), rtol=1e-6)
    summed &= np.allclose(scores.accuracy, scores.image_correct.mean(axis=1))
    return ("equal" if same and summed else "different"), float(difference)


class Reference:
    """Scores of single codes on one tiny super-net, and what they are computed from."""

    images_per_call = 8

    def __init__(self, space: SearchSpace, affine: bool):
        self.supernet = make_supernet(space, affine=affine)
        self.num_images = 16 if space.name in LARGE else 12  # the second batch is padded, or one program less
        rng = np.random.default_rng(0)
        self.archs = np.asarray(Region(space).sample(rng, NUM_CODES), np.int32)
        self.params = random_params(self.supernet, rng)
        shape = (self.num_images, *self.supernet.layers["stem"].in_shape)
        self.images, self.calibration = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
        self.labels = rng.integers(space.layout.num_classes, size=self.num_images)
        self.tracked = {
            name: rng.uniform(0.5, 2.0, (len(layer.candidates), 2, layer.stats_size)).astype(np.float32)
            for name, layer in self.supernet.layers.items()
        }
        self.apply = jax.jit(
            lambda arch, images, stats: self.supernet.apply(self.params, arch, images, stats=stats, groups=None)
        )
        self.evaluators: dict[Setting, Evaluator] = {}
        self.of = functools.cache(self._of)

    def evaluator(self, setting: Setting) -> Evaluator:
        """That of the setting; kept, for it keeps what it compiled."""
        if setting not in self.evaluators:
            self.evaluators[setting] = make_evaluator(
                self.supernet,
                strategy=setting.route,  # type: ignore[arg-type]
                bn_mode=setting.bn_mode,  # type: ignore[arg-type]
                images_per_call=self.images_per_call,
                per_image=True,
                **dict(setting.options),
            )
        return self.evaluators[setting]

    def score(self, setting: Setting, rows: np.ndarray, bar: tqdm) -> Scores:
        """By the evaluator of the setting."""
        given: dict[str, Any] = {}
        if setting.bn_mode == "tracked":
            given["stats"] = self.tracked
        elif setting.bn_mode == "calibrated":
            given["calibration_images"] = self.calibration
        evaluate = self.evaluator(setting).evaluate
        return evaluate(self.params, self.archs[rows], self.images, self.labels, bar=bar, **given)

    def _of(self, bn_mode: str, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of one code: losses in nats, gap between the two largest logits, correctness; [num_images] each."""
        arch, stats = self.archs[row], None
        cuts = [slice(at, at + self.images_per_call) for at in range(0, self.num_images, self.images_per_call)]
        if bn_mode == "tracked":
            stats = jax.tree.map(lambda leaf: leaf[0], select_stats(self.supernet, self.tracked, arch[None]))
        elif bn_mode == "calibrated":
            parts = [self.calibration[cut] for cut in cuts]
            used = [jax.device_get(self.apply(arch, part, None)[1]) for part in parts]
            shares = [len(part) / self.num_images for part in parts]
            stats = jax.tree.map(functools.partial(pool, shares), *used)
        logits = np.concatenate([self.apply(arch, self.images[cut], stats)[0] for cut in cuts]).astype(np.float64)
        losses = -scipy.special.log_softmax(logits, axis=-1)[np.arange(self.num_images), self.labels]
        ordered = np.sort(logits, axis=-1)
        return losses, ordered[:, -1] - ordered[:, -2], logits.argmax(axis=-1) == self.labels


@functools.cache
def make_reference(name: str, affine: bool) -> Reference:
    """Of a space by name, on the smallest network that has all of its operations."""
    space = get_space(name)
    width = 8 if name == "nats_size" or name.startswith("nasbench101") else 2  # vertices share it, or it is one of 8
    wanted = {"width": width, "image_size": 8, "cells_per_stage": 1, "num_classes": 10}
    if name in LARGE and not name.startswith("nasbench101"):
        small = {
            op: OPS[smaller] for op in OPS if (smaller := re.sub("_k[57]$", "_k3", op).replace("5x5", "3x3")) in OPS
        }
        space = dataclasses.replace(space, operations=dict(space.operations) | small)
    return Reference(space.resized(**{size: wanted[size] for size in space.sizes if size in wanted}), affine)


def random_params(supernet: Supernet, rng: np.random.Generator) -> chex.ArrayTree:
    """Random in every leaf: fresh parameters would hide a missing scale or shift."""

    def draw(path: Any, leaf: Any) -> np.ndarray:
        noise = rng.normal(size=leaf.shape)
        if path[-1].key == "kernel":
            return (math.sqrt(2 / math.prod(leaf.shape[:-1])) * noise).astype(leaf.dtype)
        return ((path[-1].key == "scale") + 0.1 * noise).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(supernet.init, jax.random.key(0)))


def pool(shares: Sequence[float], *parts: np.ndarray) -> np.ndarray:
    """Mean and variance [2, size] of batches as those of all their images, from each one's share of them."""
    mean = sum(share * np.float64(part[0]) for share, part in zip(shares, parts, strict=True))
    variance = sum(
        share * (np.float64(part[1]) + (part[0] - mean) ** 2) for share, part in zip(shares, parts, strict=True)
    )
    return np.stack([mean, variance]).astype(np.float32)


def table(records: Sequence[dict[str, Any]]) -> str:
    total, *records = records
    lines = [
        f"{total['device']}; {total['versions']}",
        f"{'space':20}{'mode':12}{'populations':>12}{'equal':>8}{'off by':>9}",
    ]
    lines += [
        f"{record['space']:20}{record['bn_mode']:12}{record['populations']:12,}{record['equal']:8,}"
        f"{record['largest_difference']:9.1e}"
        for record in [*records, total]
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    command.main("populations", Config, QUICK, __doc__, run, table, argv)


if __name__ == "__main__":
    main()
