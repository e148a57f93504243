"""The loops of ReLU layers, compiled like those of `probe.tally.native`: a block of `AnalogCoding.block` at a time.

Every operation is that of `AnalogCoding.block`, in float64 and in its order; sums are folded by halves as `fold` does
it, so that they agree with those of numpy and torch to the last bit.
"""

from __future__ import annotations

import numpy as np

from probe.attribution.analog import BINS, BLOCK, INSIDE, OFFSETS, SECOND_KEYS, UNIT
from probe.attribution.common import COMPARISONS, RESIDUAL_BINS_PER_THRESHOLD, RESIDUALS, SIGNS
from probe.tally.native import compiled, part

EACH = len(SIGNS) * SECOND_KEYS
SILENT = len(RESIDUALS)
PLACES = BINS + 1
TALLEST = float(1 << 30)
"""θ; the largest error is told up to this."""


@compiled
def add_step(x, output, height, total, n, neurons, begin, end, first):
    """Σx and n of a timestep.

    Args:
        x, output: the layer's input and output.
        height: row, the output for a spike.
        total, n: float32, kept up to date.

    Returns:
        Σ s(t).
    """
    fired, at = np.float64(0), begin
    while at < end:
        stop = min(at + 4096, (at // neurons + 1) * neurons, end)
        some, out, sums, counts = x[at:stop], output[at:stop], total[at:stop], n[at:stop]
        if first:
            for i in range(len(some)):
                sums[i] = some[i]
        else:
            for i in range(len(some)):
                sums[i] = sums[i] + some[i]
        column = at % neurons
        here = np.int64(0)
        if len(height) == 1:
            one = height[0]
            for i in range(len(some)):
                spikes = np.rint(out[i] / one)
                counts[i] += spikes
                here += np.int32(spikes)
        else:
            of_neurons = height[column : column + len(some)]
            for i in range(len(some)):
                spikes = np.rint(out[i] / of_neurons[i])
                counts[i] += spikes
                here += np.int32(spikes)
        fired += here
        at = stop
    return fired


@part
def _clip(value, low, high):
    """As numpy and torch do it: NaN stays."""
    value = low if value < low else value
    return high if value > high else value


@part
def _fold(room, width):
    """The sum of the first numbers of `room`, by halves; overwrites them."""
    while width > 1:
        half = (width + 1) // 2
        left, right = room[: width - half], room[half:width]
        for i in range(width - half):
            left[i] = left[i] + right[i]
        width = half
    return room[0]


@part
def _sum(values, room):
    """Σ of a block, folded."""
    width = len(values)
    half = (width + 1) // 2
    for i in range(width - half):
        room[i] = values[i] + values[half + i]
    room[width - half : half] = values[width - half : half]
    return _fold(room, half)


@part
def _dot(one, other, room):
    """Σ of the products of a block, folded."""
    width = len(one)
    half = (width + 1) // 2
    for i in range(width - half):
        room[i] = one[i] * other[i] + one[half + i] * other[half + i]
    for i in range(width - half, half):
        room[i] = one[i] * other[i]
    return _fold(room, half)


@part
def _pieces(a, n, x, theta, mask, numbers, initial, silencing, values, total, first, second):
    """The terms of a block, and its two codes; see `AnalogCoding.block` and its `_codes`.

    Args:
        numbers: t, the lowest n_even, the lowest and highest n that are told apart.
        values: float64 (term, neuron) to be written: unevenness, silencing, initial potential, grid, clipping,
            inherited, n, α.
    """
    t, lowest_even = np.float64(numbers[0]), np.float64(numbers[1])
    lowest, highest = np.float64(numbers[2]), np.float64(numbers[3])
    counts = highest - lowest + 1.0
    uneven, silent, initially, grid, clipping, inherited, count, alpha = (
        values[0], values[1], values[2], values[3], values[4], values[5], values[6], values[7],
    )  # fmt: skip
    if len(theta) == 1:
        one = theta[0]
        for i in range(len(n)):
            alpha[i], total[i] = np.float64(a[i]) / one, np.float64(x[i]) / one
    else:
        for i in range(len(n)):
            alpha[i], total[i] = np.float64(a[i]) / theta[i], np.float64(x[i]) / theta[i]
    for i in range(len(n)):
        count[i] = np.float64(n[i])
    for i in range(len(n)):
        u = total[i]
        charged = u + initial
        even = _clip(np.floor(charged), lowest_even, t)
        half = _clip(np.floor(u + 0.5), 0.0, t) / t
        mean = u / t
        cut = _clip(mean, 0.0, 1.0)
        relu = 0.0 if mean < 0.0 else mean
        uneven[i] = (count[i] - even) / t
        silent[i] = 0.0
        initially[i] = even / t - half
        grid[i] = half - cut
        clipping[i] = cut - relu
        inherited[i] = relu - alpha[i]
        total[i] = count[i] / t - alpha[i]
        key = _clip(np.rint(count[i] - alpha[i] * t), -np.float64(OFFSETS), np.float64(OFFSETS))
        code = (key * counts + _clip(count[i], lowest, highest)) + (OFFSETS * counts - lowest)
        residual = charged - count[i]
        inside = _clip(np.floor(residual) + 1.0, 0.0, np.float64(SILENT - 1))
        place = _clip(np.floor(residual * RESIDUAL_BINS_PER_THRESHOLD) + INSIDE, 0.0, np.float64(BINS - 1))
        code = code * EACH + np.ceil(_clip(alpha[i], 0.0, 1.0)) * SECOND_KEYS + inside
        local = (_clip(count[i] - even, -1.0, 1.0) + 1.0) * PLACES + place
        local += _clip(even, 0.0, 1.0) * (len(COMPARISONS) * PLACES)
        # NaN has no code; its sums tell.
        first[i] = np.int32(code) if code >= 0.0 else np.int32(0)
        second[i] = np.int32(local) if local >= 0.0 else np.int32(0)
    for i in range(len(mask)):
        if mask[i]:
            silent[i] = uneven[i] if silencing else 0.0
            uneven[i] -= silent[i]
            first[i] += np.int32(SILENT - first[i] % SECOND_KEYS)
            second[i] += np.int32(BINS - second[i] % PLACES)


@compiled
def gather(
    activation, n, total, theta, silenced, numbers, initial, silencing, neurons, begin, end, terms, first, second, sums,
    record,
):  # fmt: skip
    """A timestep's codes, sums and largest error, of samples begin to end.

    Args:
        activation, n, total: a, n and Σx, float32 (sample · neuron).
        theta: row, θ, float64.
        silenced: SRP's mask, of every neuron; of length 0 where there is none.
        numbers, initial, silencing: as for `_pieces`.
        terms: the pieces that can be other than 0, in order.
        first, second: int64, the two histograms, added to.
        sums: float64 (what, sample), to be written: pieces, products of pairs of them, n α n² α² nα.
        record: float64 (3,), the largest error in units of θ/2³², its sample and its neuron; updated.
    """
    values, errors = np.empty((8, BLOCK), np.float64), np.empty(BLOCK, np.float64)
    codes, others = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    room, none = np.empty(BLOCK // 2 + 1, np.float64), silenced[:0]
    bits, found = errors.view(np.int64), np.empty(1, np.int64)
    for sample in range(begin, end):
        sums[:, sample] = 0.0
        for column in range(0, neurons, BLOCK):
            width = min(BLOCK, neurons - column)
            at = sample * neurons + column
            last = at + width
            mask = silenced[at:last] if len(silenced) else none
            of_theta = theta if len(theta) == 1 else theta[column : column + width]
            _pieces(
                activation[at:last], n[at:last], total[at:last], of_theta, mask, numbers, initial, silencing, values,
                errors, codes, others,
            )  # fmt: skip
            for i in range(width):
                first[np.uint32(codes[i])] += 1
            for i in range(width):
                second[np.uint32(others[i])] += 1
            row = 0
            for one in terms:
                sums[row, sample] += _sum(values[one, :width], room)
                row += 1
            for place in range(len(terms)):
                for after in range(place, len(terms)):
                    sums[row, sample] += _dot(values[terms[place], :width], values[terms[after], :width], room)
                    row += 1
            counts, alpha = values[6, :width], values[7, :width]
            sums[row, sample] += _sum(counts, room)
            sums[row + 1, sample] += _sum(alpha, room)
            sums[row + 2, sample] += _dot(counts, counts, room)
            sums[row + 3, sample] += _dot(alpha, alpha, room)
            sums[row + 4, sample] += _dot(counts, alpha, room)
            # Without their sign, floats have the order of their bits.
            highest = np.int64(0)
            for i in range(width):
                highest = max(highest, bits[i] & np.int64(0x7FFFFFFFFFFFFFFF))
            found[0] = highest
            worst = np.rint(min(found.view(np.float64)[0], TALLEST) * UNIT)
            # Samples and neurons come in order, so of equal ones the first stays.
            if worst > abs(record[0]):
                for i in range(width):
                    if np.rint(min(abs(errors[i]), TALLEST) * UNIT) == worst:
                        record[0] = worst if errors[i] > 0 else -worst
                        record[1], record[2] = sample, column + i
                        break
