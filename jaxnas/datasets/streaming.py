"""Pictures that are decoded when they are asked for: sets that are too large to be held in memory.

A `Streamed` stands where an array of images would: it has a shape and a length, rows are taken out of it, and
`jaxnas.training.batches` reads from it ahead of the training, in the order in which it takes rows of an array. What
comes is a function of the seed, the step and the place in the batch alone, however many threads, processes or workers
read: a run that goes on reads what an uninterrupted one would have read.
"""

import math
import os
import warnings
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from jaxnas.datasets.augmenting import Augment, augmented, central
from jaxnas.files import one_line

Damaged = Literal["stop", "skip"]
MOST_SKIPPED = 100  # pictures one after the other that are damaged: such a set is no set
NUM_THREADS = 16


class Records(Protocol):
    """Encoded pictures by number. It goes to processes of its own, so it can be pickled."""

    def encoded(self, place: int) -> bytes: ...

    def name(self, place: int) -> str: ...  # for messages


class Files(NamedTuple):
    """Pictures in files."""

    paths: list[str]

    def encoded(self, place: int) -> bytes:
        with open(self.paths[place], "rb") as file:
            return file.read()

    def name(self, place: int) -> str:
        return self.paths[place]


class ArrayRecords(NamedTuple):
    """Pictures of a split of a TFDS set, a data source with random access, left encoded."""

    source: Any
    image: str  # key of the picture in a record
    split: str

    def encoded(self, place: int) -> bytes:
        found = self.source[place][self.image]
        if not isinstance(found, bytes):  # None, where a file ends before its index does
            raise ValueError("the record is missing")
        return found

    def name(self, place: int) -> str:
        return f"record {place} of {self.split}"


class Streamed:
    """Images uint8 [num_images, size, size, 3] that are decoded when rows are taken.

    `images[rows]`, with a slice or integers, decodes the middle square of each, as an evaluation sees it. `images.read`
    is for training.

    Args:
      places: int [num_images], which records these are.
      size: pixels of a side.
      augment: what `read` does to each picture; None: nothing but the evaluation's crop.
      damaged: "stop" raises a ValueError that names the picture; "skip" warns, and takes the next one. What is judged
        on should stop: a picture that is left out would be counted all the same.
      num_workers: processes that `read` decodes in; 0: threads of this one.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        records: Records,
        places: np.ndarray,
        size: int,
        *,
        augment: Augment | None = None,
        damaged: Damaged = "stop",
        num_workers: int = 0,
    ) -> None:
        self.records, self.places, self.size = records, places, size
        self.augment, self.damaged, self.num_workers = augment, damaged, num_workers
        self._told: set[int] = set()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.places), self.size, self.size, 3

    def __len__(self) -> int:
        return len(self.places)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """Not silently as an array: what is streamed doesn't fit in memory."""
        num_bytes = math.prod(self.shape)
        raise ValueError(
            f"{len(self)} pictures are streamed, and all are wanted at once; raise most_resident to {num_bytes:,} bytes"
            " and take no augment, or train step by step (experiments.retrain)."
        )

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        taken = np.arange(len(self))[rows]
        if not len(taken):
            return np.zeros((0, *self.shape[1:]), np.uint8)
        return self.taken(taken)[0]

    def taken(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images [num_rows, size, size, 3] as an evaluation sees them, and the rows that they are: see `read`."""
        plain = Streamed(self.records, self.places, self.size, damaged=self.damaged)
        plain._told = self._told
        images, found = zip(*plain.read(rows[:, None], rows[:, None], 0), strict=True)
        return np.concatenate(images), np.concatenate(found)

    def read(self, rows: np.ndarray, positions: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Decode ahead: rows int [num_batches, batch_size] -> batch by batch (images uint8 [batch_size, size, size, 3],
        the rows that they are, int [batch_size]: others where a picture was skipped).

        Args:
          positions: int, as rows: each picture's number in the training, which with the seed decides what is drawn.
          seed: 0 to 2**64 - 1.

        Raises:
          ValueError: a picture that cannot be read; where such are skipped, `MOST_SKIPPED` of them in a row.
        """
        import grain  # slow to import, and only needed here
        from absl import flags

        load = _Load(self.records, self.places, self.size, self.augment, self.damaged == "skip", seed)
        pairs = np.stack([rows.reshape(-1), positions.reshape(-1)], axis=1)
        # Whole batches are what threads and processes are given, so that no number of either changes what is in one.
        batched = grain.MapDataset.source(pairs).map(load).batch(rows.shape[1])
        threads = 1 if self.num_workers else min(NUM_THREADS, os.cpu_count() or 1)
        ahead = batched.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
        if self.num_workers:
            if not flags.FLAGS.is_parsed():  # Grain asks for flags of its own, of programs without any as well
                flags.FLAGS.mark_as_parsed()
            ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(self.num_workers, per_worker_buffer_size=2))
        for found in ahead:
            self._tell(found["damaged"], found["row"])
            yield found["image"], found["row"]

    def _tell(self, damaged: np.ndarray, taken: np.ndarray) -> None:
        """Stop or warn, once for each picture; it is read again for the reason."""
        for row in np.unique(damaged[damaged >= 0]).tolist():
            if row in self._told:
                continue
            self._told.add(row)
            place = int(self.places[row])
            name, reason = self.records.name(place), _reason(self.records, place, self.size)
            if self.damaged == "stop":
                raise ValueError(f"{name}: cannot be read ({reason}); delete it, or set damaged to skip.")
            warnings.warn(f"{name}: cannot be read ({reason}); skipped.", stacklevel=3)
        if (taken < 0).any():
            raise ValueError(f"{MOST_SKIPPED} pictures one after the other cannot be read; see that the set is whole.")


class _Load(NamedTuple):
    """(row, position) -> the picture, the row that it is, and the first row that was damaged or -1."""

    records: Records
    places: np.ndarray
    size: int
    augment: Augment | None
    skips: bool
    seed: int

    def __call__(self, pair: np.ndarray) -> dict[str, Any]:
        row, position = (int(number) for number in pair)
        damaged = -1
        for skipped in range(min(MOST_SKIPPED, len(self.places)) if self.skips else 1):
            found = (row + skipped) % len(self.places)
            try:
                return {"image": self.decode(found, position), "row": np.int64(found), "damaged": np.int64(damaged)}
            except Exception:  # a damaged picture raises anything; `_tell` says what
                damaged = row if damaged < 0 else damaged
        nothing = np.zeros((self.size, self.size, 3), np.uint8)
        return {"image": nothing, "row": np.int64(-1), "damaged": np.int64(damaged)}

    def decode(self, row: int, position: int) -> np.ndarray:
        encoded = self.records.encoded(int(self.places[row]))
        if self.augment is None:
            return central(encoded, self.size)
        rng = np.random.Generator(np.random.Philox(key=[self.seed, position]))
        return augmented(encoded, self.size, self.augment, rng)


def _reason(records: Records, place: int, size: int) -> str:
    try:
        central(records.encoded(place), size)
    except Exception as error:
        return one_line(error)
    return "this time it could be"
