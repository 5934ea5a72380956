"""Which of the networks that a search has left are trained alone, each next one by what those before it came to; and
how they are."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from jaxnas import ranking
from jaxnas.codes import to_text
from jaxnas.runs import sealed
from jaxnas.supernets import make_supernet
from jaxnas.training import Recipe, make_standalone

from .config import SearchConfig
from .labelling import among, of_network, same_networks
from .searching import Task, has_factor, values


def one_by_one(
    config: SearchConfig,
    task: Task,
    archs: np.ndarray,
    columns: Mapping[str, np.ndarray],
    accuracy_of: Callable[[int], float],
) -> list[int]:
    """Rows of `archs`, different networks, `num_retrained` or as many as there are: each is the best by the scores of
    all, what their codes say (`of_network`) and the accuracies of those before it.

    Args:
      archs: int32 [num_archs, num_choices].
      columns: of their scores, `values` says which.
      accuracy_of: row -> the accuracy of that network trained alone; not asked of the last row.
    """
    scores, prints = values(config, columns), None
    if has_factor(columns):
        prints = ranking.fingerprints(columns["image_loss"]).features
    rows, accuracies = list[int](), list[float]()
    if len(archs) == 1:
        return [0]
    network, same = of_network(task.published, archs), same_networks(task.published, archs)
    while len(rows) < config.num_retrained and not among(same, rows).all():
        accuracies += [accuracy_of(row) for row in rows[len(accuracies) :]]
        known = slice(None) if np.unique(accuracies).size > 1 else slice(0)
        labels = {"known": rows[known], "accuracies": accuracies[known]}
        ranks = ranking.predict(scores=scores, fingerprints=prints, **network | labels).ranks
        ranks[among(same, rows)] = -np.inf
        rows.append(int(np.argmax(ranks)))
    return rows


def train_alone(
    task: Task,
    recipe: Recipe,
    name_networks: Callable[[Callable[[np.ndarray], float]], np.ndarray],
    folder: Path,
    origin: sealed.Origin,
    *,
    seed: int,
) -> tuple[np.ndarray, float]:
    """Train networks from scratch, at their published size: (the one of best validation accuracy, its accuracy on the
    test images). Each leaves a file, so that a killed run goes on with the next.

    Args:
      name_networks: validation accuracy of a code int32 [num_choices], trained where it is asked for -> codes of those
        that are trained.
    """
    path = folder / "retrained.json"
    if not path.exists():
        data, key = task.setup.data, jax.random.split(jax.random.key(seed), 1)
        space = task.published.resized(
            image_size=task.space.layout.image_size,
            in_channels=task.space.layout.in_channels,
            num_classes=data.num_classes,
        )
        train = make_standalone(make_supernet(space), recipe, mean=data.mean, std=data.std, compiled="each")
        given = key, data.train_images, data.train_labels

        def accuracy_of(code: np.ndarray) -> float:
            name = folder / "retrained" / f"{to_text(task.published, code)}.json"
            of_one = {**origin, "network": name.stem}
            if not name.exists():
                name.parent.mkdir(exist_ok=True)
                valid = train(code[None], *given, data.valid_images, data.valid_labels).accuracy[0, 0]
                sealed.write_json(name, "retrained network", {"valid_accuracy": float(valid)}, of_one)
            return float(sealed.read_json(name, "retrained network", of_one)["valid_accuracy"])

        archs = name_networks(accuracy_of)
        valids = [accuracy_of(code) for code in archs]
        chosen = archs[np.argmax(valids)]
        (test,) = train(chosen[None], *given, data.test_images, data.test_labels).accuracy[:, 0]
        content = {"arch": chosen.tolist(), "test_accuracy": float(test), "valid_accuracies": valids}
        sealed.write_json(path, "retrained network", content, origin)
    content = sealed.read_json(path, "retrained network", origin)
    return np.array(content["arch"], np.int32), content["test_accuracy"]
