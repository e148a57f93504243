"""What a data set is, the values that images have before normalisation, and the balanced choice of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.errors import ProbeError

Indices = npt.NDArray[np.int64]
MOST_CLASSES = 100_000


@dataclass(frozen=True)
class DataSet:
    """Labelled samples of one split.

    Attributes:
        name: how the user named it, as a recording keeps it.
        labels: class of each sample, int64, shape (sample,).
        classes: the class names, in label order.
        load: gives the normalised float32 images of some sample indices, shape (sample, channel, height, width); of
            `npz:PATH` and a user's own data (sample, *whatever the network takes).
    """

    name: str
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    load: Callable[[Indices], npt.NDArray[np.float32]]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Asked:
    """What the user asked of `open_data`, for the opener of one kind.

    Attributes:
        name: the whole name.
        path: what follows the colon.
        split: `train` or `test`.
        root: the folder of the public data sets.
        download: whether one that is missing there may be fetched.
        image_size: height and width in pixels, or None.
    """

    name: str
    path: str
    split: str
    root: Path
    download: bool
    image_size: int | None


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


def array_data(name: str, x: npt.NDArray[Any], y: npt.NDArray[Any], classes: Sequence[str] | None = None) -> DataSet:
    """The data set of two arrays in memory, before normalisation.

    Args:
        name: how the user named it.
        x: as the network takes it: shape (sample, ...), uint8 pixels or floating-point numbers.
        y: integer labels, shape (sample,).
        classes: the class names; None for the numbers up to the highest label.

    Raises:
        ProbeError: the arrays do not fit these words or each other.
    """
    if x.ndim < 2 or not x.size:
        raise ProbeError(f"{name}: x of shape {x.shape}", expected="(sample, ...) with at least one sample")
    values(name, x[:1])
    labels, names = checked_labels(name, y, classes)
    if len(x) != len(labels):
        raise ProbeError(f"{name}: {len(x)} samples and {len(labels)} labels", expected="one label a sample")
    for first in range(0, len(x), 1024):
        require_finite(name, values(name, x[first : first + 1024]), range(first, len(x)))
    return DataSet(name, labels, names, lambda index: values(name, x[index]))


def values(name: str, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The float32 values of stored ones, before normalisation: uint8 pixels divided by 255, floats as they are.

    Raises:
        ProbeError: they are of another type.
    """
    if x.dtype == np.uint8:
        fractions: npt.NDArray[np.float32] = np.divide(x, 255, dtype=np.float32, order="C")
        return fractions
    if x.dtype.kind not in "fb":
        raise ProbeError(
            f"{name}: samples of type {x.dtype}",
            expected="uint8 pixels or floating-point numbers",
            next_step="convert them to float32",
        )
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(x, dtype=np.float32)


def require_finite(name: str, images: npt.NDArray[np.float32], index: Sequence[int] | Indices) -> None:
    """Refuse NaN and infinity, naming the sample.

    Args:
        name: how the user named the data.
        images: shape (sample, ...).
        index: of each of them in the data set.

    Raises:
        ProbeError: there is one.
    """
    bad = ~np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if bad.any():
        raise ProbeError(
            f"{name}: sample {index[int(bad.argmax())]} holds NaN or infinity", expected="finite float32 numbers"
        )


def checked_labels(
    name: str, y: npt.NDArray[Any], classes: Sequence[str] | None
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """The labels as int64, shape (sample,), and the class names: those given, or the numbers up to the highest label.

    Raises:
        ProbeError: the labels are not whole numbers in one dimension, or one has no class.
    """
    if y.ndim != 1 or y.dtype.kind not in "iu" or not len(y):
        raise ProbeError(f"{name}: labels of shape {y.shape}, {y.dtype}", expected="whole numbers, shape (sample,)")
    lowest, highest = int(y.min()), int(y.max())
    count = MOST_CLASSES if classes is None else len(classes)
    if lowest < 0 or highest >= count:
        wrong = lowest if lowest < 0 else highest
        one_each = "" if classes is None else ", one for each class name"
        raise ProbeError(f"{name} has label {wrong}", expected=f"labels 0 to {count - 1}{one_each}")
    names = tuple(map(str, range(highest + 1) if classes is None else classes))
    return y.astype(np.int64), names
