"""CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST in a folder, where torchvision or the user put them."""

from __future__ import annotations

import gzip
import math
import zlib
from http.client import HTTPException
from pathlib import Path
from tarfile import TarError
from typing import Any

import numpy as np
import numpy.typing as npt

from probe import vision
from probe.data.sets import Asked, DataSet, checked_labels, values
from probe.errors import ProbeError

FAILED = (RuntimeError, OSError, EOFError, HTTPException, TarError, zlib.error)
"""What torchvision raises where files are missing or damaged, or cannot be downloaded."""
FETCH = "pass --data-root DIR or --download"
MNIST_CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
}  # fmt: skip
TORCHVISION_NAMES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
FIRST_LABELS = {
    (5, 0, 4, 1, 9, 2, 1, 3, 1, 4): ("mnist", "train"),
    (7, 2, 1, 0, 4, 1, 4, 9, 5, 9): ("mnist", "test"),
    (9, 0, 0, 3, 0, 2, 7, 2, 5, 5): ("fashion-mnist", "train"),
    (9, 2, 1, 1, 6, 1, 4, 6, 5, 7): ("fashion-mnist", "test"),
}
"""The two have files of the same names: by their first labels one is not taken for the other."""


def open_cifar(name: str, asked: Asked) -> DataSet:
    """CIFAR-10 or CIFAR-100 (`name` is torchvision's) as torchvision stores it below the folder."""
    source = _torchvision(name, asked)
    pixels = np.ascontiguousarray(source.data.transpose(0, 3, 1, 2))
    labels, classes = checked_labels(asked.name, np.asarray(source.targets), source.classes)
    return DataSet(asked.name, labels, classes, lambda index: values(asked.name, pixels[index]))


def open_mnist(name: str, asked: Asked) -> DataSet:
    """MNIST or Fashion-MNIST: the two IDX files of the split, gzipped or not.

    They lie directly in the folder, or where torchvision puts them, in MNIST/raw or FashionMNIST/raw below it.
    """
    found = _find_idx(name, asked)
    if found is None and asked.download:
        _torchvision(TORCHVISION_NAMES[name], asked)
        found = _find_idx(name, asked)
    if found is None:
        images, labels = _idx_names(asked.split)
        raise ProbeError(
            f"no {name} ({asked.split}) in {asked.root}",
            expected=f"{images} and {labels}, or each with .gz, in it or in {_raw_folder(name, asked)}",
            next_step=FETCH,
        )
    pixels, stored = read_idx(found[0], 3), read_idx(found[1], 1)
    if len(pixels) != len(stored):
        raise ProbeError(
            f"{found[0]} has {len(pixels)} images and {found[1].name} {len(stored)} labels",
            expected="one label an image",
            next_step=FETCH,
        )
    holds = FIRST_LABELS.get(tuple(stored[:10].tolist()), (name, asked.split))
    if holds != (name, asked.split):
        raise ProbeError(
            f"{found[1]} holds the labels of {holds[0]} ({holds[1]})",
            expected=f"{name} ({asked.split})",
            next_step=FETCH,
        )
    checked, classes = checked_labels(str(found[1]), stored, MNIST_CLASSES[name])
    return DataSet(asked.name, checked, classes, lambda index: values(asked.name, pixels[index, None]))


def read_idx(file: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The bytes of an IDX file in their shape.

    Layout: 0, 0, the type (8: unsigned bytes) and the number of dimensions, a byte each; every dimension as a
    big-endian 32-bit number; the data.

    Args:
        file: gzipped or not.
        dimensions: how many it should have.

    Raises:
        ProbeError: it is no such file, or not whole.
    """
    again = "replace it, or remove it and pass --download"
    try:
        raw = file.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise ProbeError(f"{file} cannot be read ({error})", expected="a whole IDX file", next_step=again) from None
    magic, header = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions
    if raw[:4] != magic or len(raw) < header:
        raise ProbeError(
            f"{file} starts with {raw[:4].hex() or 'nothing'}",
            expected=f"{magic.hex()}, an IDX file of bytes in {dimensions} dimension{'s' if dimensions > 1 else ''}",
            next_step=again,
        )
    shape = tuple(np.frombuffer(raw, ">u4", dimensions, 4).tolist())
    if len(raw) - header != math.prod(shape) or not math.prod(shape):
        raise ProbeError(
            f"{file} has {len(raw) - header} bytes of data",
            expected=f"{' x '.join(map(str, shape))} as its head says, and at least 1",
            next_step=again,
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _torchvision(name: str, asked: Asked) -> Any:
    """torchvision's data set of that name."""
    maker = getattr(vision.torchvision().datasets, name)
    try:
        return maker(str(asked.root), train=asked.split == "train", download=asked.download)
    except FAILED as error:
        if asked.download:
            raise ProbeError(
                f"{asked.name} cannot be downloaded to {asked.root} ({error})",
                expected="a connection, and a folder that can be written to",
                next_step="pass --data-root DIR with a folder that has it",
            ) from None
        below = getattr(maker, "base_folder", name)
        raise ProbeError(
            f"no {asked.name} in {asked.root}, or not all of it",
            expected=f"torchvision's {asked.root / below}",
            next_step=FETCH,
        ) from None


def _find_idx(name: str, asked: Asked) -> tuple[Path, Path] | None:
    """The files of images and labels, from the first folder that has both."""
    for folder in (_raw_folder(name, asked), asked.root):
        found = []
        for stem in _idx_names(asked.split):
            found += [file for file in (folder / stem, folder / f"{stem}.gz") if file.is_file()][:1]
        if len(found) == 2:
            return found[0], found[1]
    return None


def _idx_names(split: str) -> tuple[str, str]:
    prefix = "train" if split == "train" else "t10k"
    return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"


def _raw_folder(name: str, asked: Asked) -> Path:
    return asked.root / TORCHVISION_NAMES[name] / "raw"
