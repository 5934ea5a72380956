"""What reading pictures costs a training: `batches` of a streamed set against decoding alone, and who waits for whom.

    python -m benchmarks.streaming                     # a table, a minute or two on two cores
    python -m benchmarks.streaming --quick             # smaller
    python -m benchmarks.streaming --json --out FILE   # flat records

Crops of scikit-learn's two photographs as JPEGs of 500 x 375, read, decoded, cut at random and resized to `image_size`.
In turns within one run, medians; images per second:

    decode      the same function on the same files, on a thread for each core, results thrown away
    stream      batches read ahead, in order, and put on the device; `over_decode` is its time over decode's
    step        a step that computes for `compute_share` of the time that a batch takes: the share of its time that it
                waits for data
"""

import dataclasses
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks import command
from jaxnas import datasets
from jaxnas.checks import Count, Pixels, Positive
from jaxnas.datasets.augmenting import AUGMENTS, augmented
from jaxnas.runs import num_cores
from jaxnas.training import BatchAt, batches

SIDES = (500, 375)  # pixels of a picture, about ImageNet's mean


@dataclasses.dataclass(frozen=True)
class Config:
    """How many pictures, at which size."""

    num_images: Count = 640  # of each class; there are two
    image_size: Pixels = 224
    batch_size: Count = 64
    num_steps: Count = 15  # of a repetition
    compute_share: Positive = 2.0  # time of computing over time of reading
    repetitions: Count = 5  # of each route, in turns; the median counts
    quick: bool = False  # other defaults
    json: bool = False  # records instead of a table
    out: Path | None = None  # write the records to this file as well


QUICK = Config(num_images=64, image_size=64, batch_size=16, num_steps=3, repetitions=2, quick=True)


def write_pictures(config: Config, root: Path) -> None:
    """Random crops of the photographs, a class for each."""
    from sklearn.datasets import load_sample_images

    rng, (width, height) = np.random.default_rng(0), SIDES
    for name, photograph in zip(("china", "flower"), map(Image.fromarray, load_sample_images().images)):
        for part, number in (("train", config.num_images), ("val", 2)):
            (root / part / name).mkdir(parents=True)
            for index in range(number):
                left, upper = (int(rng.integers(0, end - side)) for end, side in zip(photograph.size, SIDES))
                picture = photograph.crop((left, upper, left + width, upper + height))
                picture.save(root / part / name / f"{index}.jpg", quality=90)


def run(config: Config) -> command.Records:
    """One record for each route."""
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(config, Path(folder))
        reading = datasets.Reading(augment=AUGMENTS["crop"])
        data = datasets.load(f"folder:{folder}", num_valid=2, image_size=config.image_size, reading=reading)
        images, augment = data.train_images, AUGMENTS["crop"]
        assert augment is not None
        wanted = config.num_steps * config.batch_size

        def decode_one(number: int) -> int:
            rng = np.random.Generator(np.random.Philox(key=[0, number]))
            encoded = images.records.encoded(int(images.places[number % len(images)]))
            return augmented(encoded, config.image_size, augment, rng).size

        def decode() -> float:
            start = time.perf_counter()
            with ThreadPoolExecutor(num_cores()) as pool:
                list(pool.map(decode_one, range(wanted)))
            return time.perf_counter() - start

        def stream() -> float:
            start, numbers = time.perf_counter(), np.arange(wanted).reshape(-1, config.batch_size)
            for found, _ in images.read(numbers % len(images), numbers, 0):
                jax.block_until_ready(jnp.asarray(found))
            return time.perf_counter() - start

        decode(), stream()
        seconds: dict[str, list[float]] = {"decode": [], "stream": []}
        for _ in range(config.repetitions):
            for name, route in (("decode", decode), ("stream", stream)):
                seconds[name].append(route())
        rates = {name: wanted / float(np.median(taken)) for name, taken in seconds.items()}
        over = float(np.median(np.array(seconds["stream"]) / np.array(seconds["decode"])))
        batch_at = batches(jax.random.key(0), images, data.train_labels, config.batch_size)
        waits = waiting(config, batch_at, config.batch_size / rates["stream"])
    shared = {
        **dataclasses.asdict(config),
        "out": None,
        "device": command.device_name(),
        "versions": command.versions(),
    }
    return [
        {"route": "decode", "images_per_s": rates["decode"], **shared},
        {"route": "stream", "images_per_s": rates["stream"], "over_decode": over, **shared},
        {"route": "step", "waiting_share": waits, **shared},
    ]


def waiting(config: Config, batch_at: BatchAt, batch_seconds: float) -> float:
    """The share of a training's time that its steps wait for data, where they compute longer than reading takes, after
    the first one. A sleep stands for an accelerator's computing, which leaves the host to the readers."""
    batch_at(0)
    waited, start = 0.0, time.perf_counter()
    for step in range(1, 1 + config.num_steps):
        asked = time.perf_counter()
        jax.block_until_ready(batch_at(step))
        waited += time.perf_counter() - asked
        time.sleep(config.compute_share * batch_seconds)
    return waited / (time.perf_counter() - start)


def table(records: command.Records) -> str:
    """Images per second of the two routes, how they compare, and what a step waits."""
    decode, stream, step = records
    return "\n".join(
        [
            f"{decode['image_size']} px, batch {decode['batch_size']}, {num_cores()} of {os.cpu_count()} cores",
            f"decode  {decode['images_per_s']:8.0f} images/s",
            f"stream  {stream['images_per_s']:8.0f} images/s, {stream['over_decode']:.2f} times the time of decoding",
            f"step    waits {step['waiting_share']:.1%} of its time, computing {step['compute_share']:g} times as long",
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    command.main("streaming", Config, QUICK, __doc__, run, table, argv)


if __name__ == "__main__":
    main()
