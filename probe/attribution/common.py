"""What statistics of every kind share: the words for cases and pieces, the additive containers, ties and promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

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

LEVEL_TOLERANCE = 1e-3
"""How far a·L/θ may be from a whole number before a layer is refused as no QCFS layer with that θ and L."""
TIE = 1e-4
"""A neuron this close to a grid edge, in units of θ, may be flipped by float rounding."""
TOO_LARGE = "the sums of squared errors no longer fit in 64 bits; use fewer samples a recording"


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


def lawful(traits: Mapping[str, Any]) -> bool:
    """The conservation law v(T) = v(0) + Σx - θ·n holds, with one v(0) for the layer, for neurons of these traits."""
    harmless = not traits.get("leaky") and not traits.get("bounded") and traits.get("uniform_start", True)
    return traits.get("reset", "subtract") == "subtract" and bool(harmless)


def why_not_even(traits: Mapping[str, Any], initial_potential: float = 0.5) -> str | None:
    """The reason why n_even, local cases, residual key and attribution cannot be claimed; None where they can.

    n_even is what it says for a reset by subtraction, firing at >=, at most one spike a timestep, 0 <= v(0) < θ and an
    unbounded potential.

    Args:
        traits: of the layer's neurons, see `probe.families.Traits`.
        initial_potential: v(0) in units of θ.
    """
    if traits.get("reset", "subtract") != "subtract":
        return f"reset to {traits['reset']}: the conservation law needs a reset by subtraction"
    if traits.get("leaky"):
        return "the potential leaks, so the conservation law does not hold"
    if traits.get("bounded"):
        return "the potential is clipped from below, so the conservation law does not hold"
    if not traits.get("uniform_start", True):
        return "v(0) differs from neuron to neuron"
    if traits.get("fires_at", ">=") != ">=":
        return "the neuron fires strictly above its threshold"
    if traits.get("graded"):
        return "the neuron may fire more than one spike a timestep"
    if not 0 <= initial_potential < 1:
        return f"v(0) is {initial_potential:g} θ, outside [0, θ)"
    start = Fraction(initial_potential).limit_denominator(1000)
    if abs(float(start) - initial_potential) > 1e-6:
        return f"v(0) is {initial_potential:g} θ, no fraction with a denominator up to 1000"
    return None


@dataclass(frozen=True)
class Statistics:
    """Everything additive that is known of one layer at one t; `+` joins batches, parts and machines exactly.

    Attributes:
        cases: int64 (sign, comparison, residual): a = 0 or > 0; φ equal, over, under a; v(t) below, inside, above
            and, last, silenced by SRP's mask, where the law says nothing.
        local_cases: int64 (sign, comparison): the same against n_even instead of a.
        joint: int64 (k, n - lowest_count): neurons with each (k, n). ReLU: (offset key + 32, n - lowest_count).
        moments: int64 (term,): sums of the total and the six pieces, in units of θ/(L·t). ReLU: (term, limb), in θ.
        products: int64 (term, term): sums of their products, in units of (θ/(L·t))². ReLU: (.., limb), in θ².
        residual: int64 (bin,): residual potential, see `RESIDUAL_EDGES`; without silenced neurons.
        sums: int64 (5,): Σn, Σk, Σn², Σk², Σnk. ReLU: (5, limb), with a/θ in place of k.
        largest: int64 (3,): the largest error by magnitude, in units of θ/(L·t) (ReLU: θ/2³²), its sample and its
            neuron (flat index); sample and neuron are -1 where no neuron errs.
    """

    cases: Ints
    local_cases: Ints
    joint: Ints
    moments: Ints
    products: Ints
    residual: Ints
    sums: Ints
    largest: Ints

    def __add__(self, other: Statistics) -> Statistics:
        # The diagonal bounds all else: products by Cauchy and Schwarz, sums because whole numbers are.
        # Those of a ReLU layer are limbs, which have room to spare.
        whole = self.products.ndim == 2
        squares = zip(self.products.diagonal(), other.products.diagonal(), strict=True)
        if whole and max(int(one) + int(two) for one, two in squares) >= 2**63:
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
        per_sample: int64 (sample, grid t, 5): Σn, Σk, Σn², Σk², Σnk over the neurons of each sample; for ReLU float64,
            with a/θ in place of k, and NaN for it where there is no ANN.
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
