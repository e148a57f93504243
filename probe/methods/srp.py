"""SRP (Hao et al., AAAI 2023): τ pre-simulation steps; neurons whose potential is at most 0.001·θ then stay silent."""

from __future__ import annotations

from dataclasses import replace

from probe.methods import integrate, negative
from probe.methods.parameters import Parameters
from probe.neurons import NeuronSpec


def srp(parameters: Parameters) -> NeuronSpec:
    """IF neurons under SRP's mask."""
    return replace(integrate.neurons(parameters), presteps=parameters.presteps)


def srp_negspike(parameters: Parameters) -> NeuronSpec:
    """NegSpike neurons under SRP's mask."""
    return replace(negative.negspike(parameters), presteps=parameters.presteps)
