"""The colours of cases, pieces and spikes, the same in every picture and in the report; loads no matplotlib.

Categories have the colours of Okabe and Ito (2008) and greys, which colour-blind readers can tell apart; maps are
`viridis`, differences `RdBu_r`, red where the SNN is over the ANN.
"""

from __future__ import annotations

from probe.attribution import CASES, TERMS

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY, LIGHT = "#8C8C8C", "#D4D4D4"
MAP, DIVERGING = "viridis", "RdBu_r"

EQUAL, OVER, UNDER = GREY, RED, BLUE
"""φ = a, φ > a and φ < a, wherever only these are told apart; also spikes: negative ones are RED."""

RESIDUAL_COLOURS = (SKY, GREY, ORANGE)
"""Residual potential below 0, inside [0, θ), above."""
CASE_COLOURS = dict(zip(CASES, (LIGHT, ORANGE, SKY, EQUAL, OVER, UNDER), strict=True))
CASE_LABELS = dict(zip(CASES, (f"a {sign} 0, φ {than} a" for sign in "=>" for than in "=><"), strict=True))
TERM_COLOURS = dict(zip(TERMS, (BLACK, RED, PURPLE, ORANGE, GREEN, SKY, BLUE), strict=True))
TERM_LABELS = {**{term: term.replace("_", " ") for term in TERMS}, "total": "total, φ − a"}
