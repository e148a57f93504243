"""The tally of a layer whose ANN is QCFS: one histogram of whole numbers at each t.

What this costs is memory traffic, passes over each neuron and one histogram entry a neuron and timestep. So only
two numbers a neuron live from one timestep to the next: Σx, and one float32 that holds n and the level k together as
a whole number. All else is made in pieces that stay in the processor's cache, in as few passes as torch allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe.attribution import (
    COMPARISONS,
    DENSE,
    NO_ERROR,
    RESIDUAL_BINS_PER_THRESHOLD,
    SIGNS,
    TERMS,
    TOO_LARGE,
    Coding,
    Ints,
    LayerStatistics,
    Statistics,
    comparison,
    count,
    sums_of,
)
from probe.attribution.analog import BINS, INSIDE, SECOND_KEYS
from probe.tally import devices
from probe.tally.plan import (
    PARTS,
    PIECE,
    GrowingArray,
    Number,
    Plan,
    Tally,
    TooManySpikes,
    departure,
    first_inputs,
    spikes_at_every,
)
from probe.tally.workers import kernels

LOCALS = len(SIGNS) * len(COMPARISONS) * (BINS + 1)
"""Local cases by residual bin, and one for silenced neurons."""
NOT_FINITE = "NaN in a layer's input, or NaN or infinity in its output"
EXACT = 1 << 24
"""float32 holds every whole number below this."""
RUN = 4096
"""Neurons whose spikes are summed in float32: off by 12 roundings of at most 4096 spikes, 0.003 of one."""


class LevelTally:
    """Gathers one layer whose ANN gives levels: in compiled loops on this machine's processor, else by torch.

    Which of the two, the first batch tells: it knows where its tensors lie. See `Tally`.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._kept: Tally | None = None

    def _make(self, device: torch.device) -> Tally:
        if not devices.at_hand(device) or kernels() is None:
            return TorchLevels(self.plan)
        from probe.tally.levels_native import NativeLevels, counts_natively

        return NativeLevels(self.plan) if counts_natively(self.plan) else TorchLevels(self.plan)

    @property
    def _tally(self) -> Tally:
        assert self._kept is not None, "before the first batch"
        return self._kept

    @property
    def input_sum(self) -> Tensor:
        """Σx so far in this batch."""
        return self._tally.input_sum

    def begin(self, first_sample: int, values: Tensor, silenced: Tensor | None = None) -> None:
        """Start a batch."""
        if self._kept is None:
            self._kept = self._make(values.device)
        self._kept.begin(first_sample, values, silenced)

    def step(self, t: int, x: Tensor, output: Tensor) -> None:
        """Add timestep t, from 1."""
        self._tally.step(t, x, output)

    def spike_count(self) -> Tensor:
        """n so far in this batch."""
        return self._tally.spike_count()

    def departure(
        self, shown: Tensor, silenced: Tensor | None, initial_fraction: float, slack: float
    ) -> tuple[Number, Number]:
        """How far neurons are from the conservation law."""
        return self._tally.departure(shown, silenced, initial_fraction, slack)

    def fault(self) -> Tensor | None:
        """The first t at which `step` would have raised had it waited."""
        return self._tally.fault()

    def end(self) -> None:
        """End the batch."""
        self._tally.end()

    @property
    def touched(self) -> bool:
        """True if a batch has ended since the last `take`."""
        return self._kept is not None and self._kept.touched

    def take(self) -> LayerStatistics:
        """What the batches since the last call have added up to; starts anew."""
        return self._tally.take()


