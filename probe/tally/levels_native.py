"""The tally of a layer whose ANN is QCFS, in compiled loops: one over each timestep, in threads of their own.

Two numbers a neuron live from one timestep to the next: Σx, and a small whole number that holds n and the level k
together. What a timestep counts is one histogram while its codes are few; else it is added up at once (`Histogram` and
`Sums`), so that memory does not grow with T.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe.attribution import COMPARISONS, NO_ERROR, SIGNS, Coding, Ints, LayerStatistics, Statistics, count
from probe.attribution.analog import BINS, SECOND_KEYS
from probe.tally import native
from probe.tally.levels import NOT_FINITE, add_up, from_totals, most_entries
from probe.tally.plan import PARTS, GrowingArray, Plan, TooManySpikes, spikes_at_every
from probe.tally.workers import flat, flat_mask, row, share, workers

MOST_CODES = 1 << 16
"""The most codes at one t for which there is a histogram: it stays in the processor's second cache."""
MOST = 2**31 - 1
"""What a place of a histogram can hold."""
_room = threading.local()
"""Of this thread: histograms for its helpers, all zero between two calls."""


def counts_natively(plan: Plan) -> bool:
    """The compiled loops can hold the whole numbers of this plan."""
    coding = next(coding for coding in plan.codings.values() if isinstance(coding, Coding))
    pairs = (plan.timesteps - coding.lowest_count + 1) * coding.classes
    return coding.levels <= 255 and plan.timesteps < 1 << 15 and pairs < 1 << native.SPAN_BITS and coding.span < 1 << 30


def _take_spare(size: int) -> npt.NDArray[np.int32]:
    """Zeros for a helper to count in, at least so many; whoever takes them gives them back as zeros, or not at all."""
    kept: list[npt.NDArray[np.int32]] = vars(_room).setdefault("kept", [])
    spare = kept.pop() if kept else np.empty(0, np.int32)
    return spare if len(spare) >= size else np.zeros(size, np.int32)


def _give_back(spare: npt.NDArray[np.int32]) -> None:
    vars(_room).setdefault("kept", []).append(spare)


@dataclass(frozen=True)
class Timestep:
    """What the loops of one timestep are given."""

    x: npt.NDArray[np.float32]
    spikes: npt.NDArray[np.float32]
    total: npt.NDArray[np.float32]
    pairs: npt.NDArray[Any]
    scale: npt.NDArray[np.float32]
    inverse: npt.NDArray[np.float32]
    neurons: int
    first: bool
    sums: npt.NDArray[np.int64]
    """(worker, sample, 3), or nothing."""
    threads: int
    """That share it."""
    most: int
    """The largest that n and k can be."""
    loudest: int
    """The largest magnitude of an output, as the loops have it."""


class Counted(ABC):
    """What is known of one t since it was last taken.

    Attributes:
        bins: int32, `width` places for each pair of n and class, and one for what is no code.
        errors: of each pair, in units of θ/(L·t).
    """

    def __init__(self, coding: Coding, width: int) -> None:
        self.coding, self._width = coding, width
        pairs = np.arange((coding.timestep - coding.lowest_count + 1) * coding.classes)
        self.bins = np.zeros(len(pairs) * width + 1, np.int32)
        n, of_class = np.divmod(pairs, coding.classes)
        self.errors = (n + coding.lowest_count) * coding.levels - of_class % (coding.levels + 1) * coding.timestep
        self._sizes = np.abs(self.errors)
        self._order = np.argsort(-self._sizes, kind="stable")

    @abstractmethod
    def add(self, step: Timestep) -> None:
        """Count one batch."""

    @abstractmethod
    def statistics(self) -> Statistics:
        """Of what was counted, which is then forgotten; without the largest error."""

    def place_of_larger(self, record: int, pairs: npt.NDArray[Any]) -> int:
        """Flat index of the first neuron whose error is the largest, if that is above the record, else -1."""
        pair = native.largest_error(self.bins, self._width, self._order, self._sizes, record)
        return -1 if pair < 0 else int(native.first_of(pairs, self._sizes == self._sizes[pair]))


