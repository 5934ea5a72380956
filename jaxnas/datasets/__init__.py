"""Named image-classification sets as host arrays: scikit-learn's digits, CIFAR from its published archives, any set of
TensorFlow Datasets (TFDS), arrays and folders of one's own; and texts, as rows of words.

Sets of CIFAR's size are read into memory, and live on the device; pictures that are too many are decoded when they are
asked for (`Streamed`):

    data = datasets.load("cifar10", num_valid=10_000, image_size=16, data_dir="~/data")
    images, labels = jax.device_put((data.train_images, data.train_labels))
"""

from jaxnas.datasets.augmenting import AUGMENTS, Augment
from jaxnas.datasets.cifar import ARCHIVES, find_archive
from jaxnas.datasets.downloading import Remote, fetch, get_command
from jaxnas.datasets.identities import Identities, Reid, classes_as_identities, read_market
from jaxnas.datasets.images import channel_statistics, resize
from jaxnas.datasets.loading import Dataset, Reading, check_name, from_arrays, load
from jaxnas.datasets.pasting import paste
from jaxnas.datasets.rehearsal import write_folder
from jaxnas.datasets.scenes import Letterboxed, Scenes, load_voc, read_coco, read_voc
from jaxnas.datasets.splits import stratified_order
from jaxnas.datasets.streaming import Streamed
from jaxnas.datasets.text import check_text_name, load_text

__all__ = [
    "ARCHIVES",
    "AUGMENTS",
    "Augment",
    "Dataset",
    "Identities",
    "Letterboxed",
    "Reading",
    "Reid",
    "Remote",
    "Scenes",
    "Streamed",
    "channel_statistics",
    "check_name",
    "check_text_name",
    "classes_as_identities",
    "fetch",
    "find_archive",
    "from_arrays",
    "get_command",
    "load",
    "load_text",
    "load_voc",
    "paste",
    "read_coco",
    "read_market",
    "read_voc",
    "resize",
    "stratified_order",
    "write_folder",
]
