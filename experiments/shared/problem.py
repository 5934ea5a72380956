"""What an experiment is about: the space, the images and the truth that its config names, and the codes it asks for."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxnas import codes, datasets, export, runs, tables
from jaxnas.datasets import Dataset
from jaxnas.files import read_file
from jaxnas.space import SearchSpace
from jaxnas.spaces import SPACES, get_space

from .config import REHEARSAL, Half, ProblemConfig, SupernetConfig, by_kind, small_width

MOST_JSON = 2**20  # bytes of an architecture
SCORED_ROWS = 4  # a row of a text that is scored, by itself, is so much longer than one that is trained on
PUBLISHED_CELLS = "nb101_subset_naslib500.npz"


REHEARSED_IMAGES = 1800, 300  # of CIFAR-10, or as many as digits has, that become pictures; and of its test part
Rehearsed = TypeVar("Rehearsed", bound=SupernetConfig)


class Problem(NamedTuple):
    """What a config asks for: networks, images, and what is known about them."""

    published: SearchSpace  # with the sizes of its own, which costs are counted for
    space: SearchSpace  # with those of the config
    data: Dataset
    truth: tables.Table


def load_problem(config: ProblemConfig, *, part: bool = False) -> Problem:
    """Space, images and table of a config, `part` as for `load_truth`; a ValueError or OSError where one of them isn't
    there."""
    published = get_space(config.space)
    truth = load_truth(config, published, part=part)
    data = load_images(config, published)
    return Problem(published, resize(config, published, data), data, truth)


def rehearse(config: Rehearsed, workdir: Path) -> Rehearsed:
    """The config with the set of a rehearsal made and named: a folder of pictures in the workdir."""
    if config.problem.dataset != REHEARSAL:
        return config
    try:
        datasets.check_name("cifar10", config.problem.data_dir)
        data = datasets.load("cifar10", num_train=REHEARSED_IMAGES[0], num_valid=100, data_dir=config.problem.data_dir)
    except ValueError:  # not there
        data = datasets.load("digits", num_valid=100)
    few = data._replace(
        test_images=data.test_images[: REHEARSED_IMAGES[1]], test_labels=data.test_labels[: REHEARSED_IMAGES[1]]
    )
    size = config.problem.image_size
    folder = datasets.write_folder(workdir / "pictures", few, size if isinstance(size, int) else 32)
    return runs.replace(config, dataset=f"folder:{folder}")


def load_truth(config: ProblemConfig, published: SearchSpace, *, part: bool = False) -> tables.Table:
    """The table of a config; `part`, for what ranks the table's own alone: or `published_cells` where it is missing.

    Of text `test_accuracy` becomes one over the perplexity, which words that come are given in (geometric) mean:
    networks on text are ranked by it, not by how often they guess right.
    """
    try:
        truth = tables.load_truth(published, config.dataset, data_dir=config.data_dir)
    except tables.MissingTable:
        cells = published_cells(config, published) if part else None
        if cells is None:
            raise
        return cells
    if not published.is_text:
        return truth
    if "test_loss" not in truth.columns:
        raise ValueError(f"the table of {published.name} on {config.dataset} has no test_loss; make it by build_table.")
    return truth._replace(columns={**truth.columns, "test_accuracy": np.exp(-truth.columns["test_loss"])})


def published_cells(config: ProblemConfig, space: SearchSpace) -> tables.Table | None:
    """The published cells of NAS-Bench-101, see `tables.distinct_cells`; None of another space or data set, or where
    there is no such file."""
    folder = config.data_dir or os.environ.get("JAXNAS_DATA")
    path = Path(folder or "").expanduser() / PUBLISHED_CELLS
    if (space.name, config.dataset) != ("nasbench101", "cifar10") or not folder or not path.is_file():
        return None
    return tables.distinct_cells(tables.read_nasbench101_cells(path, space), space)


def read_arch(path: str, given: str) -> tuple[SearchSpace, np.ndarray]:
    """The space, at its published size, and the architecture int32 [num_choices] of a JSON of `jaxnas.export`, which
    names the space.

    Args:
      given: the config's space, which is asked where the file names none that is known by name.
    """
    try:
        text = read_file(path, MOST_JSON).decode()
        named = export.named_space(text)
        if named not in SPACES and given in SPACES:
            raise ValueError(f"an architecture of {named}, a space of your own; where is it? --space FILE.py:OBJECT.")
        space = get_space(named if named in SPACES else given)
        return of_images(space), export.from_json(text, space)
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def of_images(space: SearchSpace) -> SearchSpace:
    if space.is_text:
        raise ValueError(f"{space.name}: networks on text are not retrained here; take a space of images.")
    return space


def load_images(config: ProblemConfig, published: SearchSpace) -> Dataset:
    """The images of a config, at its size or else at the space's own; or its text."""
    if published.is_text:
        return datasets.load_text(
            config.dataset,
            length=config.words_per_row,
            scored_length=SCORED_ROWS * config.words_per_row,
            vocabulary=config.vocabulary,
            num_train=config.num_train,
            num_valid=config.num_valid,
            data_dir=config.data_dir,
        )
    image_size = by_kind(published, cells=8, others=16) if config.image_size == "small" else config.image_size
    return datasets.load(
        config.dataset,
        num_train=config.num_train,
        num_valid=config.num_valid,
        image_size=published.layout.image_size if image_size is None else image_size,
        data_dir=config.data_dir,
        reading=datasets.Reading(
            config.most_resident, datasets.AUGMENTS[config.augment], config.damaged, config.reading_workers
        ),
    )


