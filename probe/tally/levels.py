"""The tally of a layer whose ANN is QCFS: one histogram of whole numbers at each t.

What this costs is memory traffic, passes over each neuron and one histogram entry a neuron and timestep. So only
two numbers a neuron live from one timestep to the next: Σx, and one float32 that holds n and the level k together as
a whole number. All else is made in pieces that stay in the processor's cache, in as few passes as torch allows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe.attribution import DENSE, NO_ERROR, Coding, Ints, LayerStatistics, Statistics, count
from probe.tally.plan import PIECE, GrowingArray, Plan, TooManySpikes, first_inputs

EXACT = 1 << 24
"""float32 holds every whole number below this."""
RUN = 4096
"""Neurons whose spikes are summed in float32: off by 12 roundings of at most 4096 spikes, 0.003 of one."""


class LevelTally:
    """Gathers one layer over batches: `begin` with the ANN's levels, `step` at each t, `end`; `take` what was gathered.

    Attributes:
        input_sum: Σx so far in this batch, float32 (sample, neuron), summed in the order of t.
    """

    input_sum: Tensor
    _base: Tensor
    """A dense layer's (n · classes + class) · span - limits[0]; else n · classes + class. n counts from the lowest."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._codings = {t: coding for t, coding in plan.codings.items() if isinstance(coding, Coding)}
        self._coding = next(iter(self._codings.values()))
        largest = max(coding.size for coding in self._codings.values())
        self._dense = largest <= DENSE
        self._weight = self._coding.classes * (self._coding.span if self._dense else 1)
        self._like: tuple[torch.Size, torch.device] | None = None
        self._forget()

    def _forget(self) -> None:
        self._bins: dict[int, Tensor] = {}
        self._counted: dict[int, Statistics] = {}
        self._largest: dict[int, Ints] = dict.fromkeys(self._codings, NO_ERROR)
        self._spikes_at: Tensor | None = None
        self._per_neuron: Tensor | None = None
        self._samples = GrowingArray((len(self.plan.per_sample), 5), np.int64)
        self._first_input = torch.full((2, 1), torch.nan)

    def begin(self, first_sample: int, level: Tensor, silenced: Tensor | None = None) -> None:
        """Start a batch.

        Args:
            first_sample: the recording's index of its first sample.
            level: k, whole numbers in any dtype, shape (sample, *neuron).
            silenced: SRP's mask, same shape; None where the plan's codings have no `silencing`.
        """
        if self._like is None or self._like[0] != level.shape[1:] or self._like[1] != level.device:
            self._prepare(level.shape[1:], level.device)
        self._first = first_sample
        self._levels = self._classes = level.reshape(len(level), -1).to(torch.float32)
        if silenced is not None:
            mask = silenced.reshape(self._levels.shape)
            self._classes = torch.add(self._levels, mask, alpha=self._coding.levels + 1)
        self._silenced = silenced
        self.input_sum = torch.empty_like(self._levels)
        self._step_sums = torch.zeros(self.plan.timesteps, dtype=torch.float64, device=level.device)
        self._sums = torch.zeros(len(level), len(self.plan.per_sample), 5, dtype=torch.float64, device=level.device)
        self._pieces = self._cut(self._levels)

    def _prepare(self, shape: torch.Size, device: torch.device) -> None:
        def row(values: npt.NDArray[np.float32]) -> Tensor:
            """One number, or one row with a number for each neuron."""
            if values.size == 1:
                return torch.tensor(values.item(), dtype=torch.float32, device=device)
            spread = np.broadcast_to(values, (1, *shape)).reshape(-1)
            return torch.from_numpy(np.array(spread)).to(device)

        self._like = (shape, device)
        self._scale = row(self._coding.scale(self.plan.threshold))
        self._inverse = row(np.float32(1) / self.plan.spike_height)
        self._alpha = row(np.float32(self._weight) / self.plan.spike_height)
        # (base + ½)/weight, whose floor is n; the ½ keeps it from rounding down to the n below.
        self._half = torch.tensor(0.5 / self._weight, device=device)
        self._buffers = torch.empty(2, 0, device=device)
        self._base = torch.empty(0, device=device)

    def _cut(self, levels: Tensor) -> list[tuple[slice, slice]]:
        """(sample, neuron) in contiguous pieces: whole samples, or parts of one; on an accelerator in one."""
        samples, neurons = levels.shape
        size = PIECE if levels.device.type == "cpu" else levels.numel()
        rows, columns = max(1, size // neurons), min(size, neurons)
        # Kept from batch to batch: large new tensors cost a page fault every few KiB.
        if self._buffers.shape[1] < rows * columns:
            self._buffers = torch.empty(2, rows * columns, device=levels.device)
        if self._base.shape != levels.shape:
            self._base = torch.empty_like(levels)
            self._code = torch.empty_like(levels, dtype=torch.int32 if self._dense else torch.int64)
        return [
            (slice(row, min(row + rows, samples)), slice(column, min(column + columns, neurons)))
            for row in range(0, samples, rows)
            for column in range(0, neurons, columns)
        ]

    def step(self, t: int, x: Tensor, output: Tensor) -> None:
        """Add timestep t, from 1.

        Args:
            x: the layer's input x(t), shape (sample, *neuron).
            output: its output, s(t) times the height of a spike, same shape.
        """
        if t == 1:
            # A silenced neuron could not fire: it counts as one that takes no part.
            barred = output if self._silenced is None else output.masked_fill(self._silenced, 1)
            self._first_input = first_inputs(self._first_input, x, output, barred)
        x, output = x.reshape(self._base.shape), output.reshape(self._base.shape)
        coding = self._codings.get(t)
        slot = self.plan.per_sample.index(t) if t in self.plan.per_sample else None
        if coding is None:
            self._step_sums[t - 1] += self._spikes_in(output)
            if slot is None and t > 1:
                self._pass_by(x, output)
                return
        for piece in self._pieces:
            total, base, spike = self.input_sum[piece], self._base[piece], output[piece]
            buffer = self._buffer(0, base)
            if t == 1:
                total.copy_(x[piece])
                self._start(piece, base)
            else:
                total.add_(x[piece])
            self._add_spikes(piece, base, spike)
            if coding is not None:
                fine = torch.mul(total, self._of(self._scale, piece), out=buffer).clamp_(*coding.limits).floor_()
                self._encode(coding, fine, base, self._code[piece])
            if slot is not None:
                self._sum_samples(slot, piece, base)
        if coding is not None:
            self._count(t, coding)

    def _pass_by(self, x: Tensor, output: Tensor) -> None:
        """Add a timestep of which no histogram is made."""
        self.input_sum.add_(x)
        for piece in self._pieces:
            self._add_spikes(piece, self._base[piece], output[piece])

    def _add_spikes(self, piece: tuple[slice, slice], base: Tensor, spike: Tensor) -> None:
        if self._alpha.ndim:
            base.addcmul_(spike, self._alpha[piece[1]])
        else:
            base.add_(spike, alpha=self._alpha.item())
        # height·(weight/height) is not exactly the weight; rounded at once, the sum is whole again.
        base.round_()

    def _spikes_in(self, output: Tensor) -> Tensor:
        """Σ s(t), from runs of neurons so short that float32 sums of θ·s are off by less than half a spike."""
        if self._inverse.ndim:
            output = output * self._inverse
        flat = output.view(-1)
        whole = len(flat) // RUN * RUN
        sums = torch.cat((flat[:whole].view(-1, RUN).sum(1), flat[whole:].sum(0, keepdim=True)))
        return (sums if self._inverse.ndim else sums.mul_(self._inverse)).round_().sum(dtype=torch.float64)

    def _start(self, piece: tuple[slice, slice], base: Tensor) -> None:
        """What a piece holds before the first spike, and Σk, Σk² of its samples: they are the same at every t."""
        if self._dense:
            torch.mul(self._classes[piece], self._coding.span, out=base).sub_(self._coding.limits[0])
        else:
            base.copy_(self._classes[piece])
        if self._coding.lowest_count:
            base.sub_(self._coding.lowest_count * self._weight)
        if not self.plan.per_sample:
            return
        k = self._summable(self._levels[piece])
        self._sums[piece[0], :, 1] += k.sum(1, keepdim=True)
        self._sums[piece[0], :, 3] += self._dot(k, k)[:, None]

    @staticmethod
    def _of(row: Tensor, piece: tuple[slice, slice]) -> Tensor:
        return row[piece[1]] if row.ndim else row

    def _encode(self, coding: Coding, fine: Tensor, base: Tensor, code: Tensor) -> None:
        """Write the codes of one piece, given its ⌊R·u⌋ and its base; overwrites `fine`."""
        if self._dense:
            code.copy_(fine.add_(base))
            return
        code.copy_(base).mul_(coding.span).add_(fine.to(torch.int64)).sub_(coding.limits[0])

    def _count(self, t: int, coding: Coding) -> None:
        """Add the codes of this timestep to its histogram."""
        if self._dense:
            try:
                bins = torch.bincount(self._code.view(-1), minlength=coding.size)
            except RuntimeError:
                # NaN, the one number that no clamp catches, became a code far below 0.
                raise FloatingPointError("NaN in a layer's input") from None
            if len(bins) > coding.size:
                raise TooManySpikes
            self._bins[t] = self._bins[t].add_(bins) if t in self._bins else bins
            self._find_largest(t, coding, bins.view(-1, coding.span).amax(1).nonzero().view(-1).cpu().numpy())
            return
        found, counts = (one.cpu().numpy() for one in torch.unique(self._code, return_counts=True))
        if found[-1] >= coding.size:
            raise TooManySpikes
        # Reduced at once: a list of codes would grow with the samples, and has hundreds of thousands a batch.
        here = count(coding.decode(found, counts))
        self._counted[t] = self._counted[t] + here if t in self._counted else here
        self._find_largest(t, coding, np.unique(found // coding.span))

    def _sum_samples(self, slot: int, piece: tuple[slice, slice], base: Tensor) -> None:
        """Add Σn, Σn², Σnk of one piece to its samples."""
        n = torch.add(self._half, base, alpha=1 / self._weight, out=self._buffer(0, base)).floor_()
        if self._coding.lowest_count:
            n.add_(self._coding.lowest_count)
        n, k = self._summable(n), self._summable(self._levels[piece])
        self._sums[piece[0], slot, ::2] += torch.stack((n.sum(1), self._dot(n, n), self._dot(n, k)), 1)

    def _buffer(self, index: int, like: Tensor) -> Tensor:
        return self._buffers[index, : like.numel()].view(like.shape)

    def _summable(self, values: Tensor) -> Tensor:
        """Levels or counts of a piece in a type in which the sums of their products are exact."""
        largest = max(self._coding.levels, self.plan.timesteps)
        return values if values.shape[1] * largest**2 < EXACT else values.double()

    def _dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Σ a·b of each sample of a piece."""
        return (torch.mul(a, b, out=self._buffer(1, a)) if a.dtype == torch.float32 else a * b).sum(1)

    def _find_largest(self, t: int, coding: Coding, pairs: Ints) -> None:
        """Note the largest error among the pairs of n and class that occur now, if it is a new record.

        Args:
            pairs: (n - lowest_count) · classes + class, each once.
        """
        n, of_class = np.divmod(pairs, coding.classes)
        total = (n + coding.lowest_count) * coding.levels - of_class % (coding.levels + 1) * t
        worst = np.abs(total).max(initial=0)
        if worst <= abs(self._largest[t][0]):
            return
        found = np.abs(total) == worst
        place, pair = min((self._first_place(int(pair)), int(pair)) for pair in pairs[found])
        sample, neuron = divmod(place, self._base.shape[1])
        self._largest[t] = np.array([total[pairs == pair][0], self._first + sample, neuron], np.int64)

    def _first_place(self, pair: int) -> int:
        """Flat index of the first neuron that has this pair of n and class."""
        value = pair * self._coding.span - self._coding.limits[0] if self._dense else pair
        for piece in self._pieces:
            base = self._base[piece]
            same = torch.eq(base, value, out=self._buffer(0, base))
            if same.any():
                row, column = same.nonzero()[0].tolist()
                place: int = (piece[0].start + row) * self._base.shape[1] + piece[1].start + column
                return place
        raise AssertionError("a pair that occurs has a place")

    def spike_count(self) -> Tensor:
        """n so far in this batch, int32, shape (sample, neuron)."""
        n = torch.empty(self._base.shape, dtype=torch.int32, device=self._base.device)
        for piece in self._pieces:
            base = self._base[piece]
            n[piece].copy_(torch.add(self._half, base, alpha=1 / self._weight, out=self._buffer(0, base)))
        return n.add_(self._coding.lowest_count) if self._coding.lowest_count else n

    def end(self) -> Tensor:
        """End the batch, and return n at T, int32, shape (sample, neuron)."""
        n = self.spike_count()
        # A sum in int32 is several times as fast as in int64, and large enough for any batch.
        per_neuron = n.sum(0, dtype=torch.int32).to(torch.int64)
        # Added up at once: a list of one a batch would grow with the samples.
        self._per_neuron = per_neuron if self._per_neuron is None else self._per_neuron.add_(per_neuron)
        self._spikes_at = self._step_sums if self._spikes_at is None else self._spikes_at.add_(self._step_sums)
        self._samples.extend(self._sums.cpu().numpy())
        return n

    @property
    def touched(self) -> bool:
        """True if a batch has ended since the last `take`."""
        return self._per_neuron is not None

    def take(self) -> LayerStatistics:
        """What the batches since the last call have added up to; starts anew."""
        assert self._like is not None, "take() before the first batch"
        assert self._per_neuron is not None, "take() before the first batch has ended"
        statistics = {}
        for t, coding in self._codings.items():
            if t in self._bins:
                bins = self._bins[t].cpu().numpy()
                codes = np.flatnonzero(bins)
                statistics[t] = count(coding.decode(codes, bins[codes]), self._largest[t])
            else:
                statistics[t] = replace(self._counted[t], largest=self._largest[t])
        gathered = LayerStatistics(
            statistics,
            self._spikes_at_every(statistics),
            self._per_neuron.view(self._like[0]).cpu().numpy(),
            self._samples.whole(),
            self._first_input.cpu().numpy(),
        )
        self._forget()
        return gathered

    def _spikes_at_every(self, statistics: dict[int, Statistics]) -> Ints:
        """Σ s(t) for every t: from the histograms where those of t and t - 1 are there, else from what was summed."""
        assert self._spikes_at is not None
        spikes = self._spikes_at.cpu().numpy().astype(np.int64)
        counted = 0
        values = np.arange(self.plan.timesteps - self._coding.lowest_count + 1) + self._coding.lowest_count
        for t in range(1, self.plan.timesteps + 1):
            if t in statistics:
                spikes[t - 1] = int(statistics[t].joint.sum(0) @ values) - counted
            counted += int(spikes[t - 1])
        return spikes
