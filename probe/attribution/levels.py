"""A layer whose ANN is QCFS: every neuron is a code of whole numbers, and all sums of codes are exact."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from probe.attribution.common import (
    COMPARISONS,
    LEVEL_TOLERANCE,
    NO_ERROR,
    RESIDUAL_BINS_PER_THRESHOLD,
    RESIDUAL_LIMIT,
    RESIDUALS,
    SIGNS,
    TOO_LARGE,
    Floats,
    Ints,
    Statistics,
    comparison,
)

DENSE = 1_500_000
"""The most codes for which a histogram has a place for each: SRP with L = 8 has 1.42 million at T = 64."""


class NotWhole(ValueError):
    """An ANN output is no whole number of levels; `worst` is the largest distance of a·L/θ from one."""

    def __init__(self, worst: float) -> None:
        self.worst = worst
        super().__init__(f"a·L/θ is up to {worst:.3g} away from a whole number")


@dataclass(frozen=True)
class Coding:
    """How a neuron's whole numbers at one t become one code, and back.

    A code is ``((n - lowest_count) · classes + class) · span + ⌊R·u⌋ - limits[0]``, with class = k, or k + L + 1
    for a neuron that SRP's mask silences. All codings of one run differ only in `timestep`.

    Attributes:
        levels: L of the ANN's activation.
        timestep: t, from 1.
        timesteps: T.
        initial_potential: v(0) in units of θ, one number for the layer.
        unguarded: negative spikes may take the net count below 0 (then n_even is clipped to [-t, t]).
        silencing: some neurons may be silenced by SRP's mask.
    """

    levels: int
    timestep: int
    timesteps: int
    initial_potential: float = 0.5
    unguarded: bool = False
    silencing: bool = False

    @cached_property
    def _initial(self) -> Fraction:
        # Where this is not v(0) itself, `why_not_even` says so and what rests on it is not shown.
        return Fraction(self.initial_potential).limit_denominator(1000)

    @cached_property
    def resolution(self) -> int:
        """R: bins of u per threshold, so that the edges of n_even, n_half, q_L and the residual bins are whole."""
        return math.lcm(2 * self.levels, self._initial.denominator, RESIDUAL_BINS_PER_THRESHOLD)

    @property
    def start(self) -> int:
        """v(0) in units of θ/R."""
        return int(self._initial * self.resolution)

    @property
    def lowest_count(self) -> int:
        """The smallest n that a neuron can reach in the whole run."""
        return -self.timesteps if self.unguarded else 0

    @cached_property
    def limits(self) -> tuple[int, int]:
        """The smallest and largest ⌊R·u⌋ told apart; beyond, every statistic is the same."""
        margin = RESIDUAL_LIMIT + 1 + math.ceil(abs(self._initial))
        return (self.lowest_count - margin) * self.resolution, (self.timesteps + margin) * self.resolution

    @property
    def span(self) -> int:
        """Codes per pair of n and class."""
        return self.limits[1] - self.limits[0] + 1

    @property
    def classes(self) -> int:
        """Pairs per value of n."""
        return (self.levels + 1) * (2 if self.silencing else 1)

    @property
    def size(self) -> int:
        """One more than the largest code."""
        return (self.timestep - self.lowest_count + 1) * self.classes * self.span

    @property
    def dense(self) -> bool:
        """True where a histogram has a place for each code; above, only the codes that occur are kept."""
        return self.size <= DENSE

    def scale(self, threshold: Floats) -> Floats:
        """R/θ in float32: what Σx is multiplied with, here and on every device, so that all round alike."""
        scale: Floats = np.float32(self.resolution) / np.asarray(threshold, np.float32)
        return scale

    def encode(
        self,
        level: npt.NDArray[Any],
        count: npt.NDArray[Any],
        input_sum: Floats,
        threshold: Floats,
        silenced: npt.NDArray[np.bool_] | None = None,
    ) -> Ints:
        """The code of each neuron; all arrays have one shape, but θ and the mask may broadcast.

        Args:
            level: k, whole numbers.
            count: n, whole numbers.
            input_sum: Σx up to t, float32.
            threshold: θ, float32.
            silenced: SRP's mask, for a coding with `silencing`.
        """
        fine = np.floor(np.clip(input_sum * self.scale(threshold), *self.limits)).astype(np.int64) - self.limits[0]
        of_class = level.astype(np.int64)
        if silenced is not None:
            of_class = of_class + (self.levels + 1) * silenced
        codes: Ints = ((count.astype(np.int64) - self.lowest_count) * self.classes + of_class) * self.span + fine
        return codes

    def statistics(
        self,
        level: npt.NDArray[Any],
        count: npt.NDArray[Any],
        input_sum: Floats,
        threshold: Floats,
        silenced: npt.NDArray[np.bool_] | None = None,
        first_sample: int = 0,
    ) -> Statistics:
        """The statistics of some samples; arrays as for `encode`, shape (sample, *neuron)."""
        return statistics_of(self.encode(level, count, input_sum, threshold, silenced), self, first_sample)

    def offsets(self, statistics: Statistics) -> dict[int, int]:
        """How many neurons have each offset, see `offset_spikes`."""
        return offset_spikes(statistics.joint, self.levels, self.timestep, self.lowest_count)

    def moment(self, statistics: Statistics, term: int) -> float:
        """Σ of a term of `TERMS` over all neurons, in units of θ."""
        return int(statistics.moments[term]) / (self.levels * self.timestep)

    def product(self, statistics: Statistics, one: int, other: int) -> float:
        """Σ of the product of two terms, in units of θ²."""
        return int(statistics.products[one, other]) / (self.levels * self.timestep) ** 2

    def error(self, value: int) -> float:
        """The first number of `largest`, in units of θ."""
        return value / (self.levels * self.timestep)

    def points(self, statistics: Statistics) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Ints]:
        """a and φ in units of θ, and how many neurons have each pair."""
        k, n = np.nonzero(statistics.joint)
        return k / self.levels, (n + self.lowest_count) / self.timestep, statistics.joint[k, n]

    def decode(self, codes: Ints, counts: Ints) -> Rows:
        """The whole numbers behind some codes, and how many neurons have each."""
        base, fine = np.divmod(codes, self.span)
        n, of_class = np.divmod(base, self.classes)
        silenced, k = np.divmod(of_class, self.levels + 1)
        fine, n = fine + self.limits[0], n + self.lowest_count
        t, resolution = self.timestep, self.resolution
        k_mean = (2 * self.levels * fine + resolution * t) // (2 * resolution * t)
        return Rows(
            coding=self,
            k=k,
            n=n,
            n_even=np.clip((fine + self.start) // resolution, -t if self.unguarded else 0, t),
            n_half=np.clip((fine + resolution // 2) // resolution, 0, t),
            k_mean=np.clip(k_mean, 0, self.levels),
            residual=fine + self.start - n * resolution,
            silenced=silenced.astype(bool),
            counts=counts,
        )


def levels_of(activation: Floats, threshold: Floats, levels: int) -> Ints:
    """k = rint(a·L/θ) of each ANN output, the level it stands on.

    Args:
        activation: a, any shape.
        threshold: θ, broadcastable to it.
        levels: L.

    Raises:
        NotWhole: some a·L/θ is more than 1e-3 away from a whole number, negative or above L.
    """
    scaled = activation * (np.float32(levels) / np.asarray(threshold, np.float32))
    k = np.rint(scaled)
    worst = float(np.max(np.abs(scaled - np.clip(k, 0, levels)), initial=0.0))
    if not worst <= LEVEL_TOLERANCE:
        raise NotWhole(worst)
    whole: Ints = k.astype(np.int64)
    return whole


class Rows(NamedTuple):
    """Neurons that agree in everything, as rows of whole numbers; `counts` says how many each row stands for."""

    coding: Coding
    k: Ints
    """a·L/θ."""
    n: Ints
    n_even: Ints
    """The count that the same input, spread evenly over time, would give: clip(⌊u + v(0)/θ⌋, 0, t)."""
    n_half: Ints
    """The same with v(0) = θ/2."""
    k_mean: Ints
    """The level of the ANN's own activation at the mean input: q_L(x̄)·L/θ."""
    residual: Ints
    """v(t) in units of θ/R, by the conservation law v(t) = v(0) + Σx - θ·n."""
    silenced: npt.NDArray[np.bool_]
    """True where SRP's mask silences the neuron."""
    counts: Ints

    def pieces(self) -> Ints:
        """Total and the six pieces of each row, shape (7, row), in units of θ/(L·t); the pieces add up to the total."""
        levels, t = self.coding.levels, self.coding.timestep
        uneven = (self.n - self.n_even) * levels
        return np.stack(
            [
                self.n * levels - self.k * t,
                np.where(self.silenced, 0, uneven),
                np.where(self.silenced, uneven, 0),
                (self.n_even - self.n_half) * levels,
                self.n_half * levels - self.k_mean * t,
                np.zeros_like(self.n),
                (self.k_mean - self.k) * t,
            ]
        )


