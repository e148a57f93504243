"""A layer's statistics, gathered timestep by timestep while the SNN runs.

What this costs is memory traffic and one histogram entry a neuron and timestep. So only two numbers a neuron live
from one timestep to the next: Σx, and one float32 that holds n, the level k and a lane together as a whole number.
All else is made in pieces that stay in the processor's cache. Neighbouring neurons count in different lanes: most
neurons of a layer have the same code, and adding to one place again and again waits for the addition before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe.attribution import DENSE, NO_ERROR, Coding, Ints, LayerStatistics, Statistics, count

PIECE = 131_072
"""Neurons a piece: small enough for the cache, large enough that the cost of a call does not count."""
LANES = 4
EXACT = 1 << 24
"""float32 holds every whole number below this."""


@dataclass(frozen=True)
class Plan:
    """What a layer's tally is to gather.

    Attributes:
        codings: grid t -> its coding.
        per_sample: the t of the grid at which sums per sample are kept too.
        timesteps: T.
        threshold: θ, float32, broadcastable to (sample, *neuron).
    """

    codings: dict[int, Coding]
    per_sample: tuple[int, ...]
    timesteps: int
    threshold: npt.NDArray[np.float32]


class LayerTally:
    """Gathers one layer over batches: `begin` with the ANN's levels, `step` at each t, `end`; `take` what was gathered.

    Attributes:
        input_sum: Σx so far in this batch, float32 (sample, neuron), summed in the order of t.
    """

    input_sum: Tensor
    _base: Tensor
    """A dense layer's (n · classes + class) · lanes · span + lane · span - limits[0]; else n · classes + class."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._coding = next(iter(plan.codings.values()))
        largest = max(coding.size for coding in plan.codings.values())
        self._dense = largest <= DENSE
        self._lanes = LANES if largest * LANES <= DENSE else 1
        self._weight = self._coding.classes * (self._lanes * self._coding.span if self._dense else 1)
        self._like: tuple[torch.Size, torch.device] | None = None
        self._forget()

    def _forget(self) -> None:
        self._bins: dict[int, Tensor] = {}
        self._found: dict[int, list[tuple[Ints, Ints]]] = {}
        self._largest: dict[int, Ints] = dict.fromkeys(self.plan.codings, NO_ERROR)
        self._spikes_at: list[Tensor] = []
        self._per_neuron: list[Tensor] = []
        self._samples: list[Tensor] = []
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
        self._levels = level.reshape(len(level), -1).to(torch.float32)
        base = self._levels.clone()
        if silenced is not None:
            base.add_(silenced.reshape(base.shape), alpha=self._coding.levels + 1)
        if self._dense:
            lanes = torch.arange(base.shape[1], device=base.device).remainder_(self._lanes)
            base.mul_(self._lanes).add_(lanes).mul_(self._coding.span)
            base.sub_(self._coding.limits[0] + self._coding.lowest_count * self._weight)
        self._base, self.input_sum = base, torch.zeros_like(base)
        self._step_sums = torch.zeros(self.plan.timesteps, dtype=torch.float64, device=base.device)
        self._sums = torch.zeros(len(base), len(self.plan.per_sample), 5, dtype=torch.float64, device=base.device)
        self._pieces = self._cut(base)

    def _prepare(self, shape: torch.Size, device: torch.device) -> None:
        def row(values: npt.NDArray[np.float32]) -> Tensor:
            """One number, or one row with a number for each neuron."""
            if values.size == 1:
                return torch.tensor(values.item(), dtype=torch.float32, device=device)
            spread = np.broadcast_to(values, (1, *shape)).reshape(-1)
            return torch.from_numpy(np.ascontiguousarray(spread)).to(device)

        self._like = (shape, device)
        threshold = self.plan.threshold
        self._scale = row(self._coding.scale(threshold))
        self._inverse = row(np.float32(1) / threshold)
        self._alpha = row(np.float32(self._weight) / threshold)
        self._fine = self._code = torch.empty(0, device=device)

    def _cut(self, base: Tensor) -> list[tuple[slice, slice]]:
        """(sample, neuron) in contiguous pieces: whole samples, or parts of one; on an accelerator in one."""
        samples, neurons = base.shape
        size = PIECE if base.device.type == "cpu" else base.numel()
        rows, columns = max(1, size // neurons), min(size, neurons)
        if self._fine.numel() < rows * columns:
            self._fine = torch.empty(rows * columns, device=base.device)
        if self._code.shape != base.shape:
            self._code = torch.empty(base.shape, dtype=torch.int32 if self._dense else torch.int64, device=base.device)
        return [
            (slice(row, min(row + rows, samples)), slice(column, min(column + columns, neurons)))
            for row in range(0, samples, rows)
            for column in range(0, neurons, columns)
        ]

    def step(self, t: int, x: Tensor, output: Tensor) -> None:
        """Add timestep t, from 1.

        Args:
            x: the layer's input x(t), shape (sample, *neuron).
            output: its output θ·s(t), same shape.
        """
        if t == 1:
            self._note_first_input(x, output)
        x, output = x.reshape(self._base.shape), output.reshape(self._base.shape)
        coding = self.plan.codings.get(t)
        slot = self.plan.per_sample.index(t) if t in self.plan.per_sample else None
        for piece in self._pieces:
            total, base, spike = self.input_sum[piece], self._base[piece], output[piece]
            total.add_(x[piece])
            if self._alpha.ndim:
                base.addcmul_(spike, self._alpha[piece[1]])
            else:
                base.add_(spike, alpha=self._alpha.item())
            # θ·(weight/θ) is not exactly the weight; rounded at once, the sum is whole again.
            base.round_()
            buffer = self._fine[: base.numel()].view(base.shape)
            if coding is None:
                self._step_sums[t - 1] += torch.mul(spike, self._of(self._inverse, piece), out=buffer).round_().sum()
            else:
                fine = torch.mul(total, self._of(self._scale, piece), out=buffer).clamp_(*coding.limits).floor_()
                self._encode(coding, fine, base, self._code[piece])
            if slot is not None:
                self._sum_samples(slot, piece, base, buffer)
        if coding is not None:
            self._count(t, coding)
            self._find_largest(t, coding)

    def _note_first_input(self, x: Tensor, output: Tensor) -> None:
        """Per channel, the smallest input that fired at once and the largest that did not."""
        fired = output > 0
        across = [axis for axis in range(x.ndim) if axis != 1]
        smallest = torch.where(fired, x, torch.inf).amin(across)
        largest = torch.where(fired, -torch.inf, x).amax(across)
        here = torch.stack([smallest, largest])
        here = torch.where(here.isinf(), torch.nan, here)
        before = self._first_input.to(here.device)
        self._first_input = torch.stack([torch.fmin(before[0], here[0]), torch.fmax(before[1], here[1])])

    @staticmethod
    def _of(row: Tensor, piece: tuple[slice, slice]) -> Tensor:
        return row[piece[1]] if row.ndim else row

    def _encode(self, coding: Coding, fine: Tensor, base: Tensor, code: Tensor) -> None:
        """Write the codes of one piece, given its ⌊R·u⌋ and its base; overwrites `fine`."""
        if self._dense:
            code.copy_(fine.add_(base))
            return
        code.copy_(base).sub_(coding.lowest_count * coding.classes).mul_(coding.span)
        code.add_(fine.to(torch.int64)).sub_(coding.limits[0])

    def _count(self, t: int, coding: Coding) -> None:
        """Add the codes of this timestep to its histogram."""
        if self._dense:
            # NaN, the one number that no clamp catches, becomes a code far below 0.
            if int(self._code.min()) < 0:
                raise FloatingPointError("NaN in a layer's input")
            bins = torch.bincount(self._code.view(-1), minlength=coding.size * self._lanes)
            self._bins[t] = self._bins[t].add_(bins) if t in self._bins else bins
            return
        codes, counts = torch.unique(self._code, return_counts=True)
        found = self._found.setdefault(t, [])
        found.append((codes.cpu().numpy(), counts.cpu().numpy()))
        if len(found) >= 64:
            found[:] = [_merge(found)]

    def _pairs_of(self, base: Tensor, out: Tensor) -> Tensor:
        """n - lowest_count, as floats, from what `_base` holds; the offset of its limits lies below one weight."""
        lowest = 0 if self._dense else -self._coding.lowest_count
        return torch.mul(torch.add(base, lowest * self._weight + 0.5, out=out), 1 / self._weight, out=out).floor_()

    def _sum_samples(self, slot: int, piece: tuple[slice, slice], base: Tensor, buffer: Tensor) -> None:
        """Add Σn, Σk, Σn², Σk², Σnk of one piece to its samples."""
        n, k = self._pairs_of(base, buffer).add_(self._coding.lowest_count), self._levels[piece]
        if base.shape[1] * max(self._coding.levels, self.plan.timesteps) ** 2 >= EXACT:
            n, k = n.double(), k.double()
        dot = torch.linalg.vecdot
        self._sums[piece[0], slot] += torch.stack((n.sum(1), k.sum(1), dot(n, n), dot(k, k), dot(n, k)), 1)

    def _find_largest(self, t: int, coding: Coding) -> None:
        """Look up the largest error among what has occurred; seek its place only where it is a new record."""
        if self._dense:
            pairs: Ints = self._bins[t].view(-1, self._lanes * coding.span).amax(1).nonzero().view(-1).cpu().numpy()
        else:
            pairs = np.unique(np.concatenate([codes // coding.span for codes, _ in self._found[t]]))
        n, of_class = np.divmod(pairs, coding.classes)
        total = (n + coding.lowest_count) * coding.levels - of_class % (coding.levels + 1) * t
        worst = int(np.abs(total).max(initial=0))
        if worst <= abs(int(self._largest[t][0])):
            return
        here = self.spike_count().to(torch.int64) * coding.levels - self._levels.to(torch.int64) * t
        place = int((here.abs() == worst).view(-1).nonzero()[0])
        sample, neuron = divmod(place, here.shape[1])
        self._largest[t] = np.array([int(here.view(-1)[place]), self._first + sample, neuron], np.int64)

    def spike_count(self) -> Tensor:
        """n so far in this batch, int32, shape (sample, neuron)."""
        return self._pairs_of(self._base, torch.empty_like(self._base)).to(torch.int32) + self._coding.lowest_count

    def end(self) -> Tensor:
        """End the batch, and return n at T, int32, shape (sample, neuron)."""
        n = self.spike_count()
        self._per_neuron.append(n.sum(0))
        self._samples.append(self._sums)
        self._spikes_at.append(self._step_sums)
        return n

    @property
    def touched(self) -> bool:
        """True if a batch has ended since the last `take`."""
        return bool(self._per_neuron)

    def take(self) -> LayerStatistics:
        """What the batches since the last call have added up to; starts anew."""
        assert self._like is not None, "take() before the first batch"
        statistics = {}
        for t, coding in self.plan.codings.items():
            if t in self._bins:
                lanes = self._bins[t].view(-1, self._lanes, coding.span)
                bins = lanes.sum(1).view(-1).cpu().numpy()
                codes = np.flatnonzero(bins)
                rows = coding.decode(codes, bins[codes])
            else:
                rows = coding.decode(*_merge(self._found.get(t, [])))
            statistics[t] = count(rows, self._largest[t])
        gathered = LayerStatistics(
            statistics,
            self._spikes_at_every(statistics),
            torch.stack(self._per_neuron).sum(0).view(self._like[0]).cpu().numpy(),
            torch.cat(self._samples).cpu().numpy().astype(np.int64),
            self._first_input.cpu().numpy(),
        )
        self._forget()
        return gathered

    def _spikes_at_every(self, statistics: dict[int, Statistics]) -> Ints:
        """Σ s(t) for every t: from the histograms where those of t and t - 1 are there, else from what was summed."""
        spikes = torch.stack(self._spikes_at).sum(0).cpu().numpy().astype(np.int64)
        counted = 0
        values = np.arange(self.plan.timesteps - self._coding.lowest_count + 1) + self._coding.lowest_count
        for t in range(1, self.plan.timesteps + 1):
            if t in statistics:
                spikes[t - 1] = int(statistics[t].joint.sum(0) @ values) - counted
            counted += int(spikes[t - 1])
        return spikes


def _merge(parts: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    """Histograms as (codes, counts) joined into one, codes distinct and in increasing order."""
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    found, place = np.unique(np.concatenate([codes for codes, _ in parts]), return_inverse=True)
    merged = np.zeros(len(found), np.int64)
    np.add.at(merged, place, np.concatenate([counts for _, counts in parts]))
    return found, merged
