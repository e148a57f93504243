"""Normalisation, (x - mean)/std for each channel: the named pairs, the reading of numbers, and its application."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from probe.data.sets import DataSet, Indices
from probe.errors import ProbeError

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "none": ((0.0,), (1.0,)),
    "unit": ((0.0,), (1.0,)),
    "half": ((0.5,), (0.5,)),
    "cifar10": (CIFAR10_MEAN, CIFAR10_STD),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Name -> (mean, std), one number for every channel or one a channel, of values in 0 to 1.

`none` and `unit` change nothing: pixels are fractions of the brightest by then. `unit` also requires what is left as it
is to lie in 0 to 1, which data stored as floating-point numbers need not.
"""
NUMBERS = "m1,m2,m3/s1,s2,s3"


@dataclass(frozen=True)
class Normalization:
    """(x - mean)/std.

    Attributes:
        name: as the user wrote it.
        mean, std: float32, shape (channel,), or (1,) for any number of channels.
    """

    name: str
    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]

    def apply(self, images: npt.NDArray[np.float32], *, what: str) -> npt.NDArray[np.float32]:
        """The normalised images.

        Args:
            images: shape (sample, channel, ...).
            what: the name of the data, for the message.

        Raises:
            ProbeError: the images have another number of channels, or `unit` is to leave values outside 0 to 1.
        """
        channels, wanted = images.shape[1], max(len(self.mean), len(self.std))
        if wanted not in (1, channels):
            raise ProbeError(
                f"{what} has {_channels(channels)} and normalisation {self.name!r} is for {wanted}",
                expected=f"one mean and std, or {channels} of each",
                next_step=f"pass --normalize NAME or --normalize {NUMBERS}",
            )
        if self.name == "unit" and images.size and not 0 <= images.min() <= images.max() <= 1:
            raise ProbeError(
                f"{what} has values from {images.min():g} to {images.max():g}",
                expected="0 to 1 for normalisation 'unit'",
                next_step=f"pass --normalize none or --normalize {NUMBERS}",
            )
        per_channel = (-1,) + (1,) * (images.ndim - 2)
        return (images - self.mean.reshape(per_channel)) / self.std.reshape(per_channel)


def parse_normalization(text: str) -> Normalization:
    """The normalisation that a name or `m1,m2,m3/s1,s2,s3` stands for.

    Raises:
        ProbeError: it is neither, or a std is not above 0.
    """
    mean, std = NORMALIZATIONS[text] if text in NORMALIZATIONS else _numbers(text)
    with np.errstate(over="ignore"):
        normalization = Normalization(text, np.array(mean, np.float32), np.array(std, np.float32))
    # Asked of the float32 numbers that are used: 1e-50 is one above 0 and becomes 0.
    if not (np.isfinite(normalization.mean).all() and np.isfinite(normalization.std).all()):
        raise _refused(text, "finite numbers")
    if not (normalization.std > 0).all():
        raise _refused(text, "every std above 0")
    return normalization


def normalized(data: DataSet, normalization: Normalization) -> DataSet:
    """The data set with its images normalised as they are loaded."""
    if normalization.name == "none":
        return data

    def load(index: Indices) -> npt.NDArray[np.float32]:
        return normalization.apply(data.load(index), what=data.name)

    return replace(data, load=load)


def _numbers(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    halves = text.split("/")
    try:
        mean, std = (tuple(float(number) for number in half.split(",")) for half in halves)
    except ValueError:
        near = difflib.get_close_matches(text.lower(), NORMALIZATIONS, 1)
        hint = f"perhaps --normalize {near[0]}" if near else ""
        raise _refused(text, f"one of {', '.join(NORMALIZATIONS)}, or numbers {NUMBERS}", hint) from None
    if len(mean) != len(std) and 1 not in (len(mean), len(std)):
        raise _refused(text, f"as many stds as means, and not {len(mean)} and {len(std)}")
    return mean, std


def _refused(text: str, expected: str, next_step: str = "") -> ProbeError:
    return ProbeError(
        f"normalisation {text!r}",
        expected=expected,
        next_step=next_step or f"pass --normalize NAME or --normalize {NUMBERS}",
    )


def _channels(number: int) -> str:
    return f"{number} channel{'s' if number != 1 else ''}"
