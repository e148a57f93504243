"""The plain integrate-and-fire neuron with a soft reset; v(0) = θ/2 by default (Bu et al., ICLR 2022)."""

from __future__ import annotations

from probe.methods.parameters import Parameters
from probe.neurons import NeuronSpec


def neurons(parameters: Parameters) -> NeuronSpec:
    """IF neurons."""
    return NeuronSpec(initial_potential=parameters.initial_potential)
