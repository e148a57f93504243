"""What a tally is to gather, and what every kind of tally does alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe.attribution import AnalogCoding, Coding, LayerStatistics

PIECE = 131_072
"""Neurons a piece: small enough for the cache, large enough that the cost of a call does not count."""
HUGE = 3e38
"""Added to an input that is to lose a comparison; with 0 instead of 1 times this, an input stays as it is."""


class TooManySpikes(ValueError):
    """A neuron has fired more often than once a timestep, which its family said it would not."""


@dataclass(frozen=True)
class Plan:
    """What a layer's tally is to gather.

    Attributes:
        codings: grid t -> its coding; empty where there is no ANN to compare with.
        per_sample: the t of the grid at which sums per sample are kept too.
        timesteps: T.
        threshold: θ, float32, broadcastable to (sample, *neuron).
        height: the output of a neuron for one spike, float32, likewise; None for θ.
    """

    codings: Mapping[int, Coding | AnalogCoding]
    per_sample: tuple[int, ...]
    timesteps: int
    threshold: npt.NDArray[np.float32]
    height: npt.NDArray[np.float32] | None = None

    @property
    def spike_height(self) -> npt.NDArray[np.float32]:
        """`height`, or θ."""
        return self.threshold if self.height is None else self.height


class GrowingArray:
    """Rows that grow in one array: small arrays kept one by one between large ones would make the process grow.

    Args:
        shape: of a row.
        dtype: of the array.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self._array, self._used = np.empty((0, *shape), dtype), 0

    def extend(self, rows: npt.NDArray[Any]) -> None:
        """Append (row, *shape)."""
        end = self._used + len(rows)
        if end > len(self._array):
            longer = np.empty((2 * end, *self._array.shape[1:]), self._array.dtype)
            longer[: self._used] = self._array[: self._used]
            self._array = longer
        self._array[self._used : end] = rows
        self._used = end

    def whole(self) -> npt.NDArray[Any]:
        """All rows, a copy."""
        return self._array[: self._used].copy()


class Tally(Protocol):
    """Gathers one layer over batches.

    Attributes:
        input_sum: Σx so far in this batch, float32 (sample, neuron), summed in the order of t.
    """

    input_sum: Tensor

    def begin(self, first_sample: int, values: Tensor, silenced: Tensor | None = None) -> None:
        """Start a batch with the ANN's k or a, (sample, *neuron); without an ANN only the shape counts."""

    def step(self, t: int, x: Tensor, output: Tensor) -> None:
        """Add timestep t, from 1: the layer's input and output, both (sample, *neuron)."""

    def end(self) -> Tensor:
        """End the batch, and return n at T, whole numbers, shape (sample, neuron)."""

    @property
    def touched(self) -> bool:
        """True if a batch has ended since the last `take`."""

    def take(self) -> LayerStatistics:
        """What the batches since the last call have added up to; starts anew."""


def first_inputs(before: Tensor, x: Tensor, output: Tensor, barred: Tensor) -> Tensor:
    """Per channel, the smallest input x(1) that fired at once and the largest that did not, (2, channel).

    Args:
        before: what earlier batches gave.
        x: the input at t = 1, (sample, *neuron).
        output: the output at t = 1, same shape.
        barred: the same, and above 0 also where a neuron is silenced and so takes no part.
    """
    rows = max(1, PIECE // x[0].numel()) if x.device.type == "cpu" else len(x)
    across = [axis for axis in range(x.ndim) if axis != 1]
    before = before.to(x.device)
    for start in range(0, len(x), rows):
        some, spikes, out = (every[start : start + rows] for every in (x, output, barred))
        # Many times as fast as torch.where: an input that does not take part is moved far away.
        smallest = torch.le(spikes, 0, out=torch.empty_like(some)).mul_(HUGE).add_(some).amin(across)
        largest = torch.gt(out, 0, out=torch.empty_like(some)).mul_(-HUGE).add_(some).amax(across)
        here = torch.stack([smallest, largest])
        here = here.where(here.abs() < HUGE / 2, torch.nan)
        before = torch.stack([torch.fmin(before[0], here[0]), torch.fmax(before[1], here[1])])
    return before
