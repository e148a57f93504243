"""Data in `.npz` archives: the bundled digits, CIFAR-10 as JPEG files, and a user's own arrays."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from probe.data.images import decode
from probe.data.sets import Asked, DataSet, Indices, array_data, checked_labels, values
from probe.errors import ProbeError

UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, RuntimeError, MemoryError,
    BadZipFile, zlib.error,
)  # fmt: skip
"""What numpy and zipfile raise for a file that is no archive, or a damaged one."""


def open_digits(asked: Asked) -> DataSet:
    """scikit-learn's load_digits, a copy of the test set of the UCI ML hand-written digits data set.

    E. Alpaydin and C. Kaynak, 1998, CC BY 4.0. Every third sample is held out for the split `test`. Pixels are whole
    numbers from 0 to 16, here divided by 16; normalised by `half` they are, exactly, (pixel - 8)/8.
    """
    with np.load(str(files("probe") / "zoo" / "data" / "digits.npz"), allow_pickle=False) as archive:
        pixels, labels = archive["images"], archive["labels"].astype(np.int64)
    held_out = np.arange(len(labels)) % 3 == 0
    keep = held_out if asked.split == "test" else ~held_out
    images = pixels[keep, None].astype(np.float32) / 16
    return DataSet(asked.name, labels[keep], tuple("0123456789"), lambda index: images[index])


def open_cifar10_jpeg(asked: Asked) -> DataSet:
    """CIFAR-10 as the bytes of JPEG files, one after another, of 32x32 pixels each."""
    path, split = asked.path, asked.split
    keys = f"{split}_jpeg, {split}_length, {split}_label, classes"
    with _archive(asked, keys) as archive:
        blob, length = archive[f"{split}_jpeg"], archive[f"{split}_length"].astype(np.int64)
        stored, classes = archive[f"{split}_label"], tuple(map(str, archive["classes"]))
    if length.sum() != blob.size or len(stored) != len(length):
        raise ProbeError(f"{path}: {blob.size} bytes, {len(stored)} labels", expected="lengths that add up to them")
    labels, classes = checked_labels(path, stored, classes)
    start = np.concatenate([[0], np.cumsum(length)])

    def load(index: Indices) -> npt.NDArray[np.float32]:
        pixels = np.empty((len(index), 3, 32, 32), np.uint8)
        for place, i in enumerate(index):
            what = f"{path}: image {i} of {split}"
            image = decode(io.BytesIO(blob[start[i] : start[i + 1]].tobytes()), what)
            if image.size != (32, 32):
                raise ProbeError(f"{what} has {image.width}x{image.height} pixels", expected="32x32")
            pixels[place] = np.asarray(image).transpose(2, 0, 1)
        return values(asked.name, pixels)

    return DataSet(asked.name, labels, classes, load)


def open_npz(asked: Asked) -> DataSet:
    """Arrays `x` and `y`, or `x_test` and `y_test` (`x_train` and `y_train`), and `classes` if it is there.

    x is used as it is, sample first and the rest as the network takes it: images have to be stored channels first,
    (sample, channel, height, width), and nothing is transposed by a guess. uint8 is divided by 255; floating-point
    numbers are left as they are. y holds whole numbers from 0. The arrays are read into memory; nothing is unpickled.
    """
    with _archive(asked, f"x and y, or x_{asked.split} and y_{asked.split}") as archive:
        of_x, of_y = _keys(asked, set(archive.files))
        x, y = archive[of_x], archive[of_y]
        classes = archive["classes"] if "classes" in archive.files else None
    if classes is not None and classes.ndim != 1:
        raise ProbeError(f"{asked.path}: classes of shape {classes.shape}", expected="names, shape (class,)")
    return array_data(asked.name, x, y, None if classes is None else tuple(map(str, classes)))


def _keys(asked: Asked, there: set[str]) -> tuple[str, str]:
    """The names of x and y: those of the split before those that are for any."""
    for pair in ((f"x_{asked.split}", f"y_{asked.split}"), ("x", "y")):
        if there >= set(pair):
            return pair
    other = "train" if asked.split == "test" else "test"
    shown = ", ".join(sorted(there)[:8]) or "no arrays"
    raise ProbeError(
        f"{asked.path} has {shown}",
        expected=f"x and y, or x_{asked.split} and y_{asked.split}",
        next_step=f"pass --split {other}" if there >= {f"x_{other}", f"y_{other}"} else "numpy.savez(PATH, x=x, y=y)",
    )


@contextmanager
def _archive(asked: Asked, holds: str) -> Iterator[Any]:
    """The opened archive; whatever is raised for a damaged one, within the block too, becomes one ProbeError."""
    kind = asked.name.partition(":")[0]
    if not Path(asked.path).is_file():
        raise ProbeError(
            f"no file {asked.path}", expected=f"an archive for {asked.name}", next_step=f"pass {kind}:PATH"
        )
    try:
        with np.load(asked.path, allow_pickle=False) as archive:
            yield archive
    except UNREADABLE as error:
        raise ProbeError(f"{asked.path} cannot be read ({error})", expected=f"an .npz archive with {holds}") from None
