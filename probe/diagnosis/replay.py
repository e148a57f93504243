"""Whether spikes follow from inputs as a neuron is declared, and if not, from which other neuron they do.

The charged potential is u(t) = λ·v(t-1) + g·x(t), a spike follows where u(t) >= θ, and the reset takes r·s(t) off or
puts v(t) to a value; the declared soft-reset IF has λ = g = 1 and r = θ. All is in units of the declared θ. v(t-1) is
made from the spikes that were recorded, so that one that should not be there does not change what is expected later.
Nothing here knows of recordings or layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

MARGIN = 0.01
"""A spike is held against a neuron only where u(t) is farther than this from θ: a hundredth of θ is beyond any
rounding, also in half precision, and a θ or v(0) that is off by less does not matter."""
SAME = 0.02
"""θ and v(0) that were inferred are taken for others where they are this far off, in units of θ: twice the margin."""
NARROW = 0.5
"""The smallest input that fired and the largest that did not tell an edge if they are this close, in units of θ."""
EXPLAINS = 0.02
"""A leaky neuron explains the spikes if it leaves at most this share of the contradictions: its λ is only searched."""
DECAYS = tuple(i / 40 for i in range(4, 40))
"""λ among which a leak is searched, then refined: 0.1 to 0.975."""
SEARCHED = 1 << 18
"""Inputs with which a leak is searched; enough to tell λ to two digits."""


@dataclass(frozen=True)
class Trains:
    """Inputs and spikes of some samples and neurons, (sample, timestep, neuron).

    Attributes:
        x: x(t) in units of the declared θ, float64.
        spikes: s(t), whole numbers.
        spoken: False for neurons that SRP's mask silences, (sample, neuron).
        channel: which channel a neuron is of, from 0, (neuron,).
    """

    x: Doubles
    spikes: npt.NDArray[Any]
    spoken: Mask
    channel: Ints

    def first(self, samples: int) -> Trains:
        """Some samples alone."""
        return Trains(self.x[:samples], self.spikes[:samples], self.spoken[:samples], self.channel)

    def beside(self, other: Trains) -> Trains:
        """With more samples."""
        return Trains(
            np.concatenate((self.x, other.x)), np.concatenate((self.spikes, other.spikes)),
            np.concatenate((self.spoken, other.spoken)), self.channel,
        )  # fmt: skip

    def followed_by(self, other: Trains) -> Trains:
        """One after the other in time, of as many samples as both have: what a neuron sees that nobody resets."""
        number = min(len(self.x), len(other.x))
        one, two = self.first(number), other.first(number)
        x, spikes = np.concatenate((one.x, two.x), axis=1), np.concatenate((one.spikes, two.spikes), axis=1)
        return Trains(x, spikes, one.spoken & two.spoken, self.channel)


@dataclass(frozen=True)
class Neuron:
    """A neuron that might have fired these spikes, in units of the declared θ.

    Attributes:
        start: v(0).
        decay: λ.
        gain: g.
        reset: `subtract` or `zero`.
        rest: what a hard reset puts v to.
        strict: it fires at > instead of >=.
    """

    start: float = 0.5
    decay: float = 1.0
    gain: float = 1.0
    reset: str = "subtract"
    rest: float = 0.0
    strict: bool = False


def contradictions(trains: Trains, neuron: Neuron) -> int:
    """Spikes that the neuron would not have fired, and those that it would have, more than `MARGIN` from its edge."""
    v = np.full(trains.x[:, 0].shape, neuron.start)
    wrong = 0
    for t in range(trains.x.shape[1]):
        u, s = neuron.decay * v + neuron.gain * trains.x[:, t], trains.spikes[:, t]
        fires = u > 1 if neuron.strict else u >= 1
        wrong += int(((fires != (s > 0)) & (np.abs(u - 1) > MARGIN) & trains.spoken).sum())
        v = u - s if neuron.reset == "subtract" else np.where(s > 0, neuron.rest, u)
    return wrong


class Edges(NamedTuple):
    """What Σx up to t had to be for a spike, by group of neurons and the number m of spikes before: (group, m)."""

    unfired: Doubles
    """The largest Σx that did not fire; -inf for none."""
    fired: Doubles
    """The smallest that did; inf for none."""
    lowest: int
    """The m of the first column."""


def edges(trains: Trains, group: Ints) -> Edges:
    """Gather the edges of each group of neurons; `group` is a number from 0 for each neuron."""
    before = np.cumsum(trains.spikes, axis=1, dtype=np.int64) - trains.spikes
    total = np.cumsum(trains.x, axis=1)
    lowest, highest = int(before.min()), int(before.max())
    shape = (int(group.max()) + 1, highest - lowest + 1)
    place = group * shape[1] + (before - lowest)
    fired = (trains.spikes > 0) & trains.spoken[:, None]
    quiet = (trains.spikes <= 0) & trains.spoken[:, None]
    largest, smallest = np.full(shape, -np.inf), np.full(shape, np.inf)
    np.maximum.at(largest.reshape(-1), place[quiet], total[quiet])
    np.minimum.at(smallest.reshape(-1), place[fired], total[fired])
    return Edges(largest, smallest, lowest)


class Soft(NamedTuple):
    """A soft-reset IF whose spikes these may be: a spike follows where Σx >= edge + reset·m after m spikes."""

    edge: float
    """θ - v(0), in units of the declared θ."""
    reset: float | None
    """What a spike takes off; None where no neuron that told an edge had fired before."""

    @property
    def threshold(self) -> float:
        """θ: what a spike takes off; as declared where that is not known."""
        return 1.0 if self.reset is None else self.reset

    @property
    def start(self) -> float:
        """v(0) in units of the declared θ."""
        return self.threshold - self.edge


def soft(found: Edges, group: int = 0) -> Soft | None:
    """The soft-reset IF that fits the edges of a group; None where none does, or nothing is known.

    Without a contradiction the largest Σx that did not fire is below the smallest that did, for each m; their middles
    lie on a line in m whose slope is the reset, and whose value at m = 0 is the edge; a hard reset bends it.
    """
    low, high = found.unfired[group], found.fired[group]
    if bool((low - high > MARGIN).any()):
        return None
    m = np.flatnonzero(high - low <= NARROW)
    if not len(m):
        return None
    middle, count = (low[m] + high[m]) / 2, m + found.lowest
    if len(m) == 1:
        return Soft(float(middle[0] - count[0]), None if count[0] == 0 else 1.0)
    slope, value = np.polyfit(count, middle, 1, w=1 / (high[m] - low[m] + MARGIN))
    line = value + slope * (np.arange(len(low)) + found.lowest)
    if bool(((line < low - SAME) | (line > high + SAME)).any()):
        return None
    return Soft(float(value), float(slope))


def consistent(found: Edges) -> bool:
    """No group of neurons contradicts itself."""
    return not bool((found.unfired - found.fired > MARGIN).any())


def with_unit_reset(found: Edges) -> Edges:
    """The same for a reset of θ, which makes one column of all m: Σx - m is compared with θ - v(0)."""
    m = np.arange(found.unfired.shape[1]) + found.lowest
    low, high = (found.unfired - m).max(1, keepdims=True), (found.fired - m).min(1, keepdims=True)
    return Edges(low, high, 0)


def hard(declared: Neuron) -> Iterator[Neuron]:
    """Neurons with a hard reset, beginning with what is declared beside it."""
    for start, rest in product(dict.fromkeys((declared.start, 0.0)), dict.fromkeys((0.0, declared.start))):
        yield replace(declared, start=start, reset="zero", rest=rest)


def leaky(trains: Trains, declared: Neuron) -> Neuron | None:
    """The leaky neuron that explains the spikes; None where none does.

    Both v = λ·v + x and v = λ·v + (1 - λ)·x are tried, with either reset.
    """
    number = max(1, SEARCHED // trains.x[0].size)
    some = trains.first(number)
    limit = EXPLAINS * contradictions(some, declared)

    def best(candidates: Iterator[Neuron]) -> tuple[int, Neuron]:
        return min(((contradictions(some, one), one) for one in candidates), key=lambda pair: pair[0])

    def made(decays: tuple[float, ...], like: Neuron, averages: bool) -> Iterator[Neuron]:
        for decay in decays:
            yield replace(like, decay=decay, gain=1 - decay if averages else 1.0)

    kinds = [replace(declared, start=start, reset=reset)
             for start, reset in product(dict.fromkeys((declared.start, 0.0)), ("subtract", "zero"))]  # fmt: skip
    found: tuple[int, Neuron] | None = None
    for like, averages in product(kinds, (False, True)):
        wrong, neuron = best(made(DECAYS, like, averages))
        for step in (1 / 80, 1 / 320, 1 / 1280):
            around = tuple(min(0.999, max(0.001, neuron.decay + i * step)) for i in (-1, 0, 1))
            wrong, neuron = best(made(around, like, averages))
        if found is None or wrong < found[0]:
            found = wrong, neuron
    assert found is not None
    return found[1] if found[0] <= limit else None


# ------------------------------------------------------------------------------------------------- counts alone


def counted(x: Doubles, timesteps: int, neuron: Neuron) -> tuple[Ints, Mask]:
    """n at T of neurons that are fed the same x at every t, and which of them came within `MARGIN` of an edge.

    Args:
        x: in units of θ, any shape.
        timesteps: T.
        neuron: fires by itself here, for no spikes are known.
    """
    v, n, near = np.full(x.shape, neuron.start), np.zeros(x.shape, np.int64), np.zeros(x.shape, np.bool_)
    for _ in range(timesteps):
        u = neuron.decay * v + neuron.gain * x
        near |= np.abs(u - 1) <= MARGIN
        s = u > 1 if neuron.strict else u >= 1
        n += s
        v = u - s if neuron.reset == "subtract" else np.where(s, neuron.rest, u)
    return n, near


def count_edges(total: Doubles, n: Ints, timesteps: int, group: Ints) -> Edges:
    """The edges of Σx for each count, of neurons fed the same at every t: n > m where Σx >= θ·(m + 1) - v(0).

    Args:
        total: Σx in units of θ, (sample, neuron).
        n: spike counts, same shape.
        timesteps: T.
        group: a number from 0 for each neuron.
    """
    shape = (int(group.max()) + 1, timesteps)
    largest, smallest = np.full(shape, -np.inf), np.full(shape, np.inf)
    groups = np.broadcast_to(group, total.shape)
    for m in range(timesteps):
        np.maximum.at(largest[:, m], groups[n <= m], total[n <= m])
        np.minimum.at(smallest[:, m], groups[n > m], total[n > m])
    return Edges(largest, smallest, 0)
