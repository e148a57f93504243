"""The figures engineers expect of φ against a: bias, RMSE, relative L2, SQNR, cosine, Pearson, with their intervals.

All follow from five sums over the neurons of all samples, so they are those of the whole data set, never a mean over
batches: Σn, Σk, Σn², Σk², Σnk, with φ = n/t and a = k/L in units of each neuron's own θ (for ReLU the sums hold a/θ
in place of k, as if L were 1). With e = φ - a and N neurons times samples::

    bias = Σe/N   RMSE = √(Σe²/N)   relative L2 = √(Σe²/Σa²)   SQNR = 10·log₁₀(Σa²/Σe²) dB
    cosine = Σφa/√(Σφ²·Σa²)         Pearson = the same of φ and a less their means

Where θ differs from channel to channel, a channel with a small θ so counts as much as one with a large θ.

Intervals are bootstrapped over samples: whole samples are drawn with replacement, and each figure is computed anew from
the sums of those drawn, because the neurons of one sample are not independent.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.attribution import AnalogCoding, Coding, Statistics
from probe.attribution.analog import LIMB_BITS, LOWEST_BIT
from probe.recording import Layer

FIGURES = ("bias", "rmse", "relative_l2", "sqnr_db", "cosine", "pearson")
RESAMPLES = 1000
CONFIDENCE = 0.95
SEED = 0
"""Of the bootstrap: the same recording gives the same interval."""
BLOCK = 1 << 22
"""Draws that are made at once."""
FLAT = 1e-12
"""A variance below this part of the mean square is none: what is left of float rounding."""

Array = npt.NDArray[np.float64]


def figures_at(layer: Layer, t: int, statistics: Statistics, coding: Coding | AnalogCoding) -> dict[str, Any]:
    """The figures of one layer at one t, as `figures` in the JSON of `probe unevenness`.

    Args:
        layer: for the sums of each of its samples.
        t: the timestep.
        statistics, coding: the layer's at t.

    Returns:
        Each of `FIGURES`, None where it is undefined; `interval`, each with `low` and `high`, or None; `reasons` for
        every None.
    """
    values, reasons = pooled_figures(statistics, coding)
    interval, reason = None, why_no_interval(layer, t)
    if reason is None:
        drawn = figures_of(resampled(sample_sums(layer, t, coding)))
        interval = {name: bounds(drawn[name]) if values[name] is not None else None for name in FIGURES}
        reasons |= {
            f"interval.{name}": "undefined in some of the draws"
            for name, found in interval.items()
            if found is None and values[name] is not None
        }
    else:
        reasons["interval"] = reason
    return {**values, "interval": interval, "reasons": reasons}


def pooled_figures(
    statistics: Statistics, coding: Coding | AnalogCoding
) -> tuple[dict[str, float | None], dict[str, str]]:
    """The figures behind some statistics, computed in fractions and rounded once, and why some are None."""
    count = int(statistics.cases.sum())
    levels, t = coding.levels or 1, coding.timestep
    n, k, n2, k2, nk = map(_whole, statistics.sums)
    a, phi, aa, pp, pa = k / levels, n / t, k2 / levels**2, n2 / t**2, nk / (levels * t)
    ee = max(pp - 2 * pa + aa, Fraction())
    centred = (aa - a * a / count, pp - phi * phi / count, pa - a * phi / count)
    found = _figures(*(np.array([float(value)]) for value in (count, phi - a, ee, aa, pp, pa, *centred)))
    values = {name: None if np.isnan(found[name][0]) else float(found[name][0]) for name in FIGURES}
    silent = "the ANN's output is zero everywhere" if not aa else "no neuron has fired" if not pp else ""
    why = {
        "relative_l2": silent, "sqnr_db": silent if not aa else "there is no error", "cosine": silent,
        "pearson": silent or "one of the two is the same everywhere",
    }  # fmt: skip
    return values, {name: why[name] for name in FIGURES if values[name] is None}


def _whole(value: Any) -> Fraction:
    """One of `Statistics.sums`: a whole number, or limbs."""
    if np.ndim(value) == 0:
        return Fraction(int(value))
    return Fraction(sum(int(limb) << (LIMB_BITS * i) for i, limb in enumerate(value)), 1 << -LOWEST_BIT)


def why_no_interval(layer: Layer, t: int) -> str | None:
    """The reason why a layer has no sums of each sample at t; None where it has them, for more samples than one."""
    if layer.recording.samples < 2:
        return "a single sample has no spread"
    if layer.per_sample_at(t) is not None:
        return None
    kept = ", ".join(map(str, layer.per_sample_timesteps))
    return f"sums of each sample are kept at t = {kept}" if kept else "no sums of each sample are kept"


def sample_sums(layer: Layer, t: int, coding: Coding | AnalogCoding) -> Array:
    """What the figures of each sample follow from, (sample, 8): N, Σe, Σe², Σa², Σφ², Σφa, Σa, Σφ in units of θ."""
    kept = layer.per_sample_at(t)
    assert kept is not None
    n, k, n2, k2, nk = kept.T
    levels = coding.levels or 1
    # Whole numbers of QCFS: what overflows on the way comes back, for the results fit.
    error, square = n * levels - k * t, n2 * levels**2 - 2 * levels * t * nk + k2 * t**2
    columns = (
        np.full(len(kept), layer.neurons), error / (levels * t), np.maximum(square, 0) / (levels * t) ** 2,
        k2 / levels**2, n2 / t**2, nk / (levels * t), k / levels, n / t,
    )  # fmt: skip
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=1)


def figures_of(sums: Array) -> dict[str, Array]:
    """The figures of many sets of samples at once.

    Args:
        sums: those of `sample_sums`, added up over the samples of each set, (set, 8).

    Returns:
        Figure -> (set,); NaN where it is undefined.
    """
    count, error, square, aa, pp, pa, a, phi = sums.T
    centred = (aa - a * a / count, pp - phi * phi / count, pa - a * phi / count)
    centred = (*(np.where(c > FLAT * whole, c, 0) for c, whole in zip(centred[:2], (aa, pp), strict=True)), centred[2])
    return _figures(count, error, square, aa, pp, pa, *centred)


def _figures(
    count: Array, error: Array, square: Array, aa: Array, pp: Array, pa: Array, caa: Array, cpp: Array, cpa: Array
) -> dict[str, Array]:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((aa > 0) & (square > 0), aa / square, np.nan)
        values = (
            error / count, np.sqrt(square / count), np.where(aa > 0, np.sqrt(square / aa), np.nan),
            10 * np.log10(ratio), np.where((aa > 0) & (pp > 0), np.clip(pa / np.sqrt(aa) / np.sqrt(pp), -1, 1), np.nan),
            np.where((caa > 0) & (cpp > 0), np.clip(cpa / np.sqrt(caa) / np.sqrt(cpp), -1, 1), np.nan),
        )  # fmt: skip
    return dict(zip(FIGURES, values, strict=True))


# --------------------------------------------------------------------------------------------------- bootstrap


@lru_cache(maxsize=2)
def _draws(samples: int, seed: int) -> tuple[npt.NDArray[np.uint16], ...]:
    """How often each sample is drawn in each of `RESAMPLES` draws of `samples`, in blocks of rows (draw, sample)."""
    random, rows = np.random.default_rng(seed), max(1, BLOCK // samples)

    def blocks() -> Iterator[npt.NDArray[np.uint16]]:
        for first in range(0, RESAMPLES, rows):
            size = min(rows, RESAMPLES - first)
            drawn = random.integers(0, samples, (size, samples)) + np.arange(size)[:, None] * samples
            yield np.bincount(drawn.ravel(), minlength=size * samples).reshape(size, samples).astype(np.uint16)

    return tuple(blocks())


def resampled(values: Array, seed: int = SEED) -> Array:
    """The sums of values (sample, what) over samples drawn with replacement, (draw, what); each time the same draws."""
    return np.concatenate([block.astype(np.float64) @ values for block in _draws(len(values), seed)])


def bounds(drawn: Array) -> dict[str, float] | None:
    """The 95% interval of a figure from its values in all draws; None where it is undefined in some."""
    if not bool(np.isfinite(drawn).all()):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return {"low": float(low), "high": float(high)}
