"""What the components of fingerprints are: how each ranks beside what is known of the architectures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from jaxnas import costs, plotting, ranking, runs
from jaxnas.space import SearchSpace
from jaxnas.supernets import Supernet

from .labelling import Population

NUM_COMPONENTS = 4  # that are told of
MOST_DRAWN = 3  # super-nets
NUM_IMAGES = 12  # of a row of pictures
TOLD = {"share": "share of the variance", "same_way": "share of images it goes one way on"}
# What a component is set beside: column of components.csv -> name in the picture.
MEASURES = {
    "test_accuracy": "stand-alone accuracy",
    "macs": "MACs",
    "params": "parameters",
    "with_params": "operations with parameters",
    "mean_loss": "minus mean loss",
    "spread": "spread of losses over images",
}


def known_of(published: SearchSpace, supernet: Supernet, population: Population) -> dict[str, np.ndarray]:
    """The truth of architectures and what is counted of them, [num_archs] each."""
    taken = supernet.decode(np.asarray(population.archs, np.int32))
    return {
        "test_accuracy": population.accuracy,
        "macs": population.macs,
        "params": costs.arch_costs(published, population.archs).params,
        "with_params": (~supernet.parameter_free[np.arange(taken.shape[1]), taken]).sum(axis=1),
    }


def components_of(losses: np.ndarray, known: Mapping[str, np.ndarray], seed: int) -> list[dict[str, Any]]:
    """A row for each of the first components of what one super-net's sub-networks lose at its trained moments,
    [num_moments, num_archs, num_images]: its share of the variance, how much of it half of the images finds again, the
    share of images on which it goes the same way, and Kendall's tau with each measure. It has the sign of minus the
    mean loss."""
    mean, moments = -losses.mean(axis=(0, 2)), list(losses)
    measures = {**known, "mean_loss": mean, "spread": np.log(np.maximum(losses, 1e-6)).std(axis=2).mean(axis=0)}
    prints = ranking.fingerprints(moments, num_components=NUM_COMPONENTS)
    rows = []
    for place, column in enumerate(prints.features.T):
        signed = -column if ranking.kendall_tau(column, mean) < 0 else column
        better = float((ranking.loadings(moments, signed, transform="log") > 0).mean())
        told = {"share": prints.shares[place], "found_again": prints.found_again[place]}
        told["same_way"] = max(better, 1 - better)
        taus = {f"tau_{name}": ranking.kendall_tau(signed, measures[name]) for name in MEASURES}
        rows.append({"seed": seed, "component": place + 1, **told, **taus})
    return rows


def tell_components(
    rows: Sequence[Mapping[str, Any]],
    of_images: Sequence[Mapping[str, Any]],
    images: np.ndarray,
    workdir: Path,
    title: str,
) -> dict[str, Any]:
    """Write components.csv and images.csv, draw components.png and, of the first super-net, images.png. Figures, means
    over super-nets with intervals: of each component the share of the variance, that of images on which it goes the
    same way, and its tau with the truth once its sign is known, that is, the tau's size."""
    runs.write_rows(workdir / "components.csv", rows)
    runs.write_rows(workdir / "images.csv", of_images)
    draw_images(of_images[: len(images)], images, workdir / "images.png", title)
    figures: dict[str, Any] = {}
    for place in sorted({row["component"] for row in rows}):
        of_all = [row for row in rows if row["component"] == place]
        for name, column in {"share": "share", "same_way": "same_way", "tau": "tau_test_accuracy"}.items():
            values = np.abs([row[column] for row in of_all])
            figures |= ranking.estimate_mean(values).named(f"{name}_component_{place}")
    panels, columns, shown = {}, [], TOLD | {f"tau_{name}": label for name, label in MEASURES.items()}
    for seed in list(dict.fromkeys(row["seed"] for row in rows))[:MOST_DRAWN]:
        of_seed = [row for row in rows if row["seed"] == seed]
        panels[f"super-net {seed}"] = [[row[name] for row in of_seed] for name in shown]
        columns = [str(row["component"]) for row in of_seed]
    title += f"\nComponents 1 to {len(columns)} of the fingerprints: Kendall's tau with what is known"
    figure = plotting.correlations(panels, list(shown.values()), columns, title=title)
    plotting.save_figure(figure, workdir / "components.png")
    return figures


def loadings_of(losses: np.ndarray, labels: np.ndarray, accuracy: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """A row for each image: how far it orders one super-net's sub-networks as their one factor does, and as ranks of
    the truth do (`ranking.loadings`, means over moments), the mean loss of all and its deviation over them in nats."""
    moments = list(losses)
    scores = {"loading": ranking.one_factor(moments).scores, "truth_loading": scipy.stats.rankdata(accuracy)}
    columns = {
        name: ranking.loadings(moments, ranks).reshape(len(moments), -1).mean(axis=0) for name, ranks in scores.items()
    }
    columns |= {"mean_loss": losses.mean(axis=(0, 1)), "deviation": losses.std(axis=1).mean(axis=0)}
    return [
        {"seed": seed, "image": number, "label": int(label)} | dict(zip(columns, row, strict=True))
        for number, (label, row) in enumerate(zip(labels, zip(*columns.values(), strict=True)))
    ]


def draw_images(rows: Sequence[Mapping[str, Any]], images: np.ndarray, path: Path, title: str) -> None:
    """A picture of the images of one super-net that carry its factor most, not at all, and the wrong way round."""
    loading = np.array([row["loading"] for row in rows])
    order, none = np.argsort(loading), np.argsort(np.abs(loading))
    chosen = {
        "highest loading: who has more of the factor does better": order[::-1],
        "nearest to none": none,
        "lowest: who has more of it does worse, or no better": order,
    }
    groups = {name: list(images[places[:NUM_IMAGES]]) for name, places in chosen.items()}
    captions = {
        name: [
            f"class {rows[place]['label']}\n{rows[place]['loading']:z.2f}\n{rows[place]['mean_loss']:.2f} nats"
            for place in places[:NUM_IMAGES]
        ]
        for name, places in chosen.items()
    }
    title += "\nImages, their loading on the one factor, and their mean loss"
    plotting.save_figure(plotting.pictures(groups, captions, title=title, columns=NUM_IMAGES), path)
