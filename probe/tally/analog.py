"""The tally of a layer whose ANN is ReLU, or that has no ANN: counts and sums, and at each t of the grid the pieces."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe.attribution import NO_ERROR, AnalogCoding, Ints, LayerStatistics
from probe.attribution.analog import BLOCK, Room, in_units, to_limbs
from probe.tally import devices
from probe.tally.plan import GrowingArray, Number, Plan, departure, first_inputs
from probe.tally.workers import NONE, flat, flat_mask, flat_to_write, kernels, share, workers

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
        self._largest: dict[int, Tensor] = {}
        self._waiting: dict[int, Tensor] = {}
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
        # Others are made like it and written in loops, so it must not keep the strides of a transposed tensor.
        self._activation = values.reshape(len(values), -1).contiguous()
        self._silenced = None
        if silenced is not None:
            self._silenced = silenced.expand(values.shape).reshape(self._activation.shape).contiguous()
        self.input_sum = torch.empty_like(self._activation, dtype=torch.float32)
        self._count = torch.zeros_like(self.input_sum)
        self._theta = self._row(self.plan.threshold).double()
        self._tiles = list(self._cut())
        self._loops = loops() if devices.at_hand(values.device) and values.dtype == torch.float32 else None
        self._mask = flat_mask(silenced, values.shape) if self._loops else NONE
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
        if self._loops is None:
            self._add(t, x, output)
        else:
            self._add_in_loops(t, x, output)
        coding, n = self._codings.get(t), self._count
        if coding is not None:
            self._keep(t, self._gather(t, coding) if self._loops is None else self._gather_in_loops(t, coding))
        elif t in self.plan.per_sample:
            whole, nothing = n.double(), torch.full((len(n),), torch.nan, dtype=torch.float64, device=n.device)
            self._keep(t, torch.stack([whole.sum(1), nothing, (whole * whole).sum(1), nothing, nothing]))

    def _add(self, t: int, x: Tensor, output: Tensor) -> None:
        """Add a timestep to Σx and n."""
        if t == 1:
            self.input_sum.copy_(x.reshape(self.input_sum.shape))
        else:
            self.input_sum.add_(x.reshape(self.input_sum.shape))
        spikes = (output.reshape(self.input_sum.shape) / self._height).round_()
        self._count.add_(spikes)
        self._steps[t - 1] += spikes.sum(dtype=torch.float64)

    def _add_in_loops(self, t: int, x: Tensor, output: Tensor) -> None:
        assert self._loops is not None
        add_step, neurons = self._loops.add_step, self._count.shape[1]
        values = (flat(x), flat(output), flat(self._height), flat_to_write(self.input_sum), flat_to_write(self._count))

        def work(_worker: int, begin: int, end: int) -> float:
            fired: float = add_step(*values, neurons, begin, end, t == 1)
            return fired

        size = self._count.numel()
        self._steps[t - 1] += sum(share(size, work, threads=workers(size)))

    def _gather_in_loops(self, t: int, coding: AnalogCoding) -> Tensor:
        """As `_gather`."""
        assert self._loops is not None
        if t not in self._bins:
            self._bins[t] = [torch.zeros(size, dtype=torch.int64) for size in coding.sizes]
        gather, (samples, neurons) = self._loops.gather, self._count.shape
        terms = np.array(coding.terms, np.int64) - 1
        sums = np.empty((len(terms) + len(coding.pairs) + 5, samples), np.float64)
        at = coding.timestep
        numbers = (at, -at if coding.unguarded else 0, coding.lowest_count, coding.highest_count)
        values = tuple(map(flat, (self._activation, self._count, self.input_sum, self._theta)))
        threads = min(workers(self._count.numel()), samples)
        before = self._largest.setdefault(t, torch.from_numpy(NO_ERROR)).numpy()
        own = [bins.numpy() for bins in self._bins[t]]
        parts = [own, *([np.zeros_like(bins) for bins in own] for _ in range(1, threads))]
        records = [np.array([before[0], -1, -1], np.float64) for _ in range(threads)]

        def work(worker: int, begin: int, end: int) -> None:
            gather(
                *values, self._mask, numbers, coding.initial_potential, coding.silencing, neurons, begin, end, terms,
                *parts[worker], sums, records[worker],
            )  # fmt: skip

        share(samples, work, threads=threads)
        for part in parts[1:]:
            for whole, more in zip(own, part, strict=True):
                whole += more
        best = max(records, key=lambda record: (abs(record[0]), record[1] >= 0, -record[1], -record[2]))
        if best[1] >= 0:
            self._largest[t] = torch.tensor([int(best[0]), self._first + int(best[1]), int(best[2])])
        return torch.from_numpy(sums)

    def _keep(self, t: int, sums: Tensor) -> None:
        """Keep this batch's sums at t, (what, sample), the last five those of the samples."""
        self._waiting[t] = sums
        if devices.at_hand(sums.device):
            self._add_waiting()

    def _add_waiting(self) -> None:
        """Add up the sums that wait, once they have all come over.

        Raises:
            FloatingPointError: NaN, infinity or nearly that.
        """
        if not self._waiting:
            return
        sizes = [len(sums) for sums in self._waiting.values()]
        every = torch.cat(list(self._waiting.values())).cpu().numpy()
        for t, sums in zip(self._waiting, np.split(every, np.cumsum(sizes)[:-1]), strict=True):
            if t in self.plan.per_sample:
                self._of_samples[:, self.plan.per_sample.index(t)] = sums[-5:].T
            if t not in self._codings:
                continue
            try:
                limbs = to_limbs(sums).sum(1)
            except OverflowError:
                raise FloatingPointError("NaN, infinity or nearly that in a layer's input") from None
            self._sums[t] = self._sums[t] + limbs if t in self._sums else limbs
        self._waiting = {}

    def _gather(self, t: int, coding: AnalogCoding) -> Tensor:
        """Add this timestep to its histograms; the sums of this batch's samples, float64 (what, sample)."""
        if t not in self._bins:
            self._bins[t] = [torch.zeros(size, dtype=torch.int64, device=self._count.device) for size in coding.sizes]
        sums: dict[int, Tensor] = {}
        for rows, columns, width in self._tiles:
            theta, a, n, x = (
                self._tile(values, rows, columns, width)
                for values in (self._theta, self._activation, self._count, self.input_sum)
            )
            silenced = None if self._silenced is None else self._tile(self._silenced, rows, columns, width)
            block = coding.block(_room_on(n.device), a, n, x, theta, silenced)
            for bins, codes in zip(self._bins[t], (block.first, block.second), strict=True):
                _add_codes(bins, codes.reshape(-1))
            # Block after block, whatever the tiles.
            for of_block in block.sums.unbind(2):
                sums[rows.start] = sums[rows.start] + of_block if rows.start in sums else of_block.clone()
            self._note_largest(t, block.total.reshape(len(n), -1), rows.start, columns.start)
        return torch.cat(list(sums.values()), 1)

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
        on_cpu = devices.at_hand(self._activation.device)
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
        sizes = in_units(torch, total.abs())
        record = self._largest.setdefault(t, torch.from_numpy(NO_ERROR).to(sizes.device))
        width = sizes.shape[1]
        worst = sizes.max()
        if devices.at_hand(sizes.device) and not float(worst) >= max(1, abs(int(record[0]))):
            return
        # The first of several: what `argmax` gives differs from device to device.
        places = torch.arange(sizes.numel(), device=sizes.device)
        place = torch.where(sizes.reshape(-1) == worst, places, sizes.numel() - 1).amin().view(1)
        value = sizes.reshape(-1).gather(0, place).copysign(total.reshape(-1).gather(0, place)).to(torch.int64)
        found = torch.cat([value, self._first + row + place // width, column + place % width])
        self._largest[t] = torch.where(_comes_before(found, record), found, record)

    def spike_count(self) -> Tensor:
        """n so far in this batch, float32 whole numbers, shape (sample, neuron)."""
        return self._count

    def departure(
        self, shown: Tensor, silenced: Tensor | None, initial_fraction: float, slack: float
    ) -> tuple[Number, Number]:
        """How far the batch is from the conservation law; see `Tally`."""
        total, n = (values.view(shown.shape) for values in (self.input_sum, self._count))
        theta = torch.from_numpy(np.asarray(self.plan.threshold)).to(shown.device)
        return departure(shown, total, n, theta, silenced, initial_fraction, slack)

    def fault(self) -> None:
        """Nothing: a ReLU layer's neurons may fire as they like."""

    def end(self) -> None:
        """End the batch."""
        self._add_waiting()
        per_neuron = self._count.sum(0, dtype=torch.float64)
        self._per_neuron = per_neuron if self._per_neuron is None else self._per_neuron.add_(per_neuron)
        self._spikes_at = self._steps if self._spikes_at is None else self._spikes_at.add_(self._steps)
        self._samples.extend(self._of_samples)

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
                self._bins[t][0].cpu().numpy(),
                self._bins[t][1].cpu().numpy(),
                self._sums[t],
                self._largest[t].cpu().numpy(),
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


def _add_codes(bins: Tensor, codes: Tensor) -> None:
    if not devices.at_hand(codes.device):
        # `bincount` would ask an accelerator for the largest code; NaN is found when its sums come over.
        places = codes.to(torch.int64).clamp_(0, len(bins) - 1)
        bins.scatter_add_(0, places, torch.ones_like(bins[:1]).expand(len(places)))
        return
    try:
        bins += torch.bincount(codes, minlength=len(bins))
    except RuntimeError:
        # NaN became a code far below 0; where it becomes another one, its sums tell.
        raise FloatingPointError("NaN in a layer's input") from None


def _comes_before(found: Tensor, record: Tensor) -> Tensor:
    """True where a largest error replaces another: it is larger, or as large in a lower sample or neuron."""
    size, best = found[0].abs(), record[0].abs()
    earlier = (found[1] < record[1]) | ((found[1] == record[1]) & (found[2] < record[2]))
    return (size > best) | ((size == best) & (size > 0) & earlier)


def loops() -> ModuleType | None:
    """The compiled loops; None where numba is not there."""
    if kernels() is None:
        return None
    from probe.tally import analog_loops

    return analog_loops


def _room_on(device: torch.device) -> Room:
    room: Room = vars(_rooms).setdefault(str(device), Room(torch, device=device))
    return room
