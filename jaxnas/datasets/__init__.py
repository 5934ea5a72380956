"""Named image-classification sets as host arrays: scikit-learn's digits, or any set of TensorFlow Datasets (TFDS); and
texts, as rows of words.

Everything is read into memory: meant for sets of CIFAR's size, whose arrays then live on the device:

    data = datasets.load("cifar10", num_valid=10_000, image_size=16, data_dir="~/data")
    images, labels = jax.device_put((data.train_images, data.train_labels))
"""

from jaxnas.datasets.images import channel_statistics, resize
from jaxnas.datasets.loading import Dataset, check_name, load
from jaxnas.datasets.splits import stratified_order
from jaxnas.datasets.text import check_text_name, load_text

__all__ = [
    "Dataset",
    "channel_statistics",
    "check_name",
    "check_text_name",
    "load",
    "load_text",
    "resize",
    "stratified_order",
]
