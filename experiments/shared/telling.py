"""What a run tells: what it comes to, in a sentence, and what it found, in files that can be loaded again, in words
that a person reads and in a picture.

A result's entries `verdict` and `headline`, the sentence and the name of the main figure, are shown first by the
console and by report.html.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnas import export, files, plotting
from jaxnas.codes import to_text
from jaxnas.datasets import Dataset, Streamed
from jaxnas.ranking import Estimate
from jaxnas.space import SearchSpace
from jaxnas.spaces import outline
from jaxnas.supernets import Params, Supernet, build_supernet
from jaxnas.supernets.factors import Factors
from jaxnas.tables import Judge, Table

Figures = Mapping[str, Any]


class Known(NamedTuple):
    """What the truth says of an architecture; None: nothing."""

    accuracy: float | None = None
    rank: int | None = None
    num_ranked: int | None = None


def judged(judge: Judge | None, arch: np.ndarray) -> Known:
    """What a table says of an architecture, int [num_choices]; nothing without one."""
    if judge is None:
        return Known()
    accuracy = float(judge.accuracy(arch[None])[0])
    return Known(accuracy, judge.rank(arch), len(judge.feasible))


def write_found(
    workdir: Path,
    space: SearchSpace,
    arch: np.ndarray,
    known: Known,
    *,
    search: str = "",
    weights: tuple[Supernet, Params] | None = None,
    others: Sequence[tuple[np.ndarray, Known]] = (),
) -> dict[str, Any]:
    """Write found.json, found.txt, found.png and, where there are weights, found.npz; return figures of it, flat.

    Args:
      space: at its published size, which costs are of.
      search: of several searches, which one; its files are found_SEARCH.json and so on.
      weights: super-net and parameters that the network's own are taken from.
      others: the next best, which are told in words.
    """
    known = known._replace(accuracy=None) if space.is_text else known
    name = f"found_{search}" if search else "found"
    code, words = to_text(space, arch), export.in_words(space, arch, **known._asdict())
    for place, (other, of_other) in enumerate(others, 2):
        of_other = of_other._replace(accuracy=None) if space.is_text else of_other
        lines = export.in_words(space, other, **of_other._asdict()).replace("\n", "; ")
        words += f"\nnumber {place}, {to_text(space, other)}: {lines}"
    figures = export.describe(space, arch, accuracy=known.accuracy)
    figures = {entry: figures[entry] for entry in ("accuracy", "params", "macs")}
    figures |= {"rank": known.rank, "num_ranked": known.num_ranked}
    table = export.summary(build_supernet(space, Factors()), arch)
    files.replace_file(
        workdir / f"{name}.json", (export.to_json(space, arch, figures | {"words": words}) + "\n").encode()
    )
    files.replace_file(workdir / f"{name}.txt", f"{words}\n\n{table}\n".encode())
    if weights is not None:
        write_weights(workdir, arch, *weights, search)
    draw_network(workdir / f"{name}.png", space, arch, f"found{f' by {search}' if search else ''}: {code}", known)
    return {f"{name}_{entry}": value for entry, value in {"arch": code, **figures}.items()}


def write_weights(
    workdir: Path, arch: Sequence[int] | np.ndarray, supernet: Supernet, params: Params, search: str = ""
) -> None:
    """Write found.npz, or found_SEARCH.npz: an architecture with weights out of a super-net's parameters."""
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / (f"found_{search}.npz" if search else "found.npz")
    export.save(path, export.export(supernet, params, np.asarray(arch)), supernet.space)


def draw_network(path: Path, space: SearchSpace, arch: np.ndarray, what: str, known: Known) -> None:
    """A picture of one architecture."""
    title = f"{space.name}, {what}\n" + export.in_words(space, arch, **known._asdict()).splitlines()[-1]
    graphs = {name: (cell.nodes, cell.edges) for name, cell in outline(space, arch).items()}
    plotting.save_figure(plotting.networks(graphs, title=title), path)


def hashes(data: Dataset | None, truth: Table | None = None) -> dict[str, str]:
    """SHA-256, its first 16 digits, of what was read: of all images or words with their labels, and of the table. Of
    pictures that are streamed, which were not all read: of their numbers and labels."""
    found = {}
    if data is not None:
        parts = ("train_images", "train_labels", "valid_images", "valid_labels", "test_images", "test_labels")
        found["data_sha256"] = files.arrays_checksum({part: known_part(getattr(data, part)) for part in parts})[:16]
    if truth is not None:
        found["truth_sha256"] = files.arrays_checksum({"archs": truth.archs, **truth.columns})[:16]
    return found


def known_part(images: np.ndarray | Streamed) -> np.ndarray:
    """The images, or of streamed ones which they are."""
    return images.places if isinstance(images, Streamed) else images


def estimate_of(figures: Figures, name: str) -> Estimate:
    """A figure of a result with its interval; nan where there is none."""
    ends = (figures.get(f"{name}{end}") for end in ("", "_low", "_high"))
    return Estimate(*(math.nan if end is None else end for end in ends))


def level(figures: Figures, name: str, sentence: str, *, digits: int = 2, unit: str = "") -> dict[str, str]:
    """A figure that says something by itself: `sentence` ends in it, or has a pair of braces for it."""
    sentence = sentence if "{}" in sentence else f"{sentence} {{}}"
    return {"verdict": sentence.format(estimate_of(figures, name).text(digits=digits, unit=unit)), "headline": name}


def difference(
    figures: Figures, name: str, sentence: str, better: str, worse: str, *, digits: int = 2
) -> dict[str, str]:
    """A figure that is a difference, see `Estimate.verdict`."""
    return {"verdict": estimate_of(figures, name).verdict(sentence, better, worse, digits=digits), "headline": name}


def differences(figures: Figures, names: Mapping[str, str], than: str) -> dict[str, str]:
    """Several differences, {what: figure}: which are clearly better than what `than` says, which worse, which neither.
    The first is the main one."""
    groups: dict[str, list[str]] = {
        f"clearly better than {than}": [],
        "clearly worse": [],
        "not told apart from it": [],
    }
    better, worse, neither = groups.values()
    for what, name in names.items():
        _, low, high = estimate_of(figures, name)
        (better if low > 0 else worse if high < 0 else neither).append(what)
    said = [f"clearly better than {than}: {', '.join(better) or 'none'}"]
    said += [f"clearly worse: {', '.join(worse)}"] if worse else []
    said += [f"not told apart from it: {', '.join(neither)}"] if neither else []
    return {"verdict": "; ".join(said), "headline": next(iter(names.values()))}
