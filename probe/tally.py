"""A layer's statistics, gathered timestep by timestep while the SNN runs, in cache-sized pieces on all cores.

What it costs is memory traffic, so per neuron only two numbers live from one timestep to the next: Σx, and one
float32 that holds n and k together (exact: whole numbers below 2**24). Everything else is made in a piece of
32,768 neurons, which stays in the cache and below the size from which torch would start threads of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe.attribution import NO_ERROR, Coding, Ints, Statistics, count

PIECE = 32_768
EXACT = 1 << 24
"""float32 holds every whole number below this."""

Piece = tuple[slice, slice]


def pieces_of(samples: int, neurons: int) -> list[Piece]:
    """(samples, neurons) cut into contiguous pieces of at most `PIECE`: whole samples, or parts of one."""
    if neurons >= PIECE:
        columns = [slice(start, min(start + PIECE, neurons)) for start in range(0, neurons, PIECE)]
        return [(slice(row, row + 1), column) for row in range(samples) for column in columns]
    rows = PIECE // neurons
    return [(slice(row, min(row + rows, samples)), slice(0, neurons)) for row in range(0, samples, rows)]


class Workers:
    """Threads that share the pieces of a layer; torch releases the interpreter lock inside its operations."""

    def __init__(self, threads: int) -> None:
        self.threads = max(1, threads)
        self._pool = ThreadPoolExecutor(self.threads, "probe-tally") if self.threads > 1 else None

    def run(self, work: Callable[[int, Sequence[Piece]], None], pieces: Sequence[Piece]) -> None:
        """Call `work(thread, its pieces)` for each thread and wait; an exception in one is raised here."""
        if self._pool is None or len(pieces) < 2 * self.threads:
            work(0, pieces)
            return
        # Each thread takes one run of neighbouring pieces: the order of sums is fixed and the same at every step.
        bounds = [len(pieces) * i // self.threads for i in range(self.threads + 1)]
        # inference mode is a property of the thread: without it every operation would record a graph node.
        guarded = torch.inference_mode()(work)
        waiting = [self._pool.submit(guarded, i, pieces[bounds[i] : bounds[i + 1]]) for i in range(self.threads)]
        for future in waiting:
            future.result()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


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

    @property
    def classes(self) -> int:
        """Of every coding: they differ in t alone."""
        return next(iter(self.codings.values())).classes


@dataclass(frozen=True)
class Gathered:
    """One layer's statistics over some samples.

    Attributes:
        statistics: grid t -> its statistics.
        spikes_at: int64 (timestep,): Σ s(t) over samples and neurons, for every t.
        spikes_per_neuron: int64 (neuron,): n at T, summed over samples.
        per_sample: int64 (sample, grid t, 5): Σn, Σk, Σn², Σk², Σnk over the neurons of each sample.
    """

    statistics: dict[int, Statistics]
    spikes_at: Ints
    spikes_per_neuron: Ints
    per_sample: Ints


class LayerTally:
    """Gathers one layer over batches: `begin` with the ANN's levels, `step` at each t, `end`; `take` what was gathered.

    Attributes:
        input_sum: Σx so far in this batch, float32 (sample, neuron), summed in the order of t.
    """

    input_sum: Tensor
    _base: Tensor

    def __init__(self, plan: Plan, workers: Workers) -> None:
        self.plan, self._workers = plan, workers
        self._threshold: Tensor | None = None
        self._forget()

    def _forget(self) -> None:
        threads = self._workers.threads
        self._dense: list[dict[int, Tensor]] = [{} for _ in range(threads)]
        self._sparse: list[dict[int, list[tuple[Ints, Ints]]]] = [{} for _ in range(threads)]
        self._largest: dict[int, Ints] = {t: NO_ERROR for t in self.plan.codings}
        self._spikes_at = torch.zeros(threads, self.plan.timesteps, dtype=torch.float64)
        self._per_neuron: Tensor | None = None
        self._samples: list[Tensor] = []
        self._first = 0

    def begin(self, first_sample: int, level: Tensor, silenced: Tensor | None = None) -> None:
        """Start a batch.

        Args:
            first_sample: the recording's index of its first sample.
            level: k, whole numbers in any dtype, shape (sample, *neuron).
            silenced: SRP's mask, same shape; None where the plan's codings have no `silencing`.
        """
        self._first = first_sample
        base = level.reshape(len(level), -1).to(torch.float32)
        if silenced is not None:
            base = base.add(silenced.reshape(base.shape), alpha=self._levels + 1)
        self._base = base.clone() if base.data_ptr() == level.data_ptr() else base
        self.input_sum = torch.zeros_like(base)
        samples, neurons = base.shape
        whole = base.device.type != "cpu"
        self._pieces = [(slice(0, samples), slice(0, neurons))] if whole else pieces_of(samples, neurons)
        if self._threshold is None:
            self._prepare(level.shape[1:], base.device)
        self._sums = torch.zeros(samples, len(self.plan.per_sample), 5, dtype=torch.float64, device=base.device)

    @property
    def _levels(self) -> int:
        return next(iter(self.plan.codings.values())).levels

    def _row(self, values: npt.NDArray[np.float32], shape: Sequence[int], device: torch.device) -> Tensor:
        """`values`, broadcastable to (sample, *neuron), as one number or one row of neurons."""
        if values.size == 1:
            return torch.tensor(values.reshape(()).item(), dtype=torch.float32, device=device)
        row = np.broadcast_to(values, (1, *shape)).reshape(1, -1)
        return torch.from_numpy(np.ascontiguousarray(row)).to(device)

    def _prepare(self, shape: Sequence[int], device: torch.device) -> None:
        self._threshold = self._row(self.plan.threshold, shape, device)
        self._inverse = 1 / self._threshold
        self._scale = {t: self._row(c.scale(self.plan.threshold), shape, device) for t, c in self.plan.codings.items()}
        size = PIECE if device.type == "cpu" else 0
        self._spike = [torch.empty(size, device=device) for _ in range(self._workers.threads)]
        self._fine = [torch.empty(size, device=device) for _ in range(self._workers.threads)]
        self._code = [torch.empty(size, dtype=torch.int32, device=device) for _ in range(self._workers.threads)]
        self._ones = torch.ones(size, dtype=torch.int32, device=device)
        self._spikes_at = self._spikes_at.to(device)

    def step(self, t: int, x: Tensor, output: Tensor) -> None:
        """Add timestep t, from 1.

        Args:
            x: the layer's input x(t), shape (sample, *neuron).
            output: its output θ·s(t), same shape.
        """
        x, output = x.reshape(self._base.shape), output.reshape(self._base.shape)
        coding = self.plan.codings.get(t)
        slot = self.plan.per_sample.index(t) if t in self.plan.per_sample else None

        def work(thread: int, pieces: Sequence[Piece]) -> None:
            for piece in pieces:
                total, base = self.input_sum[piece], self._base[piece]
                total += x[piece]
                spike = self._buffer(self._spike, thread, base)
                torch.mul(output[piece], self._of(self._inverse, piece), out=spike).round_()
                self._spikes_at[thread, t - 1] += spike.sum()
                base.add_(spike, alpha=self.plan.classes)
                if coding is not None:
                    fine = self._buffer(self._fine, thread, base)
                    torch.mul(total, self._of(self._scale[t], piece), out=fine).clamp_(*coding.limits).floor_()
                    self._count(thread, t, coding, fine, base)
                if slot is not None:
                    self._sum_samples(slot, piece, base, spike)

        self._workers.run(work, self._pieces)
        if coding is not None:
            self._find_largest(t, coding)

    @staticmethod
    def _of(row: Tensor, piece: Piece) -> Tensor:
        return row if row.ndim == 0 else row[:, piece[1]]

    @staticmethod
    def _buffer(buffers: list[Tensor], thread: int, like: Tensor) -> Tensor:
        """A thread's own memory in the shape of a piece, so that no piece costs a new page of memory."""
        if buffers[thread].numel() < like.numel():
            buffers[thread] = buffers[thread].new_empty(like.numel())
        return buffers[thread][: like.numel()].view(like.shape)

    def _count(self, thread: int, t: int, coding: Coding, fine: Tensor, base: Tensor) -> None:
        """Add one piece, given ⌊R·u⌋ and n · classes + class, to the thread's histogram."""
        if not coding.dense:
            codes = fine.to(torch.int64).mul_(coding.stride).add_(base.to(torch.int64)).add_(coding.offset)
            found, counts = torch.unique(codes, return_counts=True)
            parts = self._sparse[thread].setdefault(t, [])
            parts.append((found.cpu().numpy(), counts.cpu().numpy()))
            if len(parts) >= 64:
                parts[:] = [_merge(parts)]
            return
        code = self._buffer(self._code, thread, base)
        code.copy_(fine.mul_(coding.stride).add_(base).add_(coding.offset))
        bins = self._dense[thread].get(t)
        if bins is None:
            bins = self._dense[thread][t] = torch.zeros(coding.size, dtype=torch.int32, device=base.device)
        if len(self._ones) < code.numel():
            self._ones = self._ones.new_ones(code.numel())
        bins.index_add_(0, code.view(-1), self._ones[: code.numel()])

    def _sum_samples(self, slot: int, piece: Piece, base: Tensor, n: Tensor) -> None:
        """Add Σn, Σk, Σn², Σk², Σnk of one piece to its samples; `n` is a buffer to use."""
        classes, levels = self.plan.classes, self._levels
        torch.add(base, 0.5, out=n).mul_(1 / classes).floor_()
        k = torch.sub(base, n, alpha=classes)
        if classes > levels + 1:
            k.sub_((k > levels).to(k.dtype), alpha=levels + 1)
        if base.shape[1] * max(levels, self.plan.timesteps) ** 2 >= EXACT:
            n, k = n.double(), k.double()
        sums = (n.sum(1), k.sum(1), torch.linalg.vecdot(n, n), torch.linalg.vecdot(k, k), torch.linalg.vecdot(n, k))
        self._sums[piece[0], slot] += torch.stack(sums, 1)

    def _find_largest(self, t: int, coding: Coding) -> None:
        """Look up the largest error among what has occurred; seek its place only where it is a new record."""
        held: Ints = np.zeros(0, np.int64)
        for dense, sparse in zip(self._dense, self._sparse, strict=True):
            if t in dense:
                occurred = dense[t].view(-1, coding.stride).amax(0)
                held = np.union1d(held, occurred.nonzero().ravel().cpu().numpy())
            for found, _ in sparse.get(t, ()):
                held = np.union1d(held, found % coding.stride)
        n, of_class = np.divmod(held, coding.classes)
        total = (n + coding.lowest_count) * coding.levels - of_class % (coding.levels + 1) * t
        worst = int(np.abs(total).max(initial=0))
        if worst <= abs(int(self._largest[t][0])):
            return
        wanted = torch.from_numpy(held[np.abs(total) == worst] + coding.lowest_count * coding.classes)
        places = torch.isin(self._base, wanted.to(self._base)).view(-1).nonzero()
        sample, neuron = divmod(int(places[0]), self._base.shape[1])
        code = int(self._base.view(-1)[places[0]])
        value = code // coding.classes * coding.levels - code % coding.classes % (coding.levels + 1) * t
        self._largest[t] = np.array([value, self._first + sample, neuron], np.int64)

    def spike_count(self) -> Tensor:
        """n so far in this batch, int32, shape (sample, neuron)."""
        return torch.div(self._base, self.plan.classes, rounding_mode="floor").to(torch.int32)

    def end(self) -> Tensor:
        """End the batch, and return n at T, int32, shape (sample, neuron)."""
        n = self.spike_count()
        per_neuron = n.sum(0)
        self._per_neuron = per_neuron if self._per_neuron is None else self._per_neuron + per_neuron
        self._samples.append(self._sums)
        return n

    def take(self) -> Gathered:
        """What the batches since the last call have added up to; starts anew."""
        statistics = {}
        for t, coding in self.plan.codings.items():
            found: list[tuple[Ints, Ints]] = [pair for sparse in self._sparse for pair in sparse.get(t, ())]
            for dense in self._dense:
                if t in dense:
                    bins = dense[t].cpu().numpy()
                    where = np.flatnonzero(bins)
                    found.append((where, bins[where].astype(np.int64)))
            statistics[t] = count(coding.decode(*_merge(found)), self._largest[t])
        nothing = torch.zeros(0, len(self.plan.per_sample), 5)
        gathered = Gathered(
            statistics,
            self._spikes_at.sum(0).cpu().numpy().astype(np.int64),
            np.zeros(0, np.int64) if self._per_neuron is None else self._per_neuron.cpu().numpy().astype(np.int64),
            torch.cat([samples.cpu() for samples in self._samples] or [nothing]).numpy().astype(np.int64),
        )
        self._forget()
        self._threshold = None
        return gathered


def _merge(parts: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    """Histograms as (codes, counts) joined into one, codes distinct and in increasing order."""
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    codes = np.concatenate([codes for codes, _ in parts])
    counts = np.concatenate([counts for _, counts in parts])
    found, place = np.unique(codes, return_inverse=True)
    merged = np.zeros(len(found), np.int64)
    np.add.at(merged, place, counts)
    return found, merged
