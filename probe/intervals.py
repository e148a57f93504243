"""Confidence intervals."""

from __future__ import annotations

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