def resize(config: ProblemConfig, published: SearchSpace, data: Dataset) -> SearchSpace:
    """The space with the sizes of the config and of the images."""
    is_cells, width = "cells_per_stage" in published.sizes, config.width
    width = small_width(published) if width == "small" else width
    if published.is_text:
        return published.resized(
            width=width, num_classes=data.num_classes, num_words=SCORED_ROWS * config.words_per_row
        )
    return published.resized(
        width=width,
        image_size=data.train_images.shape[1],
        in_channels=data.train_images.shape[-1],
        num_classes=data.num_classes,
        **({"cells_per_stage": config.cells_per_stage} if is_cells else {}),
    )


def evaluation_archs(
    space: SearchSpace, num_archs: int | None, truth: tables.Table, *, half: Half = "all"
) -> np.ndarray:
    """The codes to score: the whole space or one half of it, or a sample of these that depends on the space and its
    number alone. Where not every code exists, each distinct network of the table once. Of a space too large to draw
    from, whose table can only be a sample, the table's own; where it has a part of another space, of these alone."""
    if half != "all" and (space.size >= 2**63 or not space.has_all_codes):
        both = evaluation_archs(space, None if num_archs is None else 2 * num_archs, truth)
        order = np.random.Generator(np.random.Philox(0)).permutation(len(both))
        return both[np.sort(_half_of(order, half)[:num_archs])]
    if space.size >= 2**63:
        return truth.archs[:num_archs]
    if not space.has_all_codes:
        order, wanted = (
            np.random.Generator(np.random.Philox(0)).permutation(len(truth.archs)),
            num_archs or len(truth.archs),
        )
        found = truth.archs[:0]
        for number in (wanted, 20 * wanted, len(order)):  # of a large table not all need be compared
            tried = truth.archs[order[:number]]
            _, first = np.unique(space.isomorphs(tried), axis=0, return_index=True)
            found = tried[np.sort(first)[:wanted]]
            if len(found) == wanted:
                break
        return found
    known = np.sort(codes.to_index(space, truth.archs))  # of most tables all
    if half == "all" and (num_archs is None or num_archs >= len(known)):
        return codes.from_index(space, known)
    order = np.random.Generator(np.random.Philox(0)).permutation(len(known))
    return codes.from_index(space, known[np.sort(_half_of(order, half)[:num_archs])])


def _half_of(order: np.ndarray, half: Half) -> np.ndarray:
    middle = len(order) // 2
    return {"all": order, "develop": order[:middle], "claim": order[middle:]}[half]


def arch_rows(space: SearchSpace, archs: np.ndarray, columns: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Rows of a CSV file: the code of each architecture, and its entry of each column [num_archs]."""
    return [
        {"arch": codes.to_text(space, code)} | dict(zip(columns, row, strict=True))
        for code, row in zip(archs, zip(*columns.values(), strict=True), strict=True)
    ]