def count(rows: Rows, largest: Ints = NO_ERROR) -> Statistics:
    """The statistics of some rows; the place of their largest error is known only to the caller.

    Raises:
        OverflowError: a sum would not fit in 64 bits.
    """
    coding, counts = rows.coding, rows.counts
    pieces = rows.pieces()
    if int(np.abs(pieces).max(initial=0)) ** 2 * int(counts.sum()) >= 2**63:
        raise OverflowError(TOO_LARGE)
    inside = np.clip(rows.residual // coding.resolution, -1, 1) + 1
    limit = RESIDUAL_LIMIT * RESIDUAL_BINS_PER_THRESHOLD
    bins = np.clip(rows.residual * RESIDUAL_BINS_PER_THRESHOLD // coding.resolution + limit + 1, 0, 2 * limit + 1)
    spoken = ~rows.silenced
    cases = np.zeros((len(SIGNS), len(COMPARISONS), len(RESIDUALS) + 1), np.int64)
    local = np.zeros((len(SIGNS), len(COMPARISONS)), np.int64)
    joint = np.zeros((coding.levels + 1, coding.timesteps - coding.lowest_count + 1), np.int64)
    residual = np.zeros(2 * limit + 2, np.int64)
    against_ann = comparison(rows.n * coding.levels, rows.k * coding.timestep)
    np.add.at(cases, ((rows.k > 0).astype(int), against_ann, np.where(spoken, inside, len(RESIDUALS))), counts)
    np.add.at(local, ((rows.n_even > 0).astype(int), comparison(rows.n, rows.n_even)), counts)
    np.add.at(joint, (rows.k, rows.n - coding.lowest_count), counts)
    np.add.at(residual, bins[spoken], counts[spoken])
    return Statistics(
        cases,
        local,
        joint,
        pieces @ counts,
        (pieces * counts) @ pieces.T,
        residual,
        sums_of(joint, coding.lowest_count),
        largest,
    )


def histogram(codes: Ints, coding: Coding) -> tuple[Ints, Ints]:
    """The distinct codes, in increasing order, and how often each occurs."""
    if coding.dense:
        counts = np.bincount(codes.ravel(), minlength=1)
        found = np.flatnonzero(counts)
        return found, counts[found]
    found, counts = np.unique(codes, return_counts=True)
    return found, counts


def statistics_of(codes: Ints, coding: Coding, first_sample: int = 0) -> Statistics:
    """The statistics of neurons given by their codes, shape (sample, *neuron).

    Args:
        codes: from `Coding.encode`.
        coding: theirs.
        first_sample: the recording's index of the first one.
    """
    found, counts = histogram(codes, coding)
    rows = coding.decode(found, counts)
    total = rows.pieces()[0]
    worst = int(np.abs(total).max(initial=0))
    if worst == 0:
        return count(rows)
    place = int(np.flatnonzero(np.isin(codes, found[np.abs(total) == worst]))[0])
    sample, neuron = divmod(place, codes[0].size)
    value = int(total[np.searchsorted(found, codes.ravel()[place])])
    return count(rows, np.array([value, first_sample + sample, neuron], np.int64))


def sums_of(joint: Ints, lowest_count: int) -> Ints:
    """Σn, Σk, Σn², Σk², Σnk of a joint histogram (k, n - lowest_count)."""
    k, n = np.arange(joint.shape[0])[:, None], np.arange(joint.shape[1])[None] + lowest_count
    return np.array([int((joint * value).sum()) for value in (n, k, n * n, k * k, n * k)], np.int64)


def offset_spikes(joint: Ints, levels: int, timestep: int, lowest_count: int = 0) -> dict[int, int]:
    """How many neurons have each offset ψ = n - t·a/θ, by key sign(ψ)·⌈|ψ|⌉; the keys that occur, in order.

    Args:
        joint: (k, n - lowest_count).
        levels: L.
        timestep: t.
        lowest_count: the n of the first column.
    """
    k, n = np.nonzero(joint)
    scaled = (n + lowest_count) * levels - k * timestep
    keys = np.sign(scaled) * -(-np.abs(scaled) // levels)
    return {int(key): int(joint[k, n][keys == key].sum()) for key in np.unique(keys)}