class Histogram(Counted):
    """A histogram with a place for each code of a t."""

    def __init__(self, coding: Coding) -> None:
        super().__init__(coding, coding.span)

    def add(self, step: Timestep) -> None:
        """Count one batch."""
        coding, size = self.coding, len(self.bins)
        spares = [_take_spare(size) for _ in range(1, step.threads)]
        parts = [self.bins, *(spare[:size] for spare in spares)]

        def work(worker: int, begin: int, end: int) -> None:
            native.count(
                step.x, step.spikes, step.total, step.pairs, step.scale, step.inverse, coding.levels, coding.classes,
                coding.lowest_count, step.most, step.loudest, coding.limits, step.neurons, begin, end, step.first,
                parts[worker], step.sums[worker],
            )  # fmt: skip

        share(len(step.x), work, threads=step.threads)
        for part, spare in zip(parts[1:], spares, strict=True):
            self.bins += part
            part[:] = 0
            # Only now: what Ctrl-C left in one would be counted by the next tally.
            _give_back(spare)

    def statistics(self) -> Statistics:
        """Of what was counted, which is then forgotten; without the largest error."""
        codes = np.flatnonzero(self.bins[:-1])
        counted = count(self.coding.decode(codes, self.bins[codes].astype(np.int64)))
        self.bins[:] = 0
        return counted


class Sums(Counted):
    """The sums and small tables of a t whose codes are too many."""

    def __init__(self, coding: Coding) -> None:
        super().__init__(coding, SECOND_KEYS)
        self._local = np.zeros(len(SIGNS) * len(COMPARISONS) * (BINS + 1), np.int32)
        self._moments = np.zeros(len(PARTS), np.int64)
        self._products = np.zeros((len(PARTS), len(PARTS)), np.int64)
        t, lowest = coding.timestep, -coding.timestep if coding.unguarded else 0
        self._numbers = (coding.levels, t, coding.resolution, coding.start, lowest)

    def add(self, step: Timestep) -> None:
        """Count one batch."""
        coding = self.coding
        own: list[npt.NDArray[Any]] = [self.bins, self._local, self._moments, self._products]
        parts = [own, *([np.zeros_like(one) for one in own] for _ in range(1, step.threads))]

        def work(worker: int, begin: int, end: int) -> None:
            native.classify(
                step.x, step.spikes, step.total, step.pairs, step.scale, step.inverse, coding.levels, coding.classes,
                coding.lowest_count, step.most, step.loudest, coding.limits, step.neurons, begin, end, step.first,
                step.sums[worker], self._numbers, *parts[worker],
            )  # fmt: skip

        share(len(step.x), work, threads=step.threads)
        for part in parts[1:]:
            for whole, more in zip(own, part, strict=True):
                whole += more

    def statistics(self) -> Statistics:
        """Of what was counted, which is then forgotten; without the largest error.

        Raises:
            OverflowError: a sum would not fit in 64 bits.
        """
        used = (self.bins, self._local, self._moments, self._products)
        counted = from_totals(self.coding, *(values.astype(np.int64) for values in (self.bins[:-1], *used[1:])))
        for values in used:
            values[:] = 0
        return counted


