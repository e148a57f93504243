"""A layer whose ANN is ReLU: a is any number >= 0, so sums are float64, in an order that every machine keeps.

With u = Σx/θ, α = a/θ and x̄ = u/t, all in units of θ, `AnalogCoding.pieces` are what the error φ - a is the sum of.
"Equal" means |φ - a| <= θ/(2t), half a spike; a = 0 means exactly zero. The same functions serve numpy arrays and torch
tensors (`xp` is either module): only elementwise operations are used, sums are folded in halves (`fold`), and what
they give per sample is added up as whole numbers (`to_limbs`). So statistics are equal on every device, and
parts, batches and ranks may be added in any order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.attribution.common import (
    COMPARISONS,
    NO_ERROR,
    RESIDUAL_BINS_PER_THRESHOLD,
    RESIDUAL_LIMIT,
    RESIDUALS,
    SIGNS,
    TERMS,
    TOO_LARGE,
    Ints,
    Statistics,
    larger_error,
)

LIMBS, LIMB_BITS, LOWEST_BIT = 8, 32, -128
"""A sum is kept as whole numbers l with the value Σ l[i]·2^(32·i - 128): exact, whatever the order of the additions."""
OFFSETS = 32
"""Offset spikes beyond ±32 are counted at the last key."""
BLOCK = 8192
"""Neurons of a sample that are folded together; part of the definition, for it fixes the order of the sums."""
SECOND_KEYS = len(RESIDUALS) + 1
BINS = 2 * RESIDUAL_LIMIT * RESIDUAL_BINS_PER_THRESHOLD + 2
INSIDE = RESIDUAL_LIMIT * RESIDUAL_BINS_PER_THRESHOLD + 1
"""The residual bin that begins at v = 0; that which begins at θ is `RESIDUAL_BINS_PER_THRESHOLD` later."""
UNIT = float(1 << 32)
"""The largest error is kept as a whole number of θ/2³²."""


def to_limbs(values: npt.NDArray[np.float64]) -> Ints:
    """Numbers as whole numbers whose sums are exact; digits below 2^-128 are dropped.

    Args:
        values: any shape.

    Returns:
        int64, the same shape and an axis of `LIMBS`, the lowest first.

    Raises:
        OverflowError: a value is not finite or at least 2^127.
    """
    rest = np.array(values, np.float64)
    if not bool((np.abs(rest) < 2.0 ** (LIMBS * LIMB_BITS + LOWEST_BIT - 1)).all()):
        raise OverflowError(TOO_LARGE)
    limbs = np.empty((*rest.shape, LIMBS), np.int64)
    for i in reversed(range(LIMBS)):
        unit = 2.0 ** (LOWEST_BIT + LIMB_BITS * i)
        digit = np.trunc(rest / unit)
        limbs[..., i] = digit
        rest -= digit * unit
    return limbs


def from_limbs(limbs: npt.NDArray[Any]) -> float:
    """The number behind some limbs, shape (limb,), correctly rounded."""
    return sum(int(limb) << (LIMB_BITS * i) for i, limb in enumerate(limbs)) / (1 << -LOWEST_BIT)


def fold(values: Any) -> Any:
    """The sums over the last axis, by adding its second half to its first until one is left; overwrites `values`."""
    width = values.shape[-1]
    while width > 1:
        half = (width + 1) // 2
        first = values[..., : width - half]
        first += values[..., half:width]
        width = half
    return values[..., 0]


class Room:
    """Arrays of numpy or torch that are used again and again: new large ones cost a page fault every few KiB."""

    def __init__(self, xp: Any, **options: Any) -> None:
        self.xp, self._options, self._arrays = xp, options, {}  # type: Any, Any, dict[str, Any]

    def __call__(self, name: str, shape: tuple[int, ...], *, whole: bool = False) -> Any:
        """The array called so, in this shape, float64 or int32; what it holds is of no meaning."""
        size = math.prod(shape)
        if name not in self._arrays or len(self._arrays[name]) < size:
            kind = self.xp.int32 if whole else self.xp.float64
            self._arrays[name] = self.xp.empty(size, dtype=kind, **self._options)
        return self._arrays[name][:size].reshape(shape)


@dataclass(frozen=True)
class AnalogCoding:
    """What is counted of a ReLU layer at one t; the counterpart of `Coding`.

    Attributes:
        timestep: t, from 1.
        timesteps: T.
        initial_potential: v(0) in units of θ.
        unguarded: negative spikes may take the net count below 0.
        silencing: some neurons may be silenced by SRP's mask.
        graded: a neuron may fire several spikes a timestep; counts from 4T on are counted together.
    """

    timestep: int
    timesteps: int
    initial_potential: float = 0.5
    unguarded: bool = False
    silencing: bool = False
    graded: bool = False
    levels: None = None

    @property
    def lowest_count(self) -> int:
        """The smallest n that a neuron can reach in the whole run."""
        return -self.timesteps if self.unguarded else 0

    @property
    def highest_count(self) -> int:
        """The largest n that is told apart."""
        return self.timesteps * (4 if self.graded else 1)

    @property
    def counts(self) -> int:
        """How many values of n are told apart."""
        return self.highest_count - self.lowest_count + 1

    @property
    def sizes(self) -> tuple[int, int]:
        """One more than the largest code of each of the two histograms."""
        joint = (2 * OFFSETS + 1) * self.counts
        return joint * len(SIGNS) * SECOND_KEYS, len(SIGNS) * len(COMPARISONS) * (BINS + 1)

    @property
    def terms(self) -> tuple[int, ...]:
        """The places in `TERMS` of the pieces that can be other than 0."""
        return tuple(i for i, name in enumerate(TERMS) if i and (self.silencing or name != "silencing"))

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The places in `TERMS` whose products are summed; all others follow from these."""
        return tuple(combinations_with_replacement(self.terms, 2))

    def even(self, xp: Any, u: Any) -> Any:
        """n_even = clip(⌊u + v(0)⌋, 0, t), the count that the same input, spread evenly, would give."""
        return xp.clip(xp.floor(u + self.initial_potential), *self._even_limits)

    @property
    def _even_limits(self) -> tuple[int, int]:
        return -self.timestep if self.unguarded else 0, self.timestep

    def gather(self, first: Ints, second: Ints, sums: Ints, largest: Ints = NO_ERROR) -> Statistics:
        """The statistics behind two histograms of codes and the limbs of `sums` over all samples, (what, limb)."""
        joint = first.reshape(2 * OFFSETS + 1, self.counts, len(SIGNS), SECOND_KEYS)
        by_comparison = np.stack([joint[OFFSETS], joint[OFFSETS + 1 :].sum(0), joint[:OFFSETS].sum(0)]).sum(1)
        # The codes have them by size: under, equal, over.
        local = second.reshape(len(SIGNS), len(COMPARISONS), BINS + 1)[:, [1, 2, 0]]
        pieces, pairs = sums[: len(self.terms)], sums[len(self.terms) : -5]
        moments = np.zeros((len(TERMS), LIMBS), np.int64)
        products = np.zeros((len(TERMS), len(TERMS), LIMBS), np.int64)
        moments[list(self.terms)] = pieces
        for (i, j), limbs in zip(self.pairs, pairs, strict=True):
            products[i, j] = products[j, i] = limbs
        # The total is the sum of its pieces, so its moments are sums of theirs, exactly.
        moments[0] = moments[1:].sum(0)
        products[0, 1:] = products[1:, 0] = products[1:, 1:].sum(0)
        products[0, 0] = products[0, 1:].sum(0)
        return Statistics(
            cases=by_comparison.transpose(1, 0, 2).copy(),
            local_cases=local.sum(2),
            joint=joint.sum((2, 3)),
            moments=moments,
            products=products,
            residual=local[:, :, :BINS].sum((0, 1)),
            sums=sums[-5:],
            largest=largest,
        )

    # ------------------------------------------------------------------------------------------ of a whole array

    def statistics(
        self,
        activation: npt.NDArray[Any],
        count: npt.NDArray[Any],
        input_sum: npt.NDArray[np.float32],
        threshold: npt.NDArray[np.float32],
        silenced: npt.NDArray[np.bool_] | None = None,
        first_sample: int = 0,
    ) -> Statistics:
        """The statistics of some samples from arrays of the shape (sample, *neuron).

        Args:
            activation: a, float32.
            count: n.
            input_sum: Σx up to t, float32.
            threshold: θ, float32, broadcastable.
            silenced: SRP's mask.
            first_sample: the recording's index of the first one.
        """
        samples = len(count)
        theta = np.broadcast_to(np.asarray(threshold, np.float64), (1, *count.shape[1:])).reshape(1, -1)
        flat = [np.asarray(values).reshape(samples, -1) for values in (activation, count, input_sum)]
        mask = None if silenced is None else np.broadcast_to(silenced, count.shape).reshape(samples, -1)
        first, second = (np.zeros(size, np.int64) for size in self.sizes)
        total: Any = 0
        largest, room = NO_ERROR, Room(np)
        for sample in range(samples):
            sums: Any = 0
            for start in range(0, flat[0].shape[1], BLOCK):
                piece = slice(start, start + BLOCK)
                a, n, x = (values[sample : sample + 1, piece] for values in flat)
                silent = None if mask is None else mask[sample : sample + 1, piece]
                block = self.block(room, a, n, x, theta if theta.size == 1 else theta[:, piece], silent)
                first += np.bincount(block.first.ravel(), minlength=len(first))
                second += np.bincount(block.second.ravel(), minlength=len(second))
                sums = sums + block.sums
                sizes = in_units(np, block.total.ravel())
                place = int(sizes.argmax())
                if sizes[place]:
                    error = int(np.copysign(sizes[place], block.total.ravel()[place]))
                    found = np.array([error, first_sample + sample, start + place], np.int64)
                    largest = larger_error(largest, found)
            total = total + to_limbs(sums).sum(1)
        return self.gather(first, second, total, largest)

    def block(self, room: Room, activation: Any, n: Any, input_sum: Any, threshold: Any, silenced: Any = None) -> Block:
        """Everything of some blocks of neurons, in the arrays of `room`: it holds until the next call.

        Of one neuron, in the order of `terms`: unevenness (n - n_even)/t; silencing, the same under SRP's mask;
        initial potential (n_even - n_half)/t with n_half = clip(⌊u + ½⌋, 0, t); grid n_half/t - clip(x̄, 0, 1);
        clipping clip(x̄, 0, 1) - relu(x̄); inherited relu(x̄) - α.

        Args:
            room: of the module whose arrays are given.
            activation: a, (..., neuron).
            n, input_sum: likewise.
            threshold: θ, float64, broadcastable.
            silenced: SRP's mask; where nobody gives it, nothing is known to be silenced.
        """
        xp, terms = room.xp, len(self.terms)
        values, spare = room("values", (terms + 2, *n.shape)), room("spare", (5, *n.shape))
        n_row, alpha, (u, charged, even, half, cut) = values[-2], values[-1], spare
        # As an array: some devices divide by a Python number by multiplying with its rounded reciprocal.
        t = room("t", (1,))
        n_row[...], alpha[...], u[...], t[...] = n, activation, input_sum, self.timestep
        alpha /= threshold
        u /= threshold
        xp.add(u, self.initial_potential, out=charged)
        xp.clip(xp.floor(charged, out=even), *self._even_limits, out=even)
        xp.clip(xp.floor(xp.add(u, 0.5, out=half), out=half), 0, self.timestep, out=half)
        half /= t
        u /= t
        xp.clip(u, 0, 1, out=cut)
        relu = xp.clip(u, 0, None, out=u)
        xp.subtract(n_row, even, out=values[0])
        values[0] /= t
        if self.silencing:
            silenced = xp.zeros_like(n, dtype=bool) if silenced is None else silenced
            values[1] = xp.where(silenced, values[0], 0.0)
            values[0] -= values[1]
        initial, grid, clipping, inherited = values[terms - 4 : terms]
        xp.divide(even, t, out=initial)
        initial -= half
        xp.subtract(half, cut, out=grid)
        xp.subtract(cut, relu, out=clipping)
        xp.subtract(relu, alpha, out=inherited)
        first, second = self._codes(room, n_row, alpha, spare, silenced)
        total = xp.divide(n_row, t, out=u)
        total -= alpha
        return Block(first, second, self._sums(room, values), total)

    def _codes(self, room: Room, n: Any, alpha: Any, spare: Any, silenced: Any | None) -> tuple[Any, Any]:
        """Two codes a neuron: (offset key, n, sign of a, second key) and (local case, residual bin).

        It is arithmetic on small whole numbers, exact in float64: a choice (`where`) costs several times as much.

        Args:
            room, n, alpha, silenced: as for `block`.
            spare: arrays to overwrite; u + v(0) is the second and n_even the third.
        """
        xp = room.xp
        code, residual, even, other, local = spare
        each = len(SIGNS) * SECOND_KEYS
        # Halves go to the even number, so the key is 0 just where |ψ| <= ½.
        xp.subtract(n, xp.multiply(alpha, self.timestep, out=code), out=code)
        xp.clip(xp.round(code, out=code), -OFFSETS, OFFSETS, out=code)
        code *= self.counts
        code += xp.clip(n, self.lowest_count, self.highest_count, out=other)
        code += OFFSETS * self.counts - self.lowest_count
        code *= each
        xp.ceil(xp.clip(alpha, 0, 1, out=other), out=other)
        other *= SECOND_KEYS
        code += other
        residual -= n
        xp.floor(residual, out=other)
        other += 1
        xp.clip(other, 0, len(RESIDUALS) - 1, out=other)
        residual *= RESIDUAL_BINS_PER_THRESHOLD
        xp.floor(residual, out=residual)
        residual += INSIDE
        bins = xp.clip(residual, 0, BINS - 1, out=residual)
        if silenced is not None:
            other[silenced], bins[silenced] = len(RESIDUALS), BINS
        code += other
        xp.clip(xp.subtract(n, even, out=local), -1, 1, out=local)
        local += 1
        local *= BINS + 1
        local += bins
        xp.clip(even, 0, 1, out=even)
        even *= len(COMPARISONS) * (BINS + 1)
        local += even
        codes = room("codes", (2, *n.shape), whole=True)
        codes[0], codes[1] = code, local
        return codes[0], codes[1]

    def _sums(self, room: Room, values: Any) -> Any:
        """Sums over the last axis, (what, ...): pieces, `pairs`, then n α n² α² nα.

        Args:
            room: as for `block`.
            values: the pieces, n and α, (what, ..., neuron).
        """
        xp, plain, width = room.xp, len(values), values.shape[-1]
        terms, half = plain - 2, (width + 1) // 2
        # Where the products of each piece with itself and those after it begin.
        starts = [i * terms - i * (i - 1) // 2 for i in range(terms + 1)]

        def products(of: Any, made: Any) -> Any:
            for i in range(terms):
                xp.multiply(of[i:terms], of[i], out=made[starts[i] : starts[i + 1]])
            xp.multiply(of[terms:], of[terms:], out=made[-3:-1])
            xp.multiply(of[-2], of[-1], out=made[-1])
            return made

        # The first halving of `fold`, so that only half of the products take up room.
        rows, between = starts[-1] + 3, values.shape[1:-1]
        left, right = values[..., :half], values[..., half:]
        table = room("table", (plain + rows, *between, half))
        table[:plain] = left
        products(left, table[plain:])
        paired = table[..., : width - half]
        for here, there in (
            (paired[:plain], right),
            (paired[plain:], products(right, room("rest", (rows, *between, width - half)))),
        ):
            here += there
        order = [*range(terms), *range(plain, plain + starts[-1]), terms, terms + 1, -3, -2, -1]
        return fold(table)[order]

    # ------------------------------------------------------------------------------------------- what a reader wants

    def offsets(self, statistics: Statistics) -> dict[int, int]:
        """How many neurons have each offset ψ = n - t·a/θ: 0 where |ψ| <= ½, else the nearest, at most ±32."""
        numbers = statistics.joint.sum(1)
        return {int(key) - OFFSETS: int(numbers[key]) for key in np.flatnonzero(numbers)}

    def moment(self, statistics: Statistics, term: int) -> float:
        """Σ of a term of `TERMS` over all neurons, in units of θ."""
        return from_limbs(statistics.moments[term])

    def product(self, statistics: Statistics, one: int, other: int) -> float:
        """Σ of the product of two terms, in units of θ²."""
        return from_limbs(statistics.products[one, other])

    def error(self, value: int) -> float:
        """The first number of `largest`, in units of θ."""
        return value / UNIT

    def points(self, statistics: Statistics) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Ints]:
        """a and φ in units of θ, and how many neurons have each pair; a to the nearest spike."""
        key, n = np.nonzero(statistics.joint)
        phi = (n + self.lowest_count) / self.timestep
        return phi - (key - OFFSETS) / self.timestep, phi, statistics.joint[key, n]


@dataclass(frozen=True)
class Block:
    """Of some neurons: their two codes, their sums (what, ...) and their errors φ - a in units of θ."""

    first: Any
    second: Any
    sums: Any
    total: Any


def in_units(xp: Any, errors: Any) -> Any:
    """Errors in units of θ by magnitude, as `Statistics.largest` keeps them; saturates at 2³⁰ θ."""
    return xp.round(xp.clip(abs(errors), 0, 2.0**30) * UNIT)