class TorchLevels:
    """Gathers one layer over batches by operations of torch alone; see `Tally`."""

    input_sum: Tensor
    _base: Tensor
    """A dense layer's (n · classes + class) · span - limits[0]; else n · classes + class. n counts from the lowest."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._codings = {t: coding for t, coding in plan.codings.items() if isinstance(coding, Coding)}
        self._coding = next(iter(self._codings.values()))
        self._dense = max(coding.size for coding in self._codings.values()) <= DENSE
        self._weight = self._coding.classes * (self._coding.span if self._dense else 1)
        self._like: tuple[torch.Size, torch.device] | None = None
        self._forget()

    def _forget(self) -> None:
        self._counted: dict[int, Places | Totals] = {}
        self._before: dict[int, Statistics] = {}
        self._entries = 0
        self._largest: dict[int, Tensor] = {}
        self._faults: dict[int, Tensor] = {}
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
        # Pieces are looked at as rows, so these must not keep the strides of a transposed tensor.
        self._levels = self._classes = level.reshape(len(level), -1).to(torch.float32).contiguous()
        if silenced is not None:
            mask = silenced.expand(level.shape).reshape(self._levels.shape)
            self._classes = torch.add(self._levels, mask, alpha=self._coding.levels + 1)
        self._silenced = silenced
        self.input_sum = torch.empty_like(self._levels)
        self._step_sums = torch.zeros(self.plan.timesteps, dtype=torch.float64, device=level.device)
        self._sums = torch.zeros(len(level), len(self.plan.per_sample), 5, dtype=torch.float64, device=level.device)
        self._faults = {}
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
        # Asked for here, for an accelerator would be waited for.
        self._one_alpha = float(self._weight / self.plan.spike_height.ravel()[0])
        # (base + ½)/weight, whose floor is n; the ½ keeps it from rounding down to the n below.
        self._half = torch.tensor(0.5 / self._weight, device=device)
        self._buffers = torch.empty(2, 0, device=device)
        self._base = torch.empty(0, device=device)

    def _cut(self, levels: Tensor) -> list[tuple[slice, slice]]:
        """(sample, neuron) in contiguous pieces: whole samples, or parts of one; on an accelerator in one."""
        samples, neurons = levels.shape
        size = PIECE if devices.at_hand(levels.device) else levels.numel()
        rows, columns = max(1, size // neurons), min(size, neurons)
        # Kept from batch to batch: large new tensors cost a page fault every few KiB.
        if self._buffers.shape[1] < rows * columns:
            self._buffers = torch.empty(2, rows * columns, device=levels.device)
        if self._base.shape != levels.shape:
            self._base = torch.empty_like(levels)
            if self._dense:
                self._code = torch.empty_like(levels, dtype=torch.int32)
            self._places = torch.arange(rows * columns, device=levels.device)
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
            if t == 1:
                total.copy_(x[piece])
                self._start(piece, base)
            else:
                total.add_(x[piece])
            self._add_spikes(piece, base, spike)
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
            base.add_(spike, alpha=self._one_alpha)
        # height·(weight/height) is not exactly the weight; rounded at once, the sum is whole again.
        base.round_()

    def _spikes_in(self, output: Tensor) -> Tensor:
        """Σ s(t), from runs of neurons so short that float32 sums of θ·s are off by less than half a spike."""
        if self._inverse.ndim:
            output = output * self._inverse
        flat = output.reshape(-1)
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

    def _count(self, t: int, coding: Coding) -> None:
        """Count every neuron of this timestep, and find the one with the largest error."""
        if t not in self._counted:
            made = Places if self._dense else Totals
            self._counted[t] = made(coding, self._base.device)
        counted = self._counted[t]
        for piece in self._pieces:
            base = self._base[piece]
            scaled = torch.mul(self.input_sum[piece], self._of(self._scale, piece), out=self._buffer(0, base))
            fine = scaled.clamp_(*coding.limits).floor_()
            if isinstance(counted, Places):
                self._code[piece].copy_(self._known(fine.add_(base)))
            else:
                counted.add(fine, *self._whole(base))
        if isinstance(counted, Places):
            counted.add(self._code)
        if devices.at_hand(self._base.device):
            self._refuse(counted)
        else:
            self._faults[t] = counted.beyond()
        self._find_largest(t, coding)

    @staticmethod
    def _known(code: Tensor) -> Tensor:
        """Codes in which NaN is none: a processor makes a number far below 0 of it, but an accelerator may make 0."""
        return code if devices.at_hand(code.device) else code.nan_to_num_(nan=-1.0)

    def _refuse(self, counted: Places | Totals) -> None:
        # No clamp catches NaN: it became a code far below 0.
        if bool(counted.beyond()):
            if bool(torch.isnan(self.input_sum).any()) or not bool(torch.isfinite(self._base).all()):
                raise FloatingPointError(NOT_FINITE)
            raise TooManySpikes

    def fault(self) -> Tensor | None:
        """The first t of this batch at which a neuron had more spikes than it may; see `Tally`."""
        if not self._faults:
            return None
        beyond = torch.stack(list(self._faults.values()))
        t = torch.tensor(list(self._faults), device=beyond.device)
        first = torch.where(beyond, t, self.plan.timesteps + 1).amin()
        return torch.where(torch.isfinite(self._base).all(), first.remainder(self.plan.timesteps + 1), -1)

    def _whole(self, base: Tensor) -> tuple[Tensor, Tensor]:
        """n and the class of neurons whose base is n · classes + class, float32."""
        n = torch.add(self._half, base, alpha=1 / self._weight).floor_()
        return n, base - n * self._coding.classes

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

    def _find_largest(self, t: int, coding: Coding) -> None:
        """Note the largest error of this timestep, if it is a new record; nothing is asked of the device."""
        device, neurons = self._base.device, self._base.shape[1]
        record = self._largest.setdefault(t, torch.from_numpy(NO_ERROR).to(device))
        for piece in self._pieces:
            base = self._base[piece]
            n = torch.add(self._half, base, alpha=1 / self._weight, out=self._buffer(0, base)).floor_()
            if self._coding.lowest_count:
                n.add_(self._coding.lowest_count)
            error = torch.sub(n.mul_(coding.levels), self._levels[piece], alpha=t, out=self._buffer(0, base)).view(-1)
            size = torch.abs(error, out=self._buffer(1, error))
            # The first of several: what `argmax` gives differs from device to device.
            place = torch.where(size == size.max(), self._places[: len(size)], len(size) - 1).amin().view(1)
            value = error.gather(0, place).to(torch.int64)
            place = place + (piece[0].start * neurons + piece[1].start)
            found = torch.cat([value, self._first + place // neurons, place % neurons])
            record = torch.where(value.abs() > record[0].abs(), found, record)
        self._largest[t] = record

    def spike_count(self) -> Tensor:
        """n so far in this batch, int32, shape (sample, neuron)."""
        n = torch.empty(self._base.shape, dtype=torch.int32, device=self._base.device)
        for piece in self._pieces:
            base = self._base[piece]
            n[piece].copy_(torch.add(self._half, base, alpha=1 / self._weight, out=self._buffer(0, base)))
        return n.add_(self._coding.lowest_count) if self._coding.lowest_count else n

    def departure(
        self, shown: Tensor, silenced: Tensor | None, initial_fraction: float, slack: float
    ) -> tuple[Number, Number]:
        """How far the batch is from the conservation law; see `Tally`."""
        total, n = (values.view(shown.shape) for values in (self.input_sum, self.spike_count()))
        theta = torch.from_numpy(np.asarray(self.plan.threshold)).to(shown.device)
        return departure(shown, total, n, theta, silenced, initial_fraction, slack)

    def end(self) -> None:
        """End the batch."""
        n = self.spike_count()
        # A sum in int32 is several times as fast as in int64, and large enough for any batch.
        per_neuron = n.sum(0, dtype=torch.int32).to(torch.int64)
        # Added up at once: a list of one a batch would grow with the samples.
        self._per_neuron = per_neuron if self._per_neuron is None else self._per_neuron.add_(per_neuron)
        self._spikes_at = self._step_sums if self._spikes_at is None else self._spikes_at.add_(self._step_sums)
        self._samples.extend(self._sums.cpu().numpy())
        self._entries += n.numel()
        # One more batch like this might not fit.
        if self._entries + n.numel() > most_entries(self._coding):
            self._set_down()

    def _set_down(self) -> None:
        """Make statistics of what was counted, so that there is room for more."""
        add_up(self._before, {t: counted.statistics() for t, counted in self._counted.items()})
        self._counted, self._entries = {}, 0

    @property
    def touched(self) -> bool:
        """True if a batch has ended since the last `take`."""
        return self._per_neuron is not None

    def take(self) -> LayerStatistics:
        """What the batches since the last call have added up to; starts anew."""
        assert self._like is not None, "take() before the first batch"
        assert self._per_neuron is not None, "take() before the first batch has ended"
        assert self._spikes_at is not None
        self._set_down()
        statistics = {
            t: replace(before, largest=self._largest[t].cpu().numpy()) for t, before in sorted(self._before.items())
        }
        gathered = LayerStatistics(
            statistics,
            spikes_at_every(self._spikes_at.cpu().numpy().astype(np.int64), statistics, self._coding.lowest_count),
            self._per_neuron.view(self._like[0]).cpu().numpy(),
            self._samples.whole(),
            self._first_input.cpu().numpy(),
        )
        self._forget()
        return gathered


class Places:
    """A histogram with a place for each code of a t, and one below and above for what is no code."""

    def __init__(self, coding: Coding, device: torch.device) -> None:
        self._coding = coding
        self._bins = torch.zeros(coding.size + 2, dtype=torch.int64, device=device)
        self._one = torch.ones(1, dtype=torch.int64, device=device)

    def add(self, codes: Tensor) -> None:
        """Count codes, int32; overwrites them."""
        places = codes.clamp_(-1, self._coding.size).add_(1).view(-1)
        if devices.at_hand(codes.device):
            self._bins += torch.bincount(places, minlength=len(self._bins))
        else:
            # `bincount` would ask an accelerator for the largest code.
            self._bins.scatter_add_(0, places.to(torch.int64), self._one.expand(len(places)))

    def beyond(self) -> Tensor:
        """True if something was no code."""
        return (self._bins[0] + self._bins[-1]) > 0

    def statistics(self) -> Statistics:
        """Of what was counted, without the largest error."""
        bins = self._bins[1:-1].cpu().numpy()
        codes = np.flatnonzero(bins)
        return count(self._coding.decode(codes, bins[codes]))


class Totals:
    """The sums and small tables of a t whose codes are too many for a histogram."""

    def __init__(self, coding: Coding, device: torch.device) -> None:
        self._coding = coding
        zeros = partial(torch.zeros, dtype=torch.int64, device=device)
        self._pairs = (coding.timestep - coding.lowest_count + 1) * coding.classes
        self._table, self._local = zeros(self._pairs * SECOND_KEYS + 1), zeros(LOCALS)
        self._moments, self._products = zeros(len(PARTS)), zeros(len(PARTS), len(PARTS))

    def add(self, fine: Tensor, n: Tensor, of_class: Tensor) -> None:
        """Count neurons.

        Args:
            fine: ⌊R·u⌋ within the coding's limits.
            n: less the lowest count.
            of_class: k, or k + L + 1 for a silenced neuron.
        """
        # Asked of the floats: whole numbers hold neither NaN nor very many spikes. NaN is in no range.
        known = ((n >= 0) & (n <= self._coding.timestep - self._coding.lowest_count) & (fine == fine)).reshape(-1)
        fine, n, of_class = (values.reshape(-1).to(torch.int64) for values in (fine, n, of_class))
        coding, each = self._coding, self._coding.levels + 1
        code = torch.where(known, n * coding.classes + of_class, self._pairs)
        n, silent, k = n + coding.lowest_count, of_class >= each, of_class.remainder(each)
        t, levels, resolution = coding.timestep, coding.levels, coding.resolution

        def floored(values: Tensor, by: int) -> Tensor:
            return values.div(by, rounding_mode="floor")

        even = floored(fine + coding.start, resolution).clamp_(-t if coding.unguarded else 0, t)
        half = floored(fine + resolution // 2, resolution).clamp_(0, t)
        mean = floored(2 * levels * fine + resolution * t, 2 * resolution * t).clamp_(0, levels)
        uneven, silencing = (n - even) * levels, (n - even) * levels * silent
        parts = (uneven - silencing, silencing, (even - half) * levels, half * levels - mean * t, (mean - k) * t)
        for i, one in enumerate(parts):
            self._moments[i] += one.sum()
            for j, other in enumerate(parts[i:], start=i):
                self._products[i, j] += (one * other).sum()
        residual = floored(fine + coding.start - n * resolution, resolution // RESIDUAL_BINS_PER_THRESHOLD)
        bins = (residual + INSIDE).clamp_(0, BINS - 1)
        inside = floored(residual, RESIDUAL_BINS_PER_THRESHOLD).clamp_(-1, 1) + 1
        code = code * SECOND_KEYS + torch.where(silent, SECOND_KEYS - 1, inside)
        compared = (n > even) + 2 * (n < even)
        local = ((even > 0) * len(COMPARISONS) + compared) * (BINS + 1) + torch.where(silent, BINS, bins)
        one = torch.ones_like(code)
        self._table.scatter_add_(0, code.clamp_(max=self._pairs * SECOND_KEYS), one)
        self._local.scatter_add_(0, local, one)

    def beyond(self) -> Tensor:
        """True if a neuron's count was none that it can reach."""
        return self._table[-1] > 0

    def statistics(self) -> Statistics:
        """Of what was counted, without the largest error."""
        sums = (values.cpu().numpy() for values in (self._table[:-1], self._local, self._moments, self._products))
        return from_totals(self._coding, *sums)


