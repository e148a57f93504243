"""Checks of θ against what a layer is fed: not loaded, or scaled by the wrong number, in both networks alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from probe.attribution.analog import OFFSETS
from probe.diagnosis.dynamics import inferred_threshold
from probe.diagnosis.evidence import lost_by_conversion, paste, shares_at
from probe.diagnosis.findings import Finding
from probe.diagnosis.health import ENOUGH
from probe.recording import Layer, Recording

FAR_ABOVE = 0.5
"""θ is far above what a layer is fed if no neuron's φ or a reaches this share of it in any sample; of a trained or
calibrated θ, some reach it."""
FAR_BELOW = 0.5
"""And far below if at least this share of the neurons that are active stand at their ceiling: of trained networks, the
ANN's activations do in 0.1 to 0.2."""
FEW_LEVELS = 2
"""Of so few levels the share at the ceiling says nothing."""
CLIPPED = 0.05
"""Or if clipping costs as much, as a mean square in θ²: calibrating at 99.9% leaves a thousandth."""


def _tops(layer: Layer) -> dict[str, float]:
    """The largest φ and a that occur, and the share of active neurons at their ceiling; in units of θ, at T."""
    statistics, steps = layer.statistics_at(layer.recording.timesteps), layer.recording.timesteps
    if statistics is None:
        return {}
    coding = layer.coding(steps)
    assert coding is not None
    n = np.flatnonzero(statistics.joint.sum(0)) + coding.lowest_count
    found = {"largest_phi": float(n.max()) / steps}
    if layer.levels is None:
        found["largest_activation"] = _largest_activation(layer)
    else:
        by_level = statistics.joint.sum(1)
        found["largest_activation"] = float(np.flatnonzero(by_level).max()) / layer.levels
        # With one or two levels, most of what is active is at the ceiling.
        if layer.levels > FEW_LEVELS:
            found["active_at_ceiling"] = float(by_level[-1] / max(1, by_level[1:].sum()))
    return found


def _largest_activation(layer: Layer) -> float:
    """The largest a of a ReLU layer, in units of θ; without arrays the largest that the statistics leave possible."""
    recording = layer.recording
    if layer.has("ann_output"):
        parts = (layer.read("ann_output", slice(i, min(i + 32, recording.samples))) / layer.threshold
                 for i in range(0, recording.samples, 32))  # fmt: skip
        return max(float(part.max()) for part in parts)
    coding, statistics = layer.coding(recording.timesteps), layer.statistics_at(recording.timesteps)
    assert coding is not None
    assert statistics is not None
    keys, counts = np.nonzero(statistics.joint)
    # n - T·a/θ is known to half a spike.
    return float((counts + coding.lowest_count - (keys - OFFSETS) + 0.5).max()) / recording.timesteps


def threshold(recording: Recording) -> Iterator[Finding]:
    """A θ other than is declared, or far from what its layer is fed."""
    yield from inferred_threshold(recording)
    yield from threshold_range(recording)


def threshold_range(recording: Recording) -> Iterator[Finding]:
    """θ far above or far below what the layer is fed."""
    alike, cost = _all_alike(recording), lost_by_conversion(recording)
    for layer in recording.layers:
        if not layer.paired or recording.samples < ENOUGH or not (found := _tops(layer)):
            continue
        if found["largest_phi"] <= 0:
            # It is silent, of which another check speaks.
            continue
        shares = shares_at(layer, recording.timesteps)
        clipped = 0.0 if shares is None else shares.piece["clipping"]
        above = max(found["largest_phi"], found.get("largest_activation", 0.0)) <= FAR_ABOVE
        below = found.get("active_at_ceiling", 0.0) >= FAR_BELOW or clipped >= CLIPPED
        if not above and not below:
            continue
        theta = float(layer.threshold.mean())
        evidence: dict[str, Any] = {"theta": theta, **found, **({"clipping_mean_square": clipped} if clipped else {}),
                                    **({"theta_in_every_layer": theta} if alike else {})}  # fmt: skip
        place = "above" if above else "below"
        initial = ", and every layer has the same: the trained thresholds were not loaded"
        severity = "error" if alike else "warning"
        if not above and (cost is None or not cost.significant):
            # Trained networks may clip much and be none the worse.
            severity = "note"
        yield Finding(
            "threshold", severity, layer.name,
            f"θ = {theta:.4g} is far {place} what the layer is fed" + (initial if alike else ""),
            evidence,
            "load the trained thresholds, and see that they are scaled once" if layer.levels is not None else
            "calibrate θ on the data that the network is run on (--calibrate 99.9%)",
            paste(recording, "plot phi", layer, "phi"), layer.index,
        )  # fmt: skip
        return


def _all_alike(recording: Recording) -> bool:
    """Trained thresholds differ from layer to layer; three or more that do not are what they were before training."""
    of_levels = [layer for layer in recording.layers if layer.levels is not None]
    return len(of_levels) > 2 and len({float(value) for layer in of_levels for value in layer.threshold.ravel()}) == 1
