"""The named data sets: `open_data("digits")` or `open_data("cifar10-jpeg:PATH")`, and the balanced choice of samples.

A data set gives labels at once and normalised images on demand, so that memory does not grow with its size.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from probe.errors import ProbeError

Indices = npt.NDArray[np.int64]
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class DataSet:
    """Labelled samples of one split.

    Attributes:
        name: how the user named it, as a recording keeps it.
        labels: class of each sample, int64, shape (sample,).
        classes: the class names, in label order.
        load: gives the normalised float32 images of some sample indices, shape (sample, channel, height, width).
    """

    name: str
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    load: Callable[[Indices], npt.NDArray[np.float32]]

    def __len__(self) -> int:
        return len(self.labels)


def open_data(name: str, split: str = "test") -> DataSet:
    """The data set called `name`, in one of its splits, `train` or `test`.

    Raises:
        ProbeError: the name, the split or the file behind it is not what it should be.
    """
    kind, _, path = name.partition(":")
    if kind not in DATA_SETS:
        known = ", ".join(f"{known}:PATH" if takes else known for known, (_, takes) in DATA_SETS.items())
        raise ProbeError(f"unknown data {name!r}", expected=f"one of {known}")
    if split not in ("train", "test"):
        raise ProbeError(f"unknown split {split!r} of {kind}", expected="train or test")
    opener, takes_path = DATA_SETS[kind]
    if path and not takes_path:
        raise ProbeError(f"data {name!r} names a file", expected=kind, next_step=f"pass --data {kind}")
    if takes_path and not path:
        raise ProbeError(f"data {name!r} names no file", expected=f"{kind}:PATH")
    return opener(path, split)


def choose_samples(
    labels: npt.NDArray[np.int64], samples: int | None, seed: int, *, what: str = "the data"
) -> npt.NDArray[np.int64]:
    """Indices of `samples` samples, balanced over classes and chosen by `seed`; None for all of them, in order.

    Classes differ by at most one sample, as long as each has enough; the result is in increasing order.

    Raises:
        ProbeError: there are not that many samples.
    """
    if samples is None:
        return np.arange(len(labels), dtype=np.int64)
    if not 1 <= samples <= len(labels):
        raise ProbeError(f"{samples} samples of {what}", expected=f"1 to {len(labels)}", next_step="pass --samples N")
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        rank[of_class] = np.arange(len(of_class))
    # The first of every class, then the second of every class, ...: a prefix of any length is balanced.
    chosen = order[np.argsort(rank[order], kind="stable")][:samples]
    return np.sort(chosen)


def _open_digits(_path: str, split: str) -> DataSet:
    """scikit-learn's load_digits, a copy of the test set of the UCI ML hand-written digits data set.

    E. Alpaydin and C. Kaynak, 1998, CC BY 4.0. Every third sample is held out for the split `test`.
    """
    with np.load(str(files("probe.zoo") / "data" / "digits.npz")) as archive:
        pixels, labels = archive["images"], archive["labels"].astype(np.int64)
    held_out = np.arange(len(labels)) % 3 == 0
    keep = held_out if split == "test" else ~held_out
    images = (pixels[keep, None].astype(np.float32) - 8.0) / 8.0
    return DataSet("digits", labels[keep], tuple("0123456789"), lambda index: images[index])


def _open_cifar10_jpeg(path: str, split: str) -> DataSet:
    file = Path(path)
    name = f"cifar10-jpeg:{path}"
    if not file.is_file():
        raise ProbeError(f"no file {path}", expected=f"an archive for {name}", next_step="pass cifar10-jpeg:PATH")
    try:
        with np.load(file) as archive:
            blob, length = archive[f"{split}_jpeg"], archive[f"{split}_length"].astype(np.int64)
            labels, classes = archive[f"{split}_label"].astype(np.int64), tuple(map(str, archive["classes"]))
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, BadZipFile) as error:
        keys = f"{split}_jpeg, {split}_length, {split}_label, classes"
        raise ProbeError(f"{path} cannot be read ({error})", expected=f"an .npz archive with {keys}") from None
    if length.sum() != blob.size or len(labels) != len(length):
        raise ProbeError(f"{path}: {blob.size} bytes, {len(labels)} labels", expected="lengths that add up to them")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ProbeError(f"{path} has label {labels.max()}", expected=f"labels below {len(classes)}, one a class name")
    start = np.concatenate([[0], np.cumsum(length)])
    mean, std = np.array(CIFAR10_MEAN, np.float32), np.array(CIFAR10_STD, np.float32)

    def load(index: Indices) -> npt.NDArray[np.float32]:
        from PIL import Image, UnidentifiedImageError

        decoded = []
        for i in index:
            try:
                decoded.append(Image.open(io.BytesIO(blob[start[i] : start[i + 1]].tobytes())).convert("RGB"))
            except (UnidentifiedImageError, OSError) as error:
                raise ProbeError(
                    f"{path}: image {i} of {split} cannot be decoded ({error})", expected="a JPEG"
                ) from None
        pixels = np.stack([np.asarray(image) for image in decoded]).astype(np.float32) / 255
        return np.ascontiguousarray(((pixels - mean) / std).transpose(0, 3, 1, 2))

    return DataSet(name, labels, classes, load)


DATA_SETS: dict[str, tuple[Callable[[str, str], DataSet], bool]] = {
    "digits": (_open_digits, False),
    "cifar10-jpeg": (_open_cifar10_jpeg, True),
}
"""Name -> (what opens it, whether a path follows the name)."""