def most_entries(coding: Coding) -> int:
    """Neurons whose sums fit in 64 bits whatever their errors are, at any t."""
    return (2**63 - 1) // (coding.levels * (coding.timesteps - coding.lowest_count)) ** 2


def add_up(sums: dict[int, Statistics], more: Mapping[int, Statistics]) -> None:
    """Add the statistics of every t to what there is.

    Raises:
        OverflowError: a sum does not fit in 64 bits.
    """
    for t, statistics in more.items():
        sums[t] = sums[t] + statistics if t in sums else statistics


def from_totals(coding: Coding, table: Ints, local: Ints, moments: Ints, products: Ints) -> Statistics:
    """The statistics of a t, without the largest error, from sums over its neurons.

    Args:
        coding: of that t.
        table: neurons of each pair of n and class, and v(t) below, inside, above or silenced.
        local: neurons by sign of n_even, comparison with it, and residual bin, with one more bin for silenced ones.
        moments: Σ of `PARTS`, in units of θ/(L·t).
        products: Σ of their products, on the diagonal and above it.

    Raises:
        OverflowError: a sum might not fit in 64 bits.
    """
    # Silenced neurons are a column of the table, so their class is not needed.
    table = table.reshape(-1, coding.classes // (coding.levels + 1), coding.levels + 1, SECOND_KEYS).sum(1)
    table = table.transpose(1, 0, 2)
    if (coding.levels * (coding.timestep - coding.lowest_count)) ** 2 * int(table.sum()) >= 2**63:
        raise OverflowError(TOO_LARGE)
    joint = np.zeros((coding.levels + 1, coding.timesteps - coding.lowest_count + 1), np.int64)
    joint[:, : table.shape[1]] = table.sum(2)
    k = np.arange(table.shape[0])[:, None]
    n = np.arange(table.shape[1])[None] + coding.lowest_count
    cases = np.zeros((len(SIGNS), len(COMPARISONS), SECOND_KEYS), np.int64)
    against_ann = comparison(n * coding.levels, k * coding.timestep)
    np.add.at(cases, ((k > 0).astype(int), against_ann), table)
    local = local.reshape(len(SIGNS), len(COMPARISONS), BINS + 1)
    places = [TERMS.index(name) for name in PARTS]
    of_terms, between = np.zeros(len(TERMS), np.int64), np.zeros((len(TERMS), len(TERMS)), np.int64)
    of_terms[places] = moments
    between[np.ix_(places, places)] = np.triu(products) + np.triu(products, 1).T
    # The total is the sum of its pieces.
    of_terms[0] = of_terms.sum()
    between[0] = between.sum(0)
    between[:, 0] = between.sum(1)
    return Statistics(
        cases, local.sum(2), joint, of_terms, between, local[:, :, :BINS].sum((0, 1)),
        sums_of(joint, coding.lowest_count), NO_ERROR,
    )  # fmt: skip
