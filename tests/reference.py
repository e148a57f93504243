"""DESIGN.md, section 3, once more: one neuron at a time, in exact fractions, slowly.

Nothing is shared with `probe`: where both agree, two readings of the same page agree. Every number is a `Fraction`, a
float taken at its exact value, so nothing rounds here; `tie` and `near_edge` name the neurons that float32 may flip.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

TIE = Fraction(1, 10_000)
"""In units of θ: closer to an edge than this, float rounding may flip a neuron."""
SILENCE = Fraction(1, 1000)
TERMS = ("total", "unevenness", "silencing", "initial_potential", "grid", "clipping", "inherited")
COMPARISONS = ("equal", "over", "under")
RESIDUALS = ("below", "inside", "above", "silenced")


@dataclass(frozen=True)
class Neuron:
    """`kind` is one of if, snm, negspike, srp, srp+negspike; `initial` is v(0) in units of θ."""

    threshold: Fraction
    initial: Fraction = Fraction(1, 2)
    kind: str = "if"
    guarded: bool = True
    presteps: int = 0

    @property
    def unguarded(self) -> bool:
        return self.kind in ("snm", "negspike", "srp+negspike") and not self.guarded

    @property
    def edges(self) -> tuple[Fraction, ...]:
        """Where the charged potential changes the spike: the positive threshold, then the negative one if any."""
        negative = {"snm": -self.threshold, "negspike": Fraction(0), "srp+negspike": Fraction(0)}
        return (self.threshold, *([negative[self.kind]] if self.kind in negative else []))


@dataclass(frozen=True)
class Trace:
    """What a neuron did: s(1..T), v(1..T), SRP's verdict, and whether any decision was a tie."""

    spikes: tuple[int, ...]
    potentials: tuple[Fraction, ...]
    silenced: bool
    tie: bool

    @property
    def count(self) -> int:
        return sum(self.spikes)


def exact(values: Iterable[float]) -> list[Fraction]:
    """The exact values of some floats."""
    return [Fraction(float(value)) for value in values]


