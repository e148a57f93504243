"""The tally of a layer whose ANN is ReLU, or that has no ANN: counts and sums, and at each t of the grid the pieces."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe.attribution import NO_ERROR, AnalogCoding, Ints, LayerStatistics, larger_error
from probe.attribution.analog import BLOCK, Room, in_units, to_limbs
from probe.tally.plan import GrowingArray, Plan, first_inputs

TILES = (4, 16, 64)
"""Blocks that are counted together, two a thread: at least, at most, and on an accelerator. Few enough for the cache,
many enough that the cost of a call does not count; with four torch does most of it in one thread, and never waits."""
_rooms = threading.local()
"""Of this thread, by device: the layers take turns, so one is enough for all."""


class AnalogTally:
    """Gathers one layer over batches: `begin` with the ANN's outputs, `step` at each t, `end`; `take` the result.

    Attributes:
        input_sum: Σx so far in this batch, float32 (sample, neuron), summed in the order of t.
    """

    input_sum: Tensor

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._codings = {t: coding for t, coding in plan.codings.items() if isinstance(coding, AnalogCoding)}
        self._shape: torch.Size | None = None
        self._forget()

    def _forget(self) -> None:
        self._bins: dict[int, list[Tensor]] = {}
        self._sums: dict[int, Ints] = {}
        self._largest: dict[int, Ints] = dict.fromkeys(self._codings, NO_ERROR)
        self._spikes_at: Tensor | None = None
        self._per_neuron: Tensor | None = None
        self._samples = GrowingArray((len(self.plan.per_sample), 5), np.float64)
        self._first_input = torch.full((2, 1), torch.nan)

    def begin(self, first_sample: int, values: Tensor, silenced: Tensor | None = None) -> None:
        """Start a batch.

        Args:
            first_sample: the recording's index of its first sample.
            values: a, float32, shape (sample, *neuron); without an ANN only its shape counts.
            silenced: SRP's mask, same shape.
        """
        self._shape, self._first = values.shape[1:], first_sample
        self._activation = values.reshape(len(values), -1)
        self._silenced = None if silenced is None else silenced.expand(values.shape).reshape(self._activation.shape)
        self.input_sum = torch.empty_like(self._activation, dtype=torch.float32)
        self._count = torch.zeros_like(self.input_sum)
        self._theta = self._row(self.plan.threshold).double()
        self._tiles = list(self._cut())
        self._height = self._row(self.plan.spike_height)
        self._steps = torch.zeros(self.plan.timesteps, dtype=torch.float64, device=values.device)
        self._of_samples = np.full((len(values), len(self.plan.per_sample), 5), np.nan)

    def _row(self, values: npt.NDArray[np.float32]) -> Tensor:
        """One number, or one row with a number for each neuron."""
        assert self._shape is not None
        if values.size > 1:
            values = np.ascontiguousarray(np.broadcast_to(values, (1, *self._shape)))
        return torch.tensor(values, device=self._activation.device).reshape(1, -1)

    def step(self, t: int, x: Tensor, output: Tensor) -> None:
        """Add timestep t, from 1.

        Args:
            x: the layer's input x(t), shape (sample, *neuron).
            output: its output, s(t) times the height of a spike, same shape.
        """
        if t == 1:
            mask = None if self._silenced is None else self._silenced.reshape(output.shape)
            barred = output if mask is None else output.masked_fill(mask, 1)
            self._first_input = first_inputs(self._first_input, x, output, barred)
            self.input_sum.copy_(x.reshape(self.input_sum.shape))
        else:
            self.input_sum.add_(x.reshape(self.input_sum.shape))
        spikes = (output.reshape(self.input_sum.shape) / self._height).round_()
        self._count.add_(spikes)
        self._steps[t - 1] += spikes.sum(dtype=torch.float64)
        slot = self.plan.per_sample.index(t) if t in self.plan.per_sample else None
        coding = self._codings.get(t)
        if coding is not None:
            sums = self._gather(t, coding)
            if slot is not None:
                self._of_samples[:, slot] = sums[-5:].T
        elif slot is not None:
            n = self._count.double()
            self._of_samples[:, slot, 0], self._of_samples[:, slot, 2] = n.sum(1).cpu(), (n * n).sum(1).cpu()

    def _gather(self, t: int, coding: AnalogCoding) -> npt.NDArray[np.float64]:
        """Add this timestep to its histograms and sums; the sums of this batch's samples, (what, sample)."""
        if t not in self._bins:
            self._bins[t] = [torch.zeros(size, dtype=torch.int64, device=self._count.device) for size in coding.sizes]
        sums: dict[int, Any] = {}
        for rows, columns, width in self._tiles:
            theta, a, n, x = (
                self._tile(values, rows, columns, width)
                for values in (self._theta, self._activation, self._count, self.input_sum)
            )
            silenced = None if self._silenced is None else self._tile(self._silenced, rows, columns, width)
            block = coding.block(_room_on(n.device), a, n, x, theta, silenced)
            for bins, codes in zip(self._bins[t], (block.first, block.second), strict=True):
                try:
                    bins += torch.bincount(codes.reshape(-1), minlength=len(bins))
                except RuntimeError:
                    # NaN became a code far below 0; where it becomes another one, its sums tell.
                    raise FloatingPointError("NaN in a layer's input") from None
            # Block after block, whatever the tiles.
            for of_block in block.sums.cpu().numpy().transpose(2, 0, 1):
                sums[rows.start] = sums.get(rows.start, 0) + of_block
            self._note_largest(t, block.total.reshape(len(n), -1), rows.start, columns.start)
        values: npt.NDArray[np.float64] = np.concatenate(list(sums.values()), 1)
        try:
            limbs = to_limbs(values).sum(1)
        except OverflowError:
            raise FloatingPointError("NaN, infinity or nearly that in a layer's input") from None
        self._sums[t] = self._sums[t] + limbs if t in self._sums else limbs
        return values

    @staticmethod
    def _tile(values: Tensor, rows: slice, columns: slice, width: int) -> Tensor:
        """Some neurons of some samples, or of θ, as (sample, block, neuron)."""
        if values.shape[1] == 1:
            return values[:, :, None] if len(values) == 1 else values[rows, :, None]
        chosen = values[:, columns] if len(values) == 1 else values[rows, columns]
        return chosen.view(len(chosen), -1, width)

    def _cut(self) -> Iterator[tuple[slice, slice, int]]:
        """Tiles as (samples, neurons, neurons a block); they change the order of no sum."""
        samples, neurons = self._activation.shape
        least, most, elsewhere = TILES
        on_cpu = self._activation.device.type == "cpu"
        size = BLOCK * (max(least, min(2 * torch.get_num_threads(), most)) if on_cpu else elsewhere)
        width = min(neurons, BLOCK)
        whole = neurons // width * width
        together = max(1, size // whole)
        for row in range(0, samples, together):
            rows = slice(row, min(row + together, samples))
            for column in range(0, whole, size):
                yield rows, slice(column, min(column + size, whole)), width
            if whole < neurons:
                yield rows, slice(whole, neurons), neurons - whole

    def _note_largest(self, t: int, total: Tensor, row: int, column: int) -> None:
        """Note the largest of some errors, (sample, neuron), if it is a new record."""
        sizes = total.abs()
        per_row = in_units(torch, sizes.amax(1))
        worst = float(per_row.max())
        # Not so of NaN either.
        if not worst >= max(1, abs(int(self._largest[t][0]))):
            return
        sample = int((per_row == worst).nonzero()[0])
        neuron = int((in_units(torch, sizes[sample]) == worst).nonzero()[0])
        value = int(worst) if total[sample, neuron] > 0 else -int(worst)
        found = np.array([value, self._first + row + sample, column + neuron], np.int64)
        self._largest[t] = larger_error(self._largest[t], found)

    def end(self) -> Tensor:
        """End the batch, and return n at T, float32 whole numbers, shape (sample, neuron)."""
        per_neuron = self._count.sum(0, dtype=torch.float64)
        self._per_neuron = per_neuron if self._per_neuron is None else self._per_neuron.add_(per_neuron)
        self._spikes_at = self._steps if self._spikes_at is None else self._spikes_at.add_(self._steps)
        self._samples.extend(self._of_samples)
        return self._count

    @property
    def touched(self) -> bool:
        """True if a batch has ended since the last `take`."""
        return self._per_neuron is not None

    def take(self) -> LayerStatistics:
        """What the batches since the last call have added up to; starts anew."""
        assert self._shape is not None, "take() before the first batch"
        assert self._per_neuron is not None, "take() before the first batch has ended"
        assert self._spikes_at is not None
        statistics = {
            t: coding.gather(
                self._bins[t][0].cpu().numpy(), self._bins[t][1].cpu().numpy(), self._sums[t], self._largest[t]
            )
            for t, coding in self._codings.items()
        }
        gathered = LayerStatistics(
            statistics,
            self._spikes_at.cpu().numpy().astype(np.int64),
            self._per_neuron.view(self._shape).cpu().numpy().astype(np.int64),
            self._samples.whole(),
            self._first_input.cpu().numpy(),
        )
        self._forget()
        return gathered


def _room_on(device: torch.device) -> Room:
    room: Room = vars(_rooms).setdefault(str(device), Room(torch, device=device))
    return room
