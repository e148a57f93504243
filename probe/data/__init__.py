"""The data sets by name: `open_data("digits")`, `open_data("folder:PATH")`, ..., and the balanced choice of samples.

A data set gives labels at once and normalised images on demand; images in files are decoded when they are asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from probe.data.archives import open_cifar10_jpeg, open_digits, open_npz
from probe.data.folder import open_folder
from probe.data.normalize import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    NORMALIZATIONS,
    normalized,
    parse_normalization,
)
from probe.data.public import open_cifar, open_mnist
from probe.data.sets import Asked, DataSet, Indices, choose_samples
from probe.data.user import names_user_code, open_user
from probe.errors import ProbeError

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "DATA_SETS",
    "DEFAULT_ROOT",
    "NORMALIZATIONS",
    "DataSet",
    "Indices",
    "Kind",
    "choose_samples",
    "open_data",
]

DEFAULT_ROOT = Path("data")


@dataclass(frozen=True)
class Kind:
    """One kind of data set.

    Attributes:
        open: gives the data set before normalisation.
        normalize: what normalises it where the user names nothing, a name in NORMALIZATIONS.
        takes: what follows the name after a colon, "file" or "folder"; empty where nothing does.
        resizes: whether `image_size` means something to it.
    """

    open: Callable[[Asked], DataSet]
    normalize: str
    takes: str = ""
    resizes: bool = False


DATA_SETS: dict[str, Kind] = {
    "digits": Kind(open_digits, "half"),
    "cifar10": Kind(partial(open_cifar, "CIFAR10"), "cifar10"),
    "cifar100": Kind(partial(open_cifar, "CIFAR100"), "cifar100"),
    "mnist": Kind(partial(open_mnist, "mnist"), "mnist"),
    "fashion-mnist": Kind(partial(open_mnist, "fashion-mnist"), "fashion-mnist"),
    "cifar10-jpeg": Kind(open_cifar10_jpeg, "cifar10", takes="file"),
    "folder": Kind(open_folder, "imagenet", takes="folder", resizes=True),
    "npz": Kind(open_npz, "none", takes="file"),
}
"""What stands before the colon -> how it is opened."""
USER = Kind(open_user, "none")


def open_data(
    name: str,
    split: str = "test",
    *,
    root: Path | None = None,
    download: bool = False,
    normalize: str | None = None,
    image_size: int | None = None,
) -> DataSet:
    """The data set called `name`, in one of its splits and in the order in which it is stored: nothing is shuffled.

    Args:
        name: one of DATA_SETS, with `:PATH` where it takes one, or `FILE.py:CALLABLE` or `package.module:CALLABLE`.
        split: `train` or `test`.
        root: the folder that holds cifar10, cifar100, mnist and fashion-mnist; None for `./data`.
        download: fetch one of these four when it is not there.
        normalize: one of NORMALIZATIONS, or numbers `m1,m2,m3/s1,s2,s3`; None for the data set's own. It is applied to
            pixels as fractions of the brightest (of 255; of 16 for digits) and to floating-point data as they are.
        image_size: for `folder:PATH`, the height and width in pixels to which images are resized and cropped.

    Raises:
        ProbeError: the name, an option or the file behind it is not what it should be.
    """
    kind, path = _kind(name)
    if split not in ("train", "test"):
        what = name if kind is USER else name.partition(":")[0]
        raise ProbeError(f"unknown split {split!r} of {what}", expected="train or test", next_step="pass --split SPLIT")
    if image_size is not None and not kind.resizes:
        raise ProbeError(
            f"image size {image_size} for {name}", expected="folder:PATH", next_step="leave out --image-size"
        )
    if image_size is not None and image_size < 1:
        raise ProbeError(f"image size {image_size}", expected="at least 1 pixel", next_step="pass --image-size N")
    normalization = parse_normalization(kind.normalize if normalize is None else normalize)
    data = kind.open(Asked(name, path, split, DEFAULT_ROOT if root is None else Path(root), download, image_size))
    return normalized(data, normalization)


def _kind(name: str) -> tuple[Kind, str]:
    """What opens `name`, and the path in it."""
    before, colon, path = name.partition(":")
    if before not in DATA_SETS:
        taking = [known for known, kind in DATA_SETS.items() if kind.takes]
        if names_user_code(name) and not difflib.get_close_matches(before, taking, cutoff=0.8):
            return USER, ""
        near = difflib.get_close_matches(before.lower(), DATA_SETS, 2)
        shown = [f"{known}:PATH" if kind.takes else known for known, kind in DATA_SETS.items()]
        raise ProbeError(
            f"unknown data {name!r}",
            expected=f"one of {', '.join(shown)}, FILE.py:CALLABLE, package.module:CALLABLE",
            next_step=f"perhaps {' or '.join(near)}" if near else "pass --data NAME",
        )
    kind = DATA_SETS[before]
    if colon and not kind.takes:
        raise ProbeError(f"data {name!r} names a file", expected=before, next_step=f"pass --data {before}")
    if kind.takes and not path:
        raise ProbeError(f"data {name!r} names no {kind.takes}", expected=f"{before}:PATH")
    return kind, path