def clip(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def qcfs_level(x: Fraction, threshold: Fraction, levels: int) -> int:
    """K of a = θ·k/L = θ·clip(⌊L·x/θ + ½⌋, 0, L)/L."""
    return clip(floor(levels * x / threshold + Fraction(1, 2)), 0, levels)


def near_level_edge(x: Fraction, threshold: Fraction, levels: int) -> bool:
    """True where `qcfs_level` is within a tie of another level."""
    return _distance(levels * x / threshold + Fraction(1, 2)) / levels <= TIE


def _distance(value: Fraction) -> Fraction:
    """To the nearest whole number."""
    return abs(value - floor(value + Fraction(1, 2)))


def simulate(inputs: Sequence[Fraction], neuron: Neuron) -> Trace:
    """Run one neuron over its inputs; for SRP the first τ of them are the pre-simulation and leave no spikes behind."""
    before, during = inputs[: neuron.presteps], inputs[neuron.presteps :]
    silenced = tie = False
    if "srp" in neuron.kind:
        _, potentials, tie = _run(before, neuron)
        last = potentials[-1]
        silenced = last <= SILENCE * neuron.threshold
        tie |= abs(last - SILENCE * neuron.threshold) <= TIE * neuron.threshold
    spikes, potentials, close = _run(during, neuron)
    if silenced:
        spikes = [0] * len(spikes)
    return Trace(tuple(spikes), tuple(potentials), silenced, tie or close)


def _run(inputs: Sequence[Fraction], neuron: Neuron) -> tuple[list[int], list[Fraction], bool]:
    threshold = neuron.threshold
    v, count, tie = neuron.initial * threshold, 0, False
    spikes, potentials = [], []
    for x in inputs:
        v += x
        tie |= any(abs(v - edge) <= TIE * threshold for edge in neuron.edges)
        may_fire_down = count > 0 or not neuron.guarded
        s = 0
        if v >= threshold:
            s = 1
        elif neuron.kind == "snm":
            s = -1 if v <= -threshold and may_fire_down else 0
        elif neuron.kind in ("negspike", "srp+negspike"):
            s = -1 if v < 0 and may_fire_down else 0
        v -= threshold * s
        count += s
        spikes.append(s)
        potentials.append(v)
    return spikes, potentials, tie


@dataclass(frozen=True)
class Described:
    """Everything that section 3 says of one neuron at one t; pieces are in units of its θ."""

    level: int
    count: int
    positive: bool
    comparison: str
    local_positive: bool
    local_comparison: str
    residual: str
    """The second key."""
    residual_bin: int
    """Of 66: v < -4θ, then bins of θ/8, then v >= 4θ; -1 for a silenced neuron."""
    n_even: int
    n_half: int
    q: Fraction
    """q_L(x̄) in units of θ."""
    pieces: dict[str, Fraction]
    offset: int
    """Sign(ψ)·⌈|ψ|⌉."""


def _compare(left: Fraction | int, right: Fraction | int) -> str:
    return COMPARISONS[0] if left == right else COMPARISONS[1] if left > right else COMPARISONS[2]


def describe(
    level: int, count: int, input_sum: Fraction, neuron: Neuron, levels: int, timestep: int, silenced: bool = False
) -> Described:
    """Section 3 for one neuron: k, n and Σx up to t in, everything else out."""
    threshold, half = neuron.threshold, Fraction(1, 2)
    mean = input_sum / timestep
    a, phi = threshold * level / levels, threshold * count / timestep
    v = neuron.initial * threshold + timestep * mean - threshold * count
    n_even = floor((timestep * mean + neuron.initial * threshold) / threshold)
    n_even = clip(n_even, -timestep if neuron.unguarded else 0, timestep)
    n_half = clip(floor(timestep * mean / threshold + half), 0, timestep)
    q = threshold * qcfs_level(mean, threshold, levels) / levels
    own = phi - threshold * n_even / timestep
    pieces = {
        "total": phi - a,
        "unevenness": Fraction(0) if silenced else own,
        "silencing": own if silenced else Fraction(0),
        "initial_potential": threshold * (n_even - n_half) / timestep,
        "grid": threshold * n_half / timestep - q,
        "clipping": Fraction(0),
        "inherited": q - a,
    }
    if silenced:
        residual, residual_bin = "silenced", -1
    else:
        residual = "below" if v < 0 else "inside" if v < threshold else "above"
        residual_bin = clip(floor((v / threshold + 4) * 8) + 1, 0, 65)
    psi = count - timestep * a / threshold
    return Described(
        level=level,
        count=count,
        positive=a > 0,
        comparison=_compare(phi, a),
        local_positive=n_even > 0,
        local_comparison=_compare(count, n_even),
        residual=residual,
        residual_bin=residual_bin,
        n_even=n_even,
        n_half=n_half,
        q=q / threshold,
        pieces={name: piece / threshold for name, piece in pieces.items()},
        offset=ceil(psi) if psi > 0 else -ceil(-psi),
    )


def near_edge(input_sum: Fraction, neuron: Neuron, levels: int, timestep: int) -> bool:
    """True where some statistic changes within a tie of this Σx: n_even, n_half, q_L, second key or residual bin."""
    u = input_sum / neuron.threshold
    return (
        _distance((u + neuron.initial) * 8) / 8 <= TIE
        or _distance(u + Fraction(1, 2)) <= TIE
        or _distance(levels * u / timestep + Fraction(1, 2)) * timestep / levels <= TIE
    )


@dataclass(frozen=True)
class Table:
    """Sums over neurons, in the units of a recording: pieces in θ/(L·t), products in its square."""

    cases: list[list[list[int]]]
    local_cases: list[list[int]]
    joint: list[list[int]]
    moments: list[int]
    products: list[list[int]]
    residual: list[int]
    largest: list[int]
    offsets: dict[int, int]


def tabulate(
    samples: Sequence[Sequence[Described]], levels: int, timestep: int, timesteps: int, *, unguarded: bool = False
) -> Table:
    """Add up the neurons of some samples, one after the other."""
    lowest = -timesteps if unguarded else 0
    cases = [[[0] * 4 for _ in COMPARISONS] for _ in range(2)]
    local = [[0] * 3 for _ in range(2)]
    joint = [[0] * (timesteps - lowest + 1) for _ in range(levels + 1)]
    moments, products = [0] * 7, [[0] * 7 for _ in range(7)]
    residual, largest = [0] * 66, [0, -1, -1]
    offsets: dict[int, int] = {}
    for sample, neurons in enumerate(samples):
        for place, one in enumerate(neurons):
            cases[one.positive][COMPARISONS.index(one.comparison)][RESIDUALS.index(one.residual)] += 1
            local[one.local_positive][COMPARISONS.index(one.local_comparison)] += 1
            joint[one.level][one.count - lowest] += 1
            pieces = [one.pieces[name] * levels * timestep for name in TERMS]
            assert all(piece.denominator == 1 for piece in pieces)
            whole = [int(piece) for piece in pieces]
            for i, piece in enumerate(whole):
                moments[i] += piece
                for j, other in enumerate(whole):
                    products[i][j] += piece * other
            if one.residual_bin >= 0:
                residual[one.residual_bin] += 1
            offsets[one.offset] = offsets.get(one.offset, 0) + 1
            if abs(whole[0]) > abs(largest[0]):
                largest = [whole[0], sample, place]
    return Table(cases, local, joint, moments, products, residual, largest, dict(sorted(offsets.items())))


def shares(samples: Sequence[Sequence[Described]]) -> dict[str, Fraction] | None:
    """Mean(piece·total)/mean(total²) of each piece; None where the total is 0 everywhere."""
    pieces = [one.pieces for neurons in samples for one in neurons]
    square = sum(piece["total"] ** 2 for piece in pieces)
    if square == 0:
        return None
    return {name: sum((piece[name] * piece["total"] for piece in pieces), Fraction(0)) / square for name in TERMS[1:]}


# --------------------------------------------------------------------------------------------- an ANN of ReLUs


UNITS = 1 << 32
"""The largest error is told as a whole number of θ/2³²."""
CLOSE = Fraction(1, 10**9)
"""In units of θ: closer to an edge than this, but not on it, float64 may put a neuron on the other side."""


@dataclass(frozen=True)
class Rectified:
    """Everything that section 3 says of one neuron at one t where the ANN is ReLU; all in units of its θ."""

    alpha: Fraction
    """a/θ."""
    count: int
    positive: bool
    comparison: str
    local_positive: bool
    local_comparison: str
    residual: str
    residual_bin: int
    n_even: int
    pieces: dict[str, Fraction]
    offset: int
    """0 where |ψ| <= ½, else the nearest whole number (of two the even one), at most ±32."""
    near_edge: bool
    """Some whole number above changes within a hair, and rounding might tell."""


def rectify(
    a: Fraction, count: int, input_sum: Fraction, neuron: Neuron, timestep: int, silenced: bool = False
) -> Rectified:
    """Section 3 for one neuron of a ReLU layer: a, n and Σx up to t in, everything else out."""
    theta, half = neuron.threshold, Fraction(1, 2)
    phi, mean = theta * count / timestep, input_sum / timestep
    v = neuron.initial * theta + input_sum - theta * count
    relu, cut = max(mean, Fraction(0)), min(max(mean, Fraction(0)), theta)
    n_even = clip(floor(input_sum / theta + neuron.initial), -timestep if neuron.unguarded else 0, timestep)
    n_half = clip(floor(input_sum / theta + half), 0, timestep)
    own = phi - theta * n_even / timestep
    pieces = {
        "total": phi - a,
        "unevenness": Fraction(0) if silenced else own,
        "silencing": own if silenced else Fraction(0),
        "initial_potential": theta * (n_even - n_half) / timestep,
        "grid": theta * n_half / timestep - cut,
        "clipping": cut - relu,
        "inherited": relu - a,
    }
    equal = abs(phi - a) <= theta / (2 * timestep)
    psi = count - timestep * a / theta
    # Of the offset's key, of n_half and n_even, and of the residual bins.
    edges = (
        _gap(psi, half), _gap(input_sum / theta, half), _gap(input_sum / theta, neuron.initial),
        _gap(8 * v / theta, Fraction(0)),
    )  # fmt: skip
    return Rectified(
        alpha=a / theta,
        count=count,
        positive=a > 0,
        comparison="equal" if equal else "over" if phi > a else "under",
        local_positive=n_even > 0,
        local_comparison=_compare(count, n_even),
        residual="silenced" if silenced else "below" if v < 0 else "inside" if v < theta else "above",
        residual_bin=-1 if silenced else clip(floor((v / theta + 4) * 8) + 1, 0, 65),
        n_even=n_even,
        pieces={name: piece / theta for name, piece in pieces.items()},
        offset=0 if abs(psi) <= half else clip(round(psi), -32, 32),
        near_edge=any(edges),
    )


def _gap(value: Fraction, shift: Fraction) -> bool:
    """True where value + shift is within a hair of a whole number, and floats may not hold it exactly."""
    distance = _distance(value + shift)
    if distance == 0 and _is_short(value):
        return False
    return distance <= CLOSE * max(Fraction(1), abs(value) / 2**16)


def _is_short(value: Fraction) -> bool:
    """True where a float64 holds it, and its sums with small such numbers, exactly."""
    return value.denominator & (value.denominator - 1) == 0 and value.denominator <= 2**20 and abs(value) < 2**30


@dataclass(frozen=True)
class RectifiedTable:
    """Sums over neurons; moments, products and sums are exact, in units of θ and its square."""

    cases: list[list[list[int]]]
    local_cases: list[list[int]]
    joint: list[list[int]]
    moments: list[Fraction]
    products: list[list[Fraction]]
    sums: list[Fraction]
    """Σn, Σα, Σn², Σα², Σnα."""
    residual: list[int]
    largest: list[int]
    offsets: dict[int, int]


def tabulate_rectified(samples: Sequence[Sequence[Rectified]], lowest: int, highest: int) -> RectifiedTable:
    """Add up the neurons of some samples; counts from `lowest` to `highest` are told apart."""
    cases = [[[0] * 4 for _ in COMPARISONS] for _ in range(2)]
    local = [[0] * 3 for _ in range(2)]
    joint = [[0] * (highest - lowest + 1) for _ in range(65)]
    zero = Fraction(0)
    moments, products, sums = [zero] * 7, [[zero] * 7 for _ in range(7)], [zero] * 5
    residual, largest = [0] * 66, [0, -1, -1]
    offsets: dict[int, int] = {}
    for sample, neurons in enumerate(samples):
        for place, one in enumerate(neurons):
            cases[one.positive][COMPARISONS.index(one.comparison)][RESIDUALS.index(one.residual)] += 1
            local[one.local_positive][COMPARISONS.index(one.local_comparison)] += 1
            joint[one.offset + 32][clip(one.count, lowest, highest) - lowest] += 1
            pieces = [one.pieces[name] for name in TERMS]
            for i, piece in enumerate(pieces):
                moments[i] += piece
                for j, other in enumerate(pieces):
                    products[i][j] += piece * other
            n, alpha = Fraction(one.count), one.alpha
            sums = [known + new for known, new in zip(sums, (n, alpha, n * n, alpha**2, n * alpha), strict=True)]
            if one.residual_bin >= 0:
                residual[one.residual_bin] += 1
            offsets[one.offset] = offsets.get(one.offset, 0) + 1
            error = round(pieces[0] * UNITS)
            if abs(error) > abs(largest[0]):
                largest = [error, sample, place]
    return RectifiedTable(
        cases, local, joint, moments, products, sums, residual, largest, dict(sorted(offsets.items()))
    )
