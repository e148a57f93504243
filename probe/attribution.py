"""Where a conversion error comes from, in whole numbers: classify every neuron -> count -> summarise.

Symbols, as everywhere: θ threshold, L levels, t timestep (T the last), n net spike count up to t, Σx the summed input,
u = Σx/θ, v(0) the initial potential. A QCFS ANN gives a = k·θ/L; the SNN gives φ(t) = θ·n/t. All of a neuron's
error follows from k, n and Σx, so a layer at one t is one histogram of (k, n, ⌊R·u⌋) with a resolution R on whose
grid all edges lie: every sum below is a whole number, and parts, batches and machines add up without rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

SIGNS = ("zero", "positive")
COMPARISONS = ("equal", "over", "under")
CASES = tuple(f"{sign}_{comparison}" for sign in SIGNS for comparison in COMPARISONS)
"""Sign of a × comparison of φ with a; `zero_over`, `positive_over`, `positive_under` are SRP's case 1, 2, 3."""
RESIDUALS = ("below", "inside", "above")
"""v(t) < 0, in [0, θ), >= θ."""
PIECES = ("unevenness", "silencing", "initial_potential", "grid", "clipping", "inherited")
TERMS = ("total", *PIECES)

RESIDUAL_BINS_PER_THRESHOLD = 8
RESIDUAL_LIMIT = 4
"""The residual potential is counted in bins of θ/8 from -4θ to 4θ, and one bin below and above."""
RESIDUAL_EDGES: npt.NDArray[np.float64] = np.linspace(
    -RESIDUAL_LIMIT, RESIDUAL_LIMIT, 2 * RESIDUAL_LIMIT * RESIDUAL_BINS_PER_THRESHOLD + 1
)
"""In units of θ; bin 0 of a residual histogram lies below the first edge, the last bin at or above the last."""

DENSE = 1 << 20
"""The most codes for which a histogram has a place for each."""
LEVEL_TOLERANCE = 1e-3
"""How far a·L/θ may be from a whole number before a layer is refused as no QCFS layer with that θ and L."""
TIE = 1e-4
"""A neuron this close to a grid edge, in units of θ, may be flipped by float rounding."""
TOO_LARGE = "the sums of squared errors no longer fit in 64 bits; use fewer samples a recording"


class NotWhole(ValueError):
    """An ANN output is no whole number of levels; `worst` is the largest distance of a·L/θ from one."""

    def __init__(self, worst: float) -> None:
        self.worst = worst
        super().__init__(f"a·L/θ is up to {worst:.3g} away from a whole number")


# ---------------------------------------------------------------------------------------------------- classify


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
        initial = Fraction(self.initial_potential).limit_denominator(1000)
        if abs(float(initial) - self.initial_potential) > 1e-6:
            raise ValueError(f"initial potential {self.initial_potential} θ is no fraction with a denominator <= 1000")
        return initial

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


def near_tie(
    input_sum: Floats, threshold: Floats, initial_potential: float, timesteps: int = 1
) -> npt.NDArray[np.bool_]:
    """True where (Σx + v(0))/θ lies within 1e-4 of a whole number: rounding may flip a spike there.

    A float32 sum of T inputs of one sign is off by up to T·2⁻²⁴·Σx, which passes 1e-4 from about T = 40 on, and the
    neuron's own potential by up to T·2⁻²⁴ of a few θ: then that is the distance.

    Args:
        input_sum: Σx, any shape.
        threshold: θ, broadcastable to it.
        initial_potential: v(0) in units of θ.
        timesteps: how many inputs were summed.
    """
    u = input_sum.astype(np.float64) / threshold
    rounding = timesteps * 2.0**-24 * (np.abs(u) + 2)
    distance = np.abs(u + initial_potential - np.rint(u + initial_potential))
    near: npt.NDArray[np.bool_] = distance <= np.maximum(TIE, rounding)
    return near


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


def why_not_even(traits: Mapping[str, Any]) -> str | None:
    """The reason why n_even, local cases, residual key and attribution cannot be claimed; None where they can.

    Args:
        traits: of the family's neurons, see `probe.families.Traits`.
    """
    if traits.get("reset", "subtract") != "subtract":
        return f"reset to {traits['reset']}: the conservation law needs a reset by subtraction"
    if traits.get("fires_at", ">=") != ">=":
        return "the neuron fires strictly above its threshold"
    if traits.get("graded"):
        return "the neuron may fire more than one spike a timestep"
    return None


# ------------------------------------------------------------------------------------------------------- count