class NativeLevels:
    """Gathers one layer over batches, in compiled loops; see `Tally`."""

    input_sum: Tensor

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._codings = {t: coding for t, coding in plan.codings.items() if isinstance(coding, Coding)}
        self._coding = coding = next(iter(self._codings.values()))
        pairs = (plan.timesteps - coding.lowest_count + 1) * coding.classes
        self._pair_type: Any = np.int16 if pairs < 1 << 15 else np.int32
        self._most = max(coding.levels, plan.timesteps)
        self._shape: torch.Size | None = None
        self._pairs = np.empty(0, self._pair_type)
        self._total = np.empty(0, np.float32)
        self._forget()

    def _forget(self) -> None:
        self._counted: dict[int, Counted] = {}
        self._before: dict[int, Statistics] = {}
        self._entries = 0
        self._largest: dict[int, Ints] = dict.fromkeys(self._codings, NO_ERROR)
        self._spikes_at = np.zeros(self.plan.timesteps, np.int64)
        self._per_neuron: Ints | None = None
        self._samples = GrowingArray((len(self.plan.per_sample), 5), np.int64)
        self._first_input: npt.NDArray[np.float32] | None = None

    def begin(self, first_sample: int, level: Tensor, silenced: Tensor | None = None) -> None:
        """Start a batch; see `Tally`."""
        if self._shape != level.shape[1:]:
            self._shape = level.shape[1:]
            self._neurons = math.prod(self._shape)
            self._scale = row(self._coding.scale(self.plan.threshold), self._shape)
            self._inverse = row(np.float32(1) / self.plan.spike_height, self._shape)
            self._theta = row(self.plan.threshold, self._shape)
            # A neuron that fires more often than T times at once would be refused at T; until then it might wrap.
            spike = 1.0 if len(self._inverse) > 1 else abs(float(self.plan.spike_height.item()))
            loudest = np.float32(min((self.plan.timesteps + 0.5) * spike, float(np.finfo(np.float32).max)))
            self._loudest = int(loudest.view(np.int32))
        size = level.numel()
        # Kept from batch to batch: large new arrays cost a page fault every few KiB.
        if len(self._total) != size:
            self._total, self._pairs = np.empty(size, np.float32), np.empty(size, self._pair_type)
        self.input_sum = torch.from_numpy(self._total).view(len(level), self._neurons)
        self._first, self._number = first_sample, len(level)
        self._silenced = flat_mask(silenced, level.shape)
        whole = flat(level if level.dtype == torch.uint8 else level.to(torch.uint8))
        self._threads = threads = workers(size)
        parts = np.zeros((threads, len(level), 2), np.int64)

        def work(worker: int, begin: int, end: int) -> None:
            native.start(
                whole, self._silenced, self._pairs, self._coding.levels, self._coding.classes,
                self._coding.lowest_count, self._neurons, begin, end, parts[worker],
            )  # fmt: skip

        share(size, work, threads=threads)
        self._sums = np.zeros((len(level), len(self.plan.per_sample), 5), np.int64)
        self._sums[:, :, 1::2] = parts.sum(0)[:, None]

    def step(self, t: int, x: Tensor, output: Tensor) -> None:
        """Add timestep t, from 1; see `Tally`."""
        coding, summed = self._codings.get(t), t in self.plan.per_sample
        inputs, spikes = flat(x), flat(output)
        if t == 1:
            self._note_first_inputs(x.shape[1] if x.ndim > 1 else 1, inputs, spikes)
        parts = np.zeros((self._threads, self._number if summed else 0, 3), np.int64)
        step = Timestep(
            inputs,
            spikes,
            self._total,
            self._pairs,
            self._scale,
            self._inverse,
            self._neurons,
            t == 1,
            parts,
            self._threads,
            self._most,
            self._loudest,
        )
        if coding is None:
            self._pass_by(t, step)
        else:
            self._count(t, coding, step)
        if summed:
            sums = self._sums_apart() if coding is None else parts.sum(0)
            self._sums[:, self.plan.per_sample.index(t), ::2] = sums

    def _pass_by(self, t: int, step: Timestep) -> None:
        def work(_worker: int, begin: int, end: int) -> tuple[int, bool]:
            told: tuple[int, bool] = native.pass_by(
                step.x, step.spikes, step.total, step.pairs, step.inverse, self._coding.classes, step.loudest,
                step.neurons, begin, end, step.first,
            )  # fmt: skip
            return told

        told = share(len(step.x), work, threads=step.threads)
        if any(beyond for _, beyond in told):
            self._refuse(step)
        self._spikes_at[t - 1] += sum(fired for fired, _ in told)

    @staticmethod
    def _refuse(step: Timestep) -> NoReturn:
        """Say why a neuron's code is none."""
        if not np.isfinite(step.spikes).all() or np.isnan(step.total).any():
            raise FloatingPointError(NOT_FINITE)
        raise TooManySpikes

    def _count(self, t: int, coding: Coding, step: Timestep) -> None:
        if t not in self._counted:
            self._counted[t] = Histogram(coding) if coding.size <= MOST_CODES else Sums(coding)
        counted = self._counted[t]
        counted.add(step)
        if counted.bins[-1]:
            self._refuse(step)
        place = counted.place_of_larger(abs(int(self._largest[t][0])), step.pairs)
        if place >= 0:
            error, (sample, neuron) = counted.errors[step.pairs[place]], divmod(place, self._neurons)
            self._largest[t] = np.array([error, self._first + sample, neuron], np.int64)

    def _sums_apart(self) -> Ints:
        """Σn, Σn² and Σnk of each sample at a t of which nothing else is counted."""
        sums = np.zeros((self._number, 3), np.int64)
        native.sum_samples(
            self._pairs, self._coding.levels, self._coding.classes, self._coding.lowest_count,
            self._most, self._neurons, 0,
            len(self._pairs), sums,
        )  # fmt: skip
        return sums

    def _note_first_inputs(self, channels: int, x: npt.NDArray[np.float32], spikes: npt.NDArray[np.float32]) -> None:
        threads = min(self._threads, self._number)
        found = np.empty((threads, 2, channels, native.LANES), np.float32)
        found[:, 0], found[:, 1] = np.inf, -np.inf

        def work(worker: int, begin: int, end: int) -> None:
            native.first_inputs(x, spikes, self._silenced, channels, self._neurons, begin, end, found[worker])

        share(self._number, work, threads=threads)
        here = np.stack([found[:, 0].min((0, 2)), found[:, 1].max((0, 2))])
        here[~np.isfinite(here)] = np.nan
        if self._first_input is not None:
            before = self._first_input
            here = np.stack([np.fmin(before[0], here[0]), np.fmax(before[1], here[1])])
        self._first_input = here

    def spike_count(self) -> Tensor:
        """n so far in this batch, int32, shape (sample, neuron)."""
        n = np.empty(len(self._pairs), np.int32)
        self._spikes_per_neuron(n)
        return torch.from_numpy(n).view(self._number, self._neurons)

    def _spikes_per_neuron(self, out: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Σ n of this batch; n itself goes into `out`, if that has room."""
        per_neuron = np.empty(self._neurons, np.int32)

        def work(_worker: int, begin: int, end: int) -> None:
            native.count_spikes(
                self._pairs, self._coding.classes, self._coding.lowest_count, self._neurons, self._number, begin, end,
                out, per_neuron,
            )  # fmt: skip

        share(self._neurons, work, threads=self._threads)
        return per_neuron

    def departure(
        self, shown: Tensor, silenced: Tensor | None, initial_fraction: float, slack: float
    ) -> tuple[float, float]:
        """How far the batch is from the conservation law; see `Tally`."""
        potential, mask = flat(shown), flat_mask(silenced, shown.shape)

        def work(_worker: int, begin: int, end: int) -> tuple[float, float]:
            found: tuple[float, float] = native.depart(
                potential, self._total, self._pairs, self._theta, mask, initial_fraction, slack,
                self._coding.classes, self._coding.lowest_count, self._neurons, begin, end,
            )  # fmt: skip
            return found

        found = share(len(potential), work, threads=self._threads)
        return max(one for one, _ in found), max(more for _, more in found)

    def fault(self) -> None:
        """Nothing: `step` has refused what is wrong."""

    def end(self) -> None:
        """End the batch."""
        per_neuron = self._spikes_per_neuron(np.empty(0, np.int32))
        self._per_neuron = per_neuron + (np.int64(0) if self._per_neuron is None else self._per_neuron)
        self._samples.extend(self._sums)
        self._entries += len(self._pairs)
        # One more batch like this might not fit.
        if self._entries + len(self._pairs) > min(MOST, most_entries(self._coding)):
            self._set_down()

    def _set_down(self) -> None:
        """Make statistics of what was counted, so that its places are free again."""
        add_up(self._before, {t: counted.statistics() for t, counted in self._counted.items()})
        self._entries = 0

    @property
    def touched(self) -> bool:
        """True if a batch has ended since the last `take`."""
        return self._per_neuron is not None

    def take(self) -> LayerStatistics:
        """What the batches since the last call have added up to; starts anew."""
        assert self._shape is not None, "take() before the first batch"
        assert self._per_neuron is not None, "take() before the first batch has ended"
        assert self._first_input is not None
        self._set_down()
        statistics = {t: replace(self._before[t], largest=self._largest[t]) for t in self._codings}
        gathered = LayerStatistics(
            statistics,
            spikes_at_every(self._spikes_at, statistics, self._coding.lowest_count),
            self._per_neuron.reshape(self._shape),
            self._samples.whole(),
            self._first_input,
        )
        self._forget()
        return gathered
