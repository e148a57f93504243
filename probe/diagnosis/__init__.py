"""The diagnosis of a recording: registered checks, each of which gives findings with their evidence.

A check is a function of an open recording; another is a function in a file here and a line in `CHECKS`. What only the
networks themselves can tell is asked in `probe.diagnosis.networks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from probe.diagnosis import dynamics, health, samples, scaling, sources, thresholds
from probe.diagnosis.findings import Finding, as_json, reaches, worst_first
from probe.recording import Recording


@dataclass(frozen=True)
class Check:
    """A check of a recording.

    Attributes:
        run: gives what it finds; of a healthy recording nothing.
        summary: what it looks for, in a line.
    """

    run: Callable[[Recording], Iterable[Finding]]
    summary: str


UNEXPLAINED = "unexplained-loss"
"""Told only where nothing above a note explains it."""
CHECKS: dict[str, Check] = {
    "mispaired-samples": Check(samples.mispaired_samples, "the ANN of one sample beside the SNN of another"),
    "preprocessing": Check(samples.preprocessing, "the two networks are fed differently prepared samples"),
    "first-layer-oracle": Check(samples.first_layer_oracle, "a first layer errs where it cannot, for no known reason"),
    "time-layout": Check(dynamics.time_layout, "timesteps and samples are exchanged"),
    "not-reset": Check(dynamics.not_reset, "potentials go on from batch to batch"),
    "reset-rule": Check(dynamics.hard_reset, "a hard reset where a soft one is declared"),
    "leak": Check(dynamics.leak, "a leak where none is declared"),
    "conservation-law": Check(dynamics.unknown_neuron, "neurons that are none that is known"),
    "initial-potential": Check(sources.initial_potential, "v(0) other than declared, or than θ/2"),
    "threshold": Check(thresholds.threshold, "θ other than declared, or far from what the layer is fed"),
    "several-spikes": Check(dynamics.several_spikes, "several spikes a timestep, or graded ones"),
    "spike-scaling": Check(scaling.spike_scaling, "spikes not scaled by θ, scaled twice, or summed over time"),
    "summed-logits": Check(scaling.summed_logits, "logits that are sums over time already"),
    "non-linear-on-spikes": Check(health.bends_on_spikes, "max-pooling, or another bend, on spikes"),
    "training-mode": Check(health.training_mode, "dropout or batch norm in training mode"),
    "without-partner": Check(health.without_partner, "layers that only one network executes"),
    "silent": Check(health.silent, "layers and channels that never fire"),
    "saturated": Check(health.saturated, "layers and channels that fire at every timestep"),
    "not-finite": Check(health.not_finite, "NaN or infinity"),
    "grid": Check(sources.grids, "L and T on different grids, and what each t costs"),
    "own-error": Check(sources.own_error, "a layer whose error is mostly its own, of which kind, and the remedy"),
    "inherited-error": Check(sources.inherited_error, "layers that inherit their error, and where it starts"),
    "head": Check(sources.head, "logits that differ by more than what reaches them: other weights behind the layers"),
    "falling-accuracy": Check(sources.falling_accuracy, "accuracy that falls again as T grows"),
    UNEXPLAINED: Check(sources.unexplained_loss, "accuracy that is lost, and nothing else to say why"),
}
"""Name -> check."""


def findings_of(recording: Recording, checks: Mapping[str, Check] | None = None) -> list[Finding]:
    """What the checks find in a recording, worst first."""
    found = [one for check in (CHECKS if checks is None else checks).values() for one in check.run(recording)]
    return worst_first(explained(found))


def explained(findings: Iterable[Finding]) -> list[Finding]:
    """Without the loss that nothing explains, where something does."""
    found = list(findings)
    others = [one for one in found if one.check != UNEXPLAINED]
    return others if reaches(others, "warning") else found


def told(recording: Recording, findings: Iterable[Finding]) -> dict[str, Any]:
    """The object that `probe diagnose --json` prints."""
    return {
        "schema": "probe-diagnose/1", "file": str(recording.path), "complete": recording.complete,
        "samples": recording.samples, "timesteps": recording.timesteps, "findings": [as_json(one) for one in findings],
    }  # fmt: skip