@dataclass(frozen=True)
class Statistics:
    """Everything additive that is known of one layer at one t; `+` joins batches, parts and machines exactly.

    Attributes:
        cases: int64 (sign, comparison, residual): a = 0 or > 0; φ equal, over, under a; v(t) below, inside, above
            and, last, silenced by SRP's mask, where the law says nothing.
        local_cases: int64 (sign, comparison): the same against n_even instead of a.
        joint: int64 (k, n - lowest_count): how many neurons have each (k, n).
        moments: int64 (term,): sums of the total and the six pieces, in units of θ/(L·t).
        products: int64 (term, term): sums of their products, in units of (θ/(L·t))².
        residual: int64 (bin,): residual potential, see `RESIDUAL_EDGES`; without silenced neurons.
        largest: int64 (3,): the largest error by magnitude, in units of θ/(L·t), its sample and its neuron (flat
            index); sample and neuron are -1 where no neuron errs.
    """

    cases: Ints
    local_cases: Ints
    joint: Ints
    moments: Ints
    products: Ints
    residual: Ints
    largest: Ints

    def __add__(self, other: Statistics) -> Statistics:
        # The diagonal bounds all else: products by Cauchy and Schwarz, sums because whole numbers are.
        squares = zip(self.products.diagonal(), other.products.diagonal(), strict=True)
        if max(int(one) + int(two) for one, two in squares) >= 2**63:
            raise OverflowError(TOO_LARGE)
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name != "largest"}
        return Statistics(**sums, largest=larger_error(self.largest, other.largest))

    def same(self, other: Statistics) -> bool:
        """True where every number is equal."""
        return all(np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))


NO_ERROR: Ints = np.array([0, -1, -1], np.int64)
"""The `largest` of neurons of which none errs."""


def larger_error(first: Ints, second: Ints) -> Ints:
    """The larger of two `largest` rows; of equal ones that with the lower sample, then the lower neuron."""
    if first[1] < 0 or second[1] < 0:
        return second if first[1] < 0 else first
    return min(first, second, key=lambda row: (-abs(int(row[0])), int(row[1]), int(row[2])))


@dataclass(frozen=True)
class LayerStatistics:
    """One layer's statistics over some samples; `+` joins it with those of the samples that follow.

    Attributes:
        statistics: grid t -> its statistics; empty for a layer whose family cannot promise what they rest on.
        spikes_at: int64 (timestep,): Σ s(t) over samples and neurons, for every t.
        spikes_per_neuron: int64 (*neuron): n at T, summed over samples.
        per_sample: int64 (sample, grid t, 5): Σn, Σk, Σn², Σk², Σnk over the neurons of each sample.
        first_input: float32 (2, channel): the smallest x(1) that fired and the largest that did not; NaN for none.
    """

    statistics: dict[int, Statistics]
    spikes_at: Ints
    spikes_per_neuron: Ints
    per_sample: Ints
    first_input: Floats

    def __add__(self, other: LayerStatistics) -> LayerStatistics:
        return LayerStatistics(
            {t: statistics + other.statistics[t] for t, statistics in self.statistics.items()},
            self.spikes_at + other.spikes_at,
            self.spikes_per_neuron + other.spikes_per_neuron,
            np.concatenate([self.per_sample, other.per_sample]),
            np.stack(
                [
                    np.fmin(self.first_input[0], other.first_input[0]),
                    np.fmax(self.first_input[1], other.first_input[1]),
                ]
            ),
        )


def comparison(left: Ints, right: Ints) -> Ints:
    """0 where left = right, 1 where it is over, 2 where it is under: an index into `COMPARISONS`."""
    result: Ints = np.where(left == right, 0, np.where(left > right, 1, 2))
    return result


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
    return Statistics(cases, local, joint, pieces @ counts, (pieces * counts) @ pieces.T, residual, largest)


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


# --------------------------------------------------------------------------------------------------- summarise


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


def summarise(statistics: Statistics, coding: Coding) -> dict[str, Any]:
    """The numbers a reader wants of one layer at one t; means are in units of θ, shares are signed and add up to 1.

    Returns:
        `count`, `cases`, `local_cases`, `attribution`, `offset_spikes`, `residual` and `largest_error`, as in the
        JSON of `probe unevenness`; a share is None where the total is 0.
    """
    samples = int(statistics.cases.sum())
    unit = coding.levels * coding.timestep
    attribution: dict[str, dict[str, float | None]] = {}
    for i, term in enumerate(TERMS):
        entry: dict[str, float | None] = {
            "mean": int(statistics.moments[i]) / unit / samples,
            "mean_square": int(statistics.products[i, i]) / unit**2 / samples,
        }
        if term != "total":
            square = int(statistics.products[0, 0])
            entry["share"] = int(statistics.products[i, 0]) / square if square else None
        attribution[term] = entry
    value, sample, neuron = (int(number) for number in statistics.largest)
    residual = dict(zip((*RESIDUALS, "silenced"), map(int, statistics.cases.sum((0, 1))), strict=True))
    if not coding.silencing:
        del residual["silenced"]
    return {
        "count": samples,
        "cases": dict(zip(CASES, map(int, statistics.cases.sum(2).ravel()), strict=True)),
        "local_cases": dict(zip(CASES, map(int, statistics.local_cases.ravel()), strict=True)),
        "attribution": attribution,
        "offset_spikes": {
            str(key): number
            for key, number in offset_spikes(
                statistics.joint, coding.levels, coding.timestep, coding.lowest_count
            ).items()
        },
        "residual": residual,
        "largest_error": None if sample < 0 else {"error": value / unit, "sample": sample, "neuron": neuron},
    }
