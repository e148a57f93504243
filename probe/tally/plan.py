"""What a tally is to gather, and what every kind of tally does alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe.attribution import AnalogCoding, Coding, Ints, LayerStatistics, Statistics
from probe.tally import devices

PIECE = 131_072
"""Neurons a piece: small enough for the cache, large enough that the cost of a call does not count."""
PARTS = ("unevenness", "silencing", "initial_potential", "grid", "inherited")
"""The pieces that a QCFS layer's error can have."""
HUGE = 3e38
"""Added to an input that is to lose a comparison; with 0 instead of 1 times this, an input stays as it is."""


Number = float | Tensor
"""A number, or one that still lies on an accelerator."""


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
    """Gathers one layer over batches: `begin` with the ANN's values, `step` at each t, `end`; `take` the result."""

    @property
    def input_sum(self) -> Tensor:
        """Σx so far in this batch, float32 (sample, neuron), summed in the order of t; until the next begins."""

    def begin(self, first_sample: int, values: Tensor, silenced: Tensor | None = None) -> None:
        """Start a batch.

        Args:
            first_sample: the recording's index of its first sample.
            values: the ANN's k, whole numbers in any dtype, or its a, float32; shape (sample, *neuron). Without an ANN
                only the shape counts.
            silenced: SRP's mask, same shape; None where the plan's codings have no `silencing`.
        """

    def step(self, t: int, x: Tensor, output: Tensor) -> None:
        """Add timestep t, from 1.

        Args:
            x: the layer's input x(t), shape (sample, *neuron).
            output: its output, s(t) times the height of a spike, same shape.

        Raises:
            FloatingPointError: an input is NaN, or an output is that or infinite; not where that would take waiting for
                an accelerator.
            TooManySpikes: a neuron has fired more often than its family said it would; likewise.
        """

    def spike_count(self) -> Tensor:
        """n so far in this batch, whole numbers, shape (sample, neuron)."""

    def departure(
        self, shown: Tensor, silenced: Tensor | None, initial_fraction: float, slack: float
    ) -> tuple[Number, Number]:
        """How far neurons are from the conservation law v = v(0) + Σx - θ·n, in units of θ.

        Args:
            shown: the potential as the module has it, (sample, *neuron).
            silenced: SRP's mask, under which the law says nothing.
            initial_fraction: v(0) in units of θ.
            slack: what rounding explains, for each θ of |Σx| and two more.

        Returns:
            The largest distance, and the largest less what rounding explains, or 0 if none is above that; on an
            accelerator as tensors.
        """

    def fault(self) -> Tensor | None:
        """The first t of this batch at which `step` would have raised `TooManySpikes` had it waited for an accelerator.

        Returns:
            One number, 0 for none and -1 where an output is NaN or infinite, which still lies there; None where `step`
            has raised itself.
        """

    def end(self) -> None:
        """End the batch.

        Raises:
            FloatingPointError: as `step`, where that has not waited for an accelerator.
        """

    @property
    def touched(self) -> bool:
        """True if a batch has ended since the last `take`."""

    def take(self) -> LayerStatistics:
        """What the batches since the last call have added up to; starts anew."""


def departure(
    shown: Tensor, total: Tensor, n: Tensor, threshold: Tensor, silenced: Tensor | None, initial: float, slack: float
) -> tuple[Tensor, Tensor]:
    """`Tally.departure` by torch; all arrays are (sample, *neuron), θ and the mask may broadcast."""
    apart = (shown - total).div_(threshold).add_(n).sub_(initial).abs_()
    if silenced is not None:
        apart = apart.masked_fill_(silenced, 0)
    # The product is rounded before it is subtracted, as compiled loops do it.
    explained = total.div(threshold).abs_().add_(2).mul_(slack)
    return apart.max(), (apart - explained).max().clamp(min=0)


def spikes_at_every(summed: Ints, statistics: Mapping[int, Statistics], lowest_count: int) -> Ints:
    """Σ s(t) for every t: from the histograms where those of t and t - 1 are there, else from what was summed."""
    spikes, counted = summed.copy(), 0
    for t in range(1, len(spikes) + 1):
        if t in statistics:
            joint = statistics[t].joint
            spikes[t - 1] = int(joint.sum(0) @ (np.arange(joint.shape[1]) + lowest_count)) - counted
        counted += int(spikes[t - 1])
    return spikes


def first_inputs(before: Tensor, x: Tensor, output: Tensor, barred: Tensor) -> Tensor:
    """Per channel, the smallest input x(1) that fired at once and the largest that did not, (2, channel).

    Args:
        before: what earlier batches gave.
        x: the input at t = 1, (sample, *neuron).
        output: the output at t = 1, same shape.
        barred: the same, and above 0 also where a neuron is silenced and so takes no part.
    """
    rows = max(1, PIECE // x[0].numel()) if devices.at_hand(x.device) else len(x)
    across = [axis for axis in range(x.ndim) if axis != 1]
    before = before.to(x.device, non_blocking=True)
    for start in range(0, len(x), rows):
        some, spikes, out = (every[start : start + rows] for every in (x, output, barred))
        # Many times as fast as torch.where: an input that does not take part is moved far away.
        smallest = torch.le(spikes, 0, out=torch.empty_like(some)).mul_(HUGE).add_(some).amin(across)
        largest = torch.gt(out, 0, out=torch.empty_like(some)).mul_(-HUGE).add_(some).amax(across)
        here = torch.stack([smallest, largest])
        here = here.where(here.abs() < HUGE / 2, torch.nan)
        before = torch.stack([torch.fmin(before[0], here[0]), torch.fmax(before[1], here[1])])
    return before
