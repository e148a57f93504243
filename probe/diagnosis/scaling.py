"""Checks of what becomes of spikes behind a layer: scaled by θ once, and averaged over time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from probe.diagnosis.evidence import Gain, Sides, gain, inputs_of, outputs_of, paste, theta_of
from probe.diagnosis.findings import Finding
from probe.recording import Layer, Recording

FACTOR = 1.15
"""From this factor on a layer is fed otherwise than its weights say; conversion errors alone make it 1.05."""
GROSS = 2.0
"""A factor that is no θ and no T has to be as large: it may come of errors that are not spread alike."""
WITHIN = 0.08
"""A factor is θ, 1/θ or T if it is that within a twelfth."""
FOLLOWS = 0.85
"""A factor means something from this correlation on, of the layer's output and of what is behind it: at T = 2 a layer
reaches it, and one whose activations are mostly clipped does not."""
PAIRS = 200
"""And from this many numbers on."""


LOGITS = "the logits"


class Passed(NamedTuple):
    """What a layer's spikes become in the input of the next."""

    layer: Layer
    to: str
    factor: float
    """1 where the SNN's weights are the ANN's and spikes are scaled by θ."""
    behind: Gain


def _passed(recording: Recording) -> Iterator[Passed]:
    """For each layer whose successor is recorded too: the gain behind it, less what it does itself."""
    layers = recording.layers
    for layer, after in zip(layers, (*layers[1:], None), strict=True):
        last = layer.index == len(recording.facts["order"]) - 1
        if not layer.paired or (after is None and not last) or (after is not None and after.index != layer.index + 1):
            continue
        of_layer = outputs_of(layer)
        ahead = logits_of(recording) if after is None else inputs_of(after)
        if of_layer is None or ahead is None:
            continue
        here, behind = gain(of_layer), gain(ahead)
        if here is None or behind is None or behind.pairs < PAIRS or here.slope <= 0 or behind.slope <= 0:
            continue
        if min(here.correlation, behind.correlation) >= FOLLOWS:
            to = LOGITS if after is None else f"layer {after.index} ({after.name})"
            yield Passed(layer, to, behind.slope / here.slope, behind)


def logits_of(recording: Recording) -> Sides | None:
    """The ANN's logits and the mean of the SNN's, as the input of a last layer."""
    if not recording.has_ann:
        return None
    return Sides(recording.ann_logits.astype(np.float64), recording.snn_logits.astype(np.float64).mean(1))


def _is(factor: float, value: float) -> bool:
    return abs(math.log(factor / value)) <= WITHIN


def _meaning(factor: float, theta: float, timesteps: int) -> tuple[str, str] | None:
    """What a factor is, and what to change; None where nothing is wrong with it."""
    if abs(math.log(factor)) < math.log(FACTOR):
        return None
    if _is(factor, 1 / theta):
        return (
            f"its spikes are passed on as 0 and 1, not scaled by its θ = {theta:.4g}",
            "multiply the spikes by θ once (height=θ), or the next layer's weights",
        )
    if _is(factor, theta):
        return (
            f"its spikes are scaled by its θ = {theta:.4g} twice",
            "scale by θ once: in the neuron, in a scaler behind it, or in the next layer's weights",
        )
    if _is(factor, timesteps):
        return (
            "its spikes are summed over time, not averaged",
            "divide by T, or pass on one timestep's spikes at a time",
        )
    if _is(factor, 1 / timesteps):
        return "its spikes are divided by T, though each timestep is passed on alone", "do not divide by T"
    if abs(math.log(factor)) < math.log(GROSS):
        return None
    return (
        "what it passes on is scaled by another number than θ, or the next weights are not the ANN's",
        "compare the scaling behind the layer and the next layer's weights in both networks",
    )


def spike_scaling(recording: Recording) -> Iterator[Finding]:
    """Spikes that are not scaled by θ, are scaled twice, or are summed where they should be averaged."""
    for passed in _passed(recording):
        theta = float(theta_of(passed.layer).mean())
        meaning = _meaning(passed.factor, theta, recording.timesteps)
        if meaning is None or (passed.to == LOGITS and _cumulative(recording) is not None):
            continue
        what, advice = meaning
        yield Finding(
            "spike-scaling", "error", passed.layer.name,
            f"{passed.to} {'get' if passed.to == LOGITS else 'gets'} {passed.factor:.3g} times what the ANN's "
            f"{'get' if passed.to == LOGITS else 'gets'}: {what}",
            {"factor": passed.factor, "theta": theta, "correlation": passed.behind.correlation,
             "numbers_compared": passed.behind.pairs}, advice,
            paste(recording, "plot phi", passed.layer, "phi"), passed.layer.index,
        )  # fmt: skip
        # What comes behind is fed wrong numbers, and says nothing more.
        return


def _cumulative(recording: Recording) -> list[float] | None:
    """The slope of the SNN's logits on the ANN's at each t, where it grows with t as of a sum over time."""
    if not recording.has_ann or recording.timesteps < 3:
        return None
    ann, snn = recording.ann_logits.astype(np.float64), recording.snn_logits.astype(np.float64)
    found = [gain(Sides(ann, snn[:, t])) for t in range(recording.timesteps)]
    if any(one is None for one in found):
        return None
    slopes = np.array([one.slope for one in found if one is not None])
    t = np.arange(1, recording.timesteps + 1)
    # Of a sum, each timestep adds what the ANN has; of single timesteps, none of the later ones does.
    growth = float(np.polyfit(t, slopes, 1)[0])
    fits = float(np.corrcoef(t, slopes)[0, 1]) if slopes.std() > 0 else 0.0
    return [float(value) for value in slopes] if fits > 0.95 and slopes[-1] > recording.timesteps / 2 and growth > 0.5 \
        else None  # fmt: skip


def summed_logits(recording: Recording) -> Iterator[Finding]:
    """Logits that are sums over time already, which are summed again."""
    slopes = _cumulative(recording)
    if slopes is not None:
        yield Finding(
            "summed-logits", "warning", None,
            "the SNN's logits at t are sums over the timesteps up to t, and accuracy at t sums them again: the first "
            "timesteps count most",
            {"slope_on_ann_logits_at_t": slopes},
            "return each timestep's own logits; averages and sums over t are taken of them",
            paste(recording, "plot accuracy", None, "accuracy"),
        )  # fmt: skip
