"""From statistics to the numbers a reader wants."""

from __future__ import annotations

from typing import Any

from probe.attribution.analog import AnalogCoding
from probe.attribution.common import CASES, RESIDUALS, TERMS, Statistics
from probe.attribution.levels import Coding


def summarise(statistics: Statistics, coding: Coding | AnalogCoding) -> dict[str, Any]:
    """The numbers a reader wants of one layer at one t; means are in units of θ, shares are signed and add up to 1.

    Returns:
        `count`, `cases`, `local_cases`, `attribution`, `offset_spikes`, `residual` and `largest_error`, as in the
        JSON of `probe unevenness`; a share is None where the total is 0.
    """
    samples = int(statistics.cases.sum())
    square = coding.product(statistics, 0, 0)
    attribution: dict[str, dict[str, float | None]] = {}
    for i, term in enumerate(TERMS):
        entry: dict[str, float | None] = {
            "mean": coding.moment(statistics, i) / samples,
            "mean_square": coding.product(statistics, i, i) / samples,
        }
        if term != "total":
            entry["share"] = coding.product(statistics, i, 0) / square if square else None
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
        "offset_spikes": {str(key): number for key, number in coding.offsets(statistics).items()},
        "residual": residual,
        "largest_error": None if sample < 0 else {"error": coding.error(value), "sample": sample, "neuron": neuron},
    }
