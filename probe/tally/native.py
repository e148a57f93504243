"""The loops of the tallies, compiled by numba when first called: plain arrays in and out, the interpreter released.

Each goes over neurons begin to end of a batch whose arrays are flat, (sample · neuron), in blocks that stay in the
processor's first cache and in one sample. A block's loops are so simple that they run eight or sixteen neurons at a
time; only the histogram counts one after the other. No sum of floats is reordered and no product is joined to a sum, so
every number is that of the same steps in torch.

Where a loop takes `row`s, they hold one number for the layer or one for each neuron.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from probe.attribution.analog import BINS, INSIDE, SECOND_KEYS
from probe.attribution.common import RESIDUAL_BINS_PER_THRESHOLD
from probe.tally.plan import PARTS

BLOCK = 1024
"""Neurons a block."""
SMALL = (1 << 31) // BLOCK
"""The sum of a block of squares below this fits in 32 bits."""
LANES = 16
"""Extremes are found in so many lanes side by side."""
ALL_PARTS = len(PARTS)
SPAN_BITS = 22
"""n · classes + class has to stay below 2 to this, so that float32 tells n."""


OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
"""A division by zero gives infinity, as in torch; the check for one would keep loops from running many at a time."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled, and kept on disk where there is a place for it."""
    try:
        made: Callable[..., Any] = numba.njit(function, cache=True, **OPTIONS)
    except RuntimeError:
        made = numba.njit(function, **OPTIONS)
    return made


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as a part of compiled loops, which Python itself cannot call: that is faster to compile."""
    alone: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    made: Callable[..., Any] = numba.njit(function, **alone, **OPTIONS)
    return made


# ------------------------------------------------------------------------------------------------- parts of loops


@part
def _stop(at, neurons, end):
    """Where the block that begins at `at` ends: in the same sample."""
    return min(at + BLOCK, (at // neurons + 1) * neurons, end)


@part
def _before(stop, neurons, begin):
    """Where the block that ends at `stop` begins, for loops that go backwards."""
    return max(stop - BLOCK, (stop - 1) // neurons * neurons, begin)


@part
def _times(values, row, column, out):
    """Values and a factor whose product is values · row; only a row of many takes a pass."""
    if len(row) == 1:
        return values, row[0]
    of_neurons, used = row[column : column + len(values)], out[: len(values)]
    for i in range(len(values)):
        used[i] = values[i] * of_neurons[i]
    return used, np.float32(1)


@part
def _add(x, total, first):
    """Σx; the first is taken as it is."""
    if first:
        for i in range(len(x)):
            total[i] = x[i]
    else:
        for i in range(len(x)):
            total[i] = total[i] + x[i]


@part
def _fire(spikes, factor, pairs, classes, loudest):
    """Add spikes to n, which counts `classes` a spike; true if an output is beyond `loudest`, or NaN.

    Such a number of spikes is none, or one that wraps. It is looked for apart, for that costs the least.
    """
    each, bits, most = np.int32(classes), spikes.view(np.int32), np.int32(0)
    for i in range(len(spikes)):
        pairs[i] = pairs[i] + np.int32(np.rint(spikes[i] * factor)) * each
    # Without their sign, floats have the order of their bits, with NaN above all.
    for i in range(len(spikes)):
        most = max(most, bits[i] & np.int32(0x7FFFFFFF))
    return most > loudest


@part
def _fine(total, factor, low, high, out):
    """⌊R·u⌋ - low between the limits low and high; -1 for NaN."""
    least, bottom, top = np.int32(low), np.float32(low), np.float32(high)
    for i in range(len(total)):
        u = total[i] * factor
        v = u if u >= bottom else bottom
        v = top if v > top else v
        fine = np.int32(np.floor(v)) - least
        out[i] = fine if u == u else np.int32(-1)


@part
def _codes(total, factor, low, high, pairs, span, none, out):
    """pair · span + ⌊R·u⌋ - low, or `none` where that is no code."""
    least, bottom, top = np.int32(low), np.float32(low), np.float32(high)
    for i in range(len(total)):
        u = total[i] * factor
        v = u if u >= bottom else bottom
        v = top if v > top else v
        code = np.int32(pairs[i]) * span + (np.int32(np.floor(v)) - least)
        code = code if u == u else np.int32(-1)
        out[i] = min(np.uint32(code), none)


@part
def _split(pairs, classes, lowest, levels, n, k):
    """n and k of neurons, in any type; k is that of a silenced one too."""
    of_count, each = np.float32(1) / np.float32(classes), np.int32(classes)
    base, most, of_silenced = np.int32(lowest), np.int32(levels), np.int32(levels + 1)
    for i in range(len(pairs)):
        count = np.int32((np.float32(pairs[i]) + np.float32(0.5)) * of_count)
        level = np.int32(np.int32(pairs[i]) - count * each)
        n[i] = count + base
        k[i] = np.int32(level - of_silenced) if level > most else level


@part
def _dot(a, b):
    total = np.int64(0)
    for i in range(len(a)):
        total += np.int64(a[i]) * np.int64(b[i])
    return total


@part
def _sum(a):
    total = np.int64(0)
    for i in range(len(a)):
        total += a[i]
    return total


@part
def _small_dot(a, b):
    """As `_dot`, where the sum fits in 32 bits."""
    total = np.int32(0)
    for i in range(len(a)):
        total += np.int32(np.int32(a[i]) * np.int32(b[i]))
    return total


@part
def _add_sums(n, k, small, sums):
    """Σn, Σn² and Σnk of neurons of one sample; `small` where n² summed over a block fits in 32 bits."""
    sums[0] += _sum(n)
    if small:
        sums[1] += _small_dot(n, n)
        sums[2] += _small_dot(n, k)
    else:
        sums[1] += _dot(n, n)
        sums[2] += _dot(n, k)


@compiled
def sum_samples(pairs, levels, classes, lowest, most, neurons, begin, end, sums):
    """Σn, Σn² and Σnk of each sample, added to int64 (sample, 3); `most` is the largest of n and k."""
    n, k, at = np.empty(BLOCK, np.int16), np.empty(BLOCK, np.int16), begin
    small = most * most < SMALL
    while at < end:
        stop = _stop(at, neurons, end)
        _split(pairs[at:stop], classes, lowest, levels, n, k)
        _add_sums(n[: stop - at], k[: stop - at], small, sums[at // neurons])
        at = stop


# ------------------------------------------------------------------------------------------------------ whole loops


@compiled
def start(level, silenced, pairs, levels, classes, lowest, neurons, begin, end, sums):
    """Before the first spike: every neuron's class, and Σk and Σk² of each sample.

    Args:
        level: k, uint8.
        silenced: SRP's mask; of length 0 where there is none.
        pairs: to be written, (n - lowest) · classes + class.
        levels: L.
        sums: int64 (sample, 2).
    """
    at = begin
    while at < end:
        stop = _stop(at, neurons, end)
        here, to = level[at:stop], pairs[at:stop]
        for i in range(len(here)):
            to[i] = here[i] - lowest * classes
        if len(silenced):
            mask = silenced[at:stop]
            for i in range(len(here)):
                to[i] += mask[i] * (levels + 1)
        of_sample = sums[at // neurons]
        of_sample[0] += _sum(here)
        of_sample[1] += _dot(here, here)
        at = stop


@compiled
def pass_by(x, spikes, total, pairs, inverse, classes, loudest, neurons, begin, end, first):
    """A timestep of which nothing is counted but its spikes.

    Args:
        x, spikes: the layer's input and output.
        total: Σx, kept up to date.
        pairs: likewise.
        inverse: row, 1 / height of a spike.
        loudest: the largest magnitude of an output, as the bits of a float32; in spikes where `inverse` has many.
        first: this is t = 1.

    Returns:
        Σ s(t), and whether an output is beyond `loudest` or NaN.
    """
    scaled = np.empty(BLOCK, np.float32)
    fired, stop, beyond = np.int64(0), end, False
    while stop > begin:
        at = _before(stop, neurons, begin)
        _add(x[at:stop], total[at:stop], first)
        block, factor = _times(spikes[at:stop], inverse, at % neurons, scaled)
        beyond |= _fire(block, factor, pairs[at:stop], classes, loudest)
        for i in range(len(block)):
            fired += np.int32(np.rint(block[i] * factor))
        stop = at
    return fired, beyond


@compiled
def count(
    x,
    spikes,
    total,
    pairs,
    scale,
    inverse,
    levels,
    classes,
    lowest,
    most,
    loudest,
    limits,
    neurons,
    begin,
    end,
    first,
    bins,
    sums,
):
    """A timestep whose every code has a place in a histogram.

    Args:
        x, spikes, total, pairs, inverse, loudest, first: as for `pass_by`.
        scale: row, R/θ.
        levels: L.
        most: the largest that n and k can be, at most 32,767.
        limits: the smallest and largest ⌊R·u⌋ that are told apart.
        bins: int32 (code + 1,), added to; the last is above 0 where something is no code: NaN, and more
            spikes than timesteps.
        sums: int64 (sample, 3), Σn, Σn² and Σnk added to; of length 0 where they are not wanted.
    """
    scaled, codes = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.uint32)
    n, k = np.empty(BLOCK, np.int16), np.empty(BLOCK, np.int16)
    span, none = np.int32(limits[1] - limits[0] + 1), np.uint32(len(bins) - 1)
    small = most * most < SMALL
    stop = end
    while stop > begin:
        at = _before(stop, neurons, begin)
        width, column, state = stop - at, at % neurons, pairs[at:stop]
        _add(x[at:stop], total[at:stop], first)
        block, factor = _times(spikes[at:stop], inverse, column, scaled)
        if _fire(block, factor, state, classes, loudest):
            bins[none] += np.int32(1)
        block, factor = _times(total[at:stop], scale, column, scaled)
        _codes(block, factor, limits[0], limits[1], state, span, none, codes)
        for i in range(width):
            bins[codes[i]] += np.int32(1)
        if len(sums):
            _split(state, classes, lowest, levels, n, k)
            _add_sums(n[:width], k[:width], small, sums[at // neurons])
        stop = at


@part
def _floor(value, of_divisor):
    """⌊value / divisor⌋ of whole numbers: with ½ more the product with 1 / divisor is on the right side."""
    return np.int32(np.floor((np.float64(value) + 0.5) * of_divisor))


@part
def _pieces(fine, low, n, k, pairs, lowest, classes, none, coding, parts, codes, other):
    """The pieces of neurons in units of θ/(L·t), and their places in two tables.

    Args:
        fine: ⌊R·u⌋ - low, or -1 for NaN.
        pairs: (n - lowest) · classes + class.
        none: the place of what is no code.
        coding: L, t, R, v(0) in θ/R, the lowest n_even.
        parts: to be written, int32 (part, neuron); with `codes` and `other`.
    """
    levels, t, resolution = np.int32(coding[0]), np.int32(coding[1]), np.int32(coding[2])
    initial, least = np.int32(coding[3]), np.int32(coding[4])
    zero, one, two, three = np.int32(0), np.int32(1), np.int32(2), np.int32(3)
    of_bin = 1.0 / np.float64(resolution // RESIDUAL_BINS_PER_THRESHOLD)
    of_theta = 1.0 / np.float64(resolution)
    of_mean = 1.0 / (2.0 * np.float64(resolution) * np.float64(t))
    uneven, silent, initially, grid, inherited = parts[0], parts[1], parts[2], parts[3], parts[4]
    for i in range(len(pairs)):
        u = np.int32(fine[i] + np.int32(low))
        even = _floor(np.int32(u + initial), of_theta)
        even = min(max(even, least), t)
        half = _floor(np.int32(u + resolution // two), of_theta)
        half = min(max(half, zero), t)
        # As floats: 2·L·R·u may be beyond 32 bits.
        mean = (2.0 * np.float64(levels) * np.float64(u) + np.float64(resolution) * np.float64(t) + 0.5) * of_mean
        mean = min(max(np.floor(mean), 0.0), np.float64(levels))
        middle = np.int32(mean)
        uneven[i] = np.int32(n[i] - even) * levels
        silent[i] = zero
        initially[i] = np.int32(even - half) * levels
        grid[i] = half * levels - middle * t
        inherited[i] = np.int32(middle - k[i]) * t
        bin_ = _floor(np.int32(u + initial - n[i] * resolution), of_bin) + np.int32(INSIDE)
        inside = (
            one + np.int32(bin_ >= np.int32(INSIDE + RESIDUAL_BINS_PER_THRESHOLD)) - np.int32(bin_ < np.int32(INSIDE))
        )
        bin_ = min(max(bin_, zero), np.int32(BINS - 1))
        compared = np.int32(n[i] > even) + two * np.int32(n[i] < even)
        code = np.int32(np.int32(pairs[i]) * np.int32(SECOND_KEYS) + inside)
        codes[i] = min(np.uint32(code if fine[i] >= zero else np.int32(-1)), none)
        other[i] = np.uint32((three * np.int32(even > zero) + compared) * np.int32(BINS + 1) + bin_)
    if classes > levels + one:
        for i in range(len(pairs)):
            of_class = np.int32(np.int32(pairs[i]) - np.int32(n[i] - np.int32(lowest)) * np.int32(classes))
            if of_class > levels:
                silent[i], uneven[i] = uneven[i], zero
                known = codes[i] != none
                codes[i] = np.uint32(np.int32(pairs[i]) * np.int32(SECOND_KEYS) + three) if known else none
                place = other[i] // np.uint32(BINS + 1)
                other[i] = np.uint32(place * np.uint32(BINS + 1) + np.uint32(BINS))


@compiled
def classify(
    x, spikes, total, pairs, scale, inverse, levels, classes, lowest, most, loudest, limits, neurons, begin, end,
    first, sums, coding, joint, local, moments, products,
):  # fmt: skip
    """A timestep whose codes are too many for a histogram: what the histogram would give is added up at once.

    Args:
        x, spikes, total, pairs, scale, inverse, levels, most, loudest, limits, first, sums: as for
            `count`.
        coding: L, t, R, v(0) in θ/R, the lowest n_even.
        joint: int32 (pair · `SECOND_KEYS` + 1,), added to; the last as that of `count`.
        local: int32 (sign · comparison · residual bin,), added to; one bin more, for silenced neurons.
        moments, products: int64 (part,) and (part, part), added to, above and on the diagonal.
    """
    scaled, fine = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    n, k = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    codes, other = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    parts = np.zeros((ALL_PARTS, BLOCK), np.int32)
    none, small, silencing = np.uint32(len(joint) - 1), most * most < SMALL, classes > levels + 1
    stop = end
    while stop > begin:
        at = _before(stop, neurons, begin)
        width, column, state = stop - at, at % neurons, pairs[at:stop]
        _add(x[at:stop], total[at:stop], first)
        block, factor = _times(spikes[at:stop], inverse, column, scaled)
        if _fire(block, factor, state, classes, loudest):
            joint[none] += np.int32(1)
        block, factor = _times(total[at:stop], scale, column, scaled)
        _fine(block, factor, limits[0], limits[1], fine)
        _split(state, classes, lowest, levels, n, k)
        if len(sums):
            _add_sums(n[:width], k[:width], small, sums[at // neurons])
        _pieces(fine, limits[0], n, k, state, lowest, classes, none, coding, parts, codes, other)
        for i in range(width):
            joint[codes[i]] += np.int32(1)
        for i in range(width):
            local[other[i]] += np.int32(1)
        for one in range(ALL_PARTS):
            if one != 1 or silencing:
                left = parts[one, :width]
                moments[one] += _sum(left)
                for two in range(one, ALL_PARTS):
                    products[one, two] += _dot(left, parts[two, :width])
        stop = at


@compiled
def count_spikes(pairs, classes, lowest, neurons, samples, begin, end, out, per_neuron):
    """n of neurons begin to end of all samples, and its sum over them.

    Args:
        pairs: (n - lowest) · classes + class.
        out: int32, to be written; of length 0 where nobody wants it.
        per_neuron: int32 (neuron,), to be written.
    """
    of_count = np.float32(1) / np.float32(classes)
    base = np.int32(lowest)
    summed = per_neuron[begin:end]
    summed[:] = 0
    for sample in range(samples):
        here = pairs[sample * neurons + begin : sample * neurons + end]
        if len(out):
            to = out[sample * neurons + begin : sample * neurons + end]
            for i in range(len(here)):
                to[i] = np.int32((np.float32(here[i]) + np.float32(0.5)) * of_count) + base
        for i in range(len(here)):
            summed[i] += np.int32((np.float32(here[i]) + np.float32(0.5)) * of_count) + base


@compiled
def largest_error(bins, width, order, sizes, record):
    """The pair with the largest error that occurs, if it is above the record, else -1.

    Args:
        bins: `width` places for each pair.
        order: the pairs, those with the largest errors first.
        sizes: of each pair, the magnitude of its error.
    """
    for pair in order:
        if sizes[pair] <= record:
            return -1
        for place in range(pair * width, (pair + 1) * width):
            if bins[place]:
                return pair
    return -1


@compiled
def first_of(pairs, wanted):
    """Flat index of the first neuron whose pair is wanted, a truth value for each; -1 if there is none."""
    for i in range(len(pairs)):
        pair = np.int64(pairs[i])
        if 0 <= pair < len(wanted) and wanted[pair]:
            return i
    return -1


@compiled
def first_inputs(x, spikes, silenced, channels, neurons, begin, end, found):
    """Per channel, the smallest input that fired and the largest that did not, of samples begin to end.

    Args:
        x, spikes: at t = 1.
        silenced: SRP's mask: neurons that could not fire; of length 0 where there is none.
        found: float32 (2, channel, lane), infinite where nothing is known yet; made smaller and larger.
    """
    inner = neurons // channels
    fired, quiet = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    inf, zero = np.float32(np.inf), np.float32(0)
    for sample in range(begin, end):
        for channel in range(channels):
            smallest, largest = found[0, channel], found[1, channel]
            last = sample * neurons + (channel + 1) * inner
            for at in range(sample * neurons + channel * inner, last, LANES):
                width = min(LANES, last - at)
                some, out = x[at : at + width], spikes[at : at + width]
                for i in range(width):
                    value = some[i] + zero
                    fired[i] = value if out[i] > zero else inf
                    quiet[i] = -inf if out[i] > zero else value
                if len(silenced):
                    mask = silenced[at : at + width]
                    for i in range(width):
                        quiet[i] = -inf if mask[i] else quiet[i]
                for i in range(width):
                    smallest[i] = fired[i] if fired[i] < smallest[i] else smallest[i]
                    largest[i] = quiet[i] if quiet[i] > largest[i] else largest[i]


@compiled
def find_levels(a, factor, levels, neurons, begin, end, out):
    """k = rint(a·L/θ) of the ANN's outputs.

    Args:
        a: the outputs.
        factor: row, L/θ.
        levels: L, at most 255.
        out: uint8, to be written; without meaning where k is no level.

    Returns:
        The largest distance from a whole number, NaN where there is one, and whether a k is below 0 or above L.
    """
    scaled = np.empty(BLOCK, np.float32)
    bits = scaled.view(np.int32)
    worst, outside, at = np.int32(0), np.int32(0), begin
    top = np.float32(levels)
    while at < end:
        stop = _stop(at, neurons, end)
        given, one = _times(a[at:stop], factor, at % neurons, scaled)
        block, to = scaled[: stop - at], out[at:stop]
        for i in range(len(block)):
            value = given[i] * one
            level = np.rint(value)
            kept = np.float32(0) if not level >= 0 else (top if level > top else level)
            outside |= np.int32(kept != level)
            to[i] = np.uint8(np.int32(kept))
            block[i] = abs(value - level)
        # Floats that are not negative have the order of their bits, with NaN above all.
        for i in range(len(block)):
            worst = max(worst, bits[i])
        at = stop
    found = np.empty(1, np.int32)
    found[0] = worst
    return found.view(np.float32)[0], outside != 0


@compiled
def depart(shown, total, pairs, theta, silenced, initial, slack, classes, lowest, neurons, begin, end):
    """How far neurons are from the conservation law v(T) = v(0) + Σx - θ·n, in units of θ.

    Args:
        shown: v(T) as the module has it.
        total: Σx.
        theta: row, θ.
        silenced: SRP's mask, under which the law says nothing; of length 0 where there is none.
        initial: v(0).
        slack: what rounding explains, for each θ of |Σx| and two more.

    Returns:
        The largest distance, and the largest less what rounding explains, or 0.
    """
    apart, more = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    bits, more_bits = apart.view(np.int32), more.view(np.int32)
    worst, beyond, at = np.int32(0), np.int32(0), begin
    of_count, base = np.float32(1) / np.float32(classes), np.float32(lowest)
    start_, slack = np.float32(initial), np.float32(slack)
    while at < end:
        stop = _stop(at, neurons, end)
        width, column = stop - at, at % neurons
        v, sums, state = shown[at:stop], total[at:stop], pairs[at:stop]
        of_neurons = theta[:1] if len(theta) == 1 else theta[column : column + width]
        if len(theta) == 1:
            one = of_neurons[0]
            for i in range(width):
                apart[i] = (v[i] - sums[i]) / one
                more[i] = abs(sums[i] / one)
        else:
            for i in range(width):
                apart[i] = (v[i] - sums[i]) / of_neurons[i]
                more[i] = abs(sums[i] / of_neurons[i])
        for i in range(width):
            n = np.floor((np.float32(state[i]) + np.float32(0.5)) * of_count) + base
            apart[i] = abs((apart[i] + n) - start_)
        if len(silenced):
            mask = silenced[at:stop]
            for i in range(width):
                apart[i] = np.float32(0) if mask[i] else apart[i]
        for i in range(width):
            rest = apart[i] - (more[i] + np.float32(2)) * slack
            more[i] = rest if rest > 0 else np.float32(0)
        for i in range(width):
            worst = max(worst, bits[i])
            beyond = max(beyond, more_bits[i])
        at = stop
    found = np.empty(2, np.int32)
    found[0], found[1] = worst, beyond
    return found.view(np.float32)[0], found.view(np.float32)[1]
