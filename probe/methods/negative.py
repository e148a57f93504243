"""Negative spikes: SNM (Wang et al., IJCAI 2022) and the lab notes' NegSpike, both guarded by the net count."""

from __future__ import annotations

from dataclasses import replace

from probe.methods import integrate
from probe.methods.parameters import Parameters
from probe.neurons import NEGATIVE, NeuronSpec


def snm(parameters: Parameters) -> NeuronSpec:
    """A negative spike where v <= -θ."""
    return replace(integrate.neurons(parameters), negative=NEGATIVE["snm"])


def negspike(parameters: Parameters) -> NeuronSpec:
    """A negative spike where v < 0."""
    return replace(integrate.neurons(parameters), negative=NEGATIVE["negspike"])
