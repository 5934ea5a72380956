"""What a population scored, put together from its units of work."""

import time
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from jaxnas.evaluation.batches import LoadedRow
from jaxnas.evaluation.meshes import sum_over_processes
from jaxnas.evaluation.population import Population
from jaxnas.evaluation.route import Unit, ordered_map
from jaxnas.space import SearchSpace


class Scores(NamedTuple):
    """What a population scored, and under which rule. Of text both are means over words; exp(loss) is perplexity."""

    archs: np.ndarray  # int32 [num_archs, num_choices]
    loss: np.ndarray  # float64 [num_archs], mean cross-entropy in nats; `ranking.as_scores` orders by either
    accuracy: np.ndarray  # float64 [num_archs], fraction of images; NaN where the loss is NaN or infinite
    num_images: int
    bn_mode: str
    images_per_call: int  # in "batch" mode so many images are normalised together
    num_calibration_images: int  # 0 unless calibrated
    strategy: str  # the route taken
    image_loss: np.ndarray | None = None  # float32 [num_archs, num_images], on request
    image_correct: np.ndarray | None = None  # bool [num_archs, num_images], on request


def merits(space: SearchSpace, scores: Scores) -> np.ndarray:
    """What searches are rewarded by, in [0, 1], float64 [num_archs]: accuracies; of text one over the perplexity, which
    is what the words that come are given in (geometric) mean."""
    return np.exp(-scores.loss) if space.is_text else np.asarray(scores.accuracy)


def run_units(
    population: Population,
    loaded: list[LoadedRow | None],
    bar: tqdm,
    *,
    mesh: jax.sharding.Mesh | None = None,
    per_image: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Run a population's units on the rows in turn, a thread each as planned, and put together what they found, other
    processes of the mesh included, whose rows are None.

    Returns:
      loss and accuracy, float64 [num_archs]; loss float32 and correctness bool of each image, [num_archs, num_images],
      of no images unless per_image.
    """
    num_archs, num_images = len(population.archs), population.num_images
    loss, correct = np.zeros(num_archs), np.zeros(num_archs)
    image_loss = np.zeros((num_archs, num_images if per_image else 0), np.float32)
    image_correct = np.zeros(image_loss.shape, bool)

    def run(numbered: tuple[int, Unit]) -> int:
        number, unit = numbered
        row = loaded[number % len(loaded)]
        if row is None:
            return 0
        positions, *columns = unit.run(row)
        losses, hits = (column.reshape(len(column), -1)[:, :num_images] for column in columns)
        loss[positions] = losses.sum(axis=1, dtype=np.float64)
        correct[positions] = hits.sum(axis=1, dtype=np.float64)
        if per_image:
            image_loss[positions], image_correct[positions] = losses, hits
        return len(positions)

    begin, done = time.perf_counter(), 0
    for count in ordered_map(run, enumerate(population.units), population.plan.workers):
        done += count
        bar.update(count)
        bar.set_postfix_str(f"{done * num_images / (time.perf_counter() - begin):,.0f} image·arch/s")
    found: list[np.ndarray] = [loss, correct, image_loss, image_correct]
    loss, correct, image_loss, image_correct = sum_over_processes(found, mesh)
    bar.update(num_archs - done)
    return loss / num_images, correct / num_images, image_loss, image_correct
