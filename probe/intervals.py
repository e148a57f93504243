"""Confidence intervals, and how likely a difference between two runs over the same samples is by chance."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def wilson(share: Floats, samples: int, z: float = 1.96) -> tuple[Floats, Floats]:
    """Wilson's interval of a share of so many samples: (p + z²/2n ± z·√(p(1-p)/n + z²/4n²)) / (1 + z²/n).

    Args:
        share: p, any shape, in [0, 1].
        samples: n.
        z: 1.96 for 95%.
    """
    middle = share + z * z / (2 * samples)
    half = z * np.sqrt(share * (1 - share) / samples + (z / (2 * samples)) ** 2)
    scale = 1 + z * z / samples
    return (middle - half) / scale, (middle + half) / scale


def accuracy_of(right: npt.NDArray[np.bool_]) -> dict[str, float]:
    """The share of samples that are right, (sample,), with Wilson's 95% interval."""
    share = right.mean()
    low, high = wilson(np.array([share]), len(right))
    return {"accuracy": float(share), "low": float(low[0]), "high": float(high[0])}


def chance(lost: int, won: int) -> float:
    """How often chance loses as many samples, or more, of those whose answer changed: the exact test of McNemar.

    Each of lost + won samples is lost with probability ½: p = Σ_{k >= lost} C(lost + won, k) / 2^(lost + won).
    """
    number = lost + won
    if number > 2000:
        # The normal distribution, off by less than 1e-3 of p here.
        return 0.5 * math.erfc((lost - 0.5 - number / 2) / math.sqrt(number / 2))
    ways: int = sum(math.comb(number, k) for k in range(lost, number + 1))
    return ways / (1 << number)


def sign_test(gained: int, lost: int) -> float:
    """How likely a split at least as uneven is by chance, to either side: the exact test of McNemar, two-sided."""
    return min(1.0, 2 * chance(max(gained, lost), min(gained, lost)))
