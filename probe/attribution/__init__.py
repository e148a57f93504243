"""Where a conversion error comes from: classify every neuron -> count -> summarise.

Symbols, as everywhere: θ threshold, L levels, t timestep (T the last), n net spike count up to t, Σx the summed input,
u = Σx/θ, v(0) the initial potential. The SNN gives φ(t) = θ·n/t. A QCFS ANN gives a = k·θ/L, so all of a neuron's error
follows from whole numbers and every sum is exact (`levels`); a ReLU ANN gives any a >= 0, and sums are float64 a
sample, taken in a fixed order and added up exactly (`analog`). Both give the same `Statistics`.
"""

from probe.attribution.analog import AnalogCoding
from probe.attribution.common import (
    CASES,
    COMPARISONS,
    LEVEL_TOLERANCE,
    NO_ERROR,
    PIECES,
    RESIDUAL_BINS_PER_THRESHOLD,
    RESIDUAL_EDGES,
    RESIDUAL_LIMIT,
    RESIDUALS,
    SIGNS,
    TERMS,
    TIE,
    TOO_LARGE,
    Floats,
    Ints,
    LayerStatistics,
    Statistics,
    comparison,
    larger_error,
    lawful,
    near_tie,
    why_not_even,
)
from probe.attribution.levels import (
    DENSE,
    Coding,
    NotWhole,
    Rows,
    count,
    histogram,
    levels_of,
    offset_spikes,
    statistics_of,
    sums_of,
)
from probe.attribution.summary import summarise

__all__ = [
    "CASES",
    "COMPARISONS",
    "DENSE",
    "LEVEL_TOLERANCE",
    "NO_ERROR",
    "PIECES",
    "RESIDUALS",
    "RESIDUAL_BINS_PER_THRESHOLD",
    "RESIDUAL_EDGES",
    "RESIDUAL_LIMIT",
    "SIGNS",
    "TERMS",
    "TIE",
    "TOO_LARGE",
    "AnalogCoding",
    "Coding",
    "Floats",
    "Ints",
    "LayerStatistics",
    "NotWhole",
    "Rows",
    "Statistics",
    "comparison",
    "count",
    "histogram",
    "larger_error",
    "lawful",
    "levels_of",
    "near_tie",
    "offset_spikes",
    "statistics_of",
    "summarise",
    "sums_of",
    "why_not_even",
]
