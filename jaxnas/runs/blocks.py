"""Long scorings in blocks: each is written whole as soon as it is known, and a killed run goes on after the last."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import chex
import numpy as np
from tqdm import tqdm

from jaxnas import tables
from jaxnas.evaluation import Scores
from jaxnas.runs import sealed
from jaxnas.space import SearchSpace

_KIND = "block of scores"


def in_blocks(
    compute: Callable[[chex.ArrayNumpy, tqdm], tables.Table],
    archs: chex.ArrayNumpy,
    folder: str | os.PathLike[str],
    space: SearchSpace,
    *,
    size: int,
    origin: sealed.Origin = sealed.NOWHERE,
    prefix: str = "scores_",
    label: str = "score",
    progress: bool = True,
) -> tuple[dict[str, np.ndarray], float]:
    """Compute a table of `archs` block by block; what an earlier process saved is read.

    Args:
      compute: (archs of a block, bar to be updated by their number) -> their table.
      archs: codes [num_archs, num_choices].
      folder: where the blocks are kept; made if it isn't there.
      size: architectures of a block.
      origin: what the blocks belong to (`runs.sealed`), such as the run's identity, seed and step.
      prefix: how the names of the files begin.

    Returns:
      columns: as the tables have them, [num_archs, ...].
      seconds: of all that was computed, those of killed processes included.

    Raises:
      ValueError: a file is damaged, of other codes, another space or another origin; deleted, it is computed again.
    """
    parts, seconds = [], 0.0
    with tqdm(total=len(archs), unit="arch", desc=label, disable=not progress) as bar:
        for number, path in enumerate(block_paths(folder, len(archs), size=size, prefix=prefix)):
            block = archs[number * size : (number + 1) * size]
            if path.exists():
                bar.update(len(block))
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                begin = time.perf_counter()
                computed = compute(block, bar)
                took = {"seconds": repr(time.perf_counter() - begin)}
                computed = computed._replace(provenance={**computed.provenance, **took})
                sealed.write_table(path, _KIND, computed, origin)
            table = sealed.read_table(path, _KIND, space, block, origin)
            parts.append(table.columns)
            seconds += float(table.provenance["seconds"])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, seconds


def block_paths(folder: str | os.PathLike[str], num_archs: int, *, size: int, prefix: str = "scores_") -> list[Path]:
    """The files in which `in_blocks` saves the blocks."""
    return [Path(folder) / f"{prefix}{start:06d}.npz" for start in range(0, num_archs, size)]


def scores_table(space: SearchSpace, scores: Scores) -> tables.Table:
    """Scores as a table keyed by codes, with the losses of each image where they were kept; the rule they were taken
    under is in its provenance."""
    columns = {"loss": scores.loss, "accuracy": scores.accuracy}
    rule = ("num_images", "bn_mode", "num_calibration_images", "images_per_call", "strategy")
    provenance = {name: str(getattr(scores, name)) for name in rule}
    units = {"loss": "nats", "accuracy": "fraction"}
    if scores.image_loss is not None:
        columns, units = columns | {"image_loss": scores.image_loss}, units | {"image_loss": "nats"}
    return tables.make_table(space, scores.archs, columns, units=units, provenance=provenance)
