"""The methods whose neurons run step by step, by the names of `probe.neurons`: IF, SNM, NegSpike and those of SRP."""

from __future__ import annotations

from collections.abc import Callable

from probe.methods.parameters import Parameters
from probe.neurons import NeuronSpec


def neurons(name: str) -> Callable[[Parameters], NeuronSpec]:
    """The neurons called `name`: IF (Bu, ICLR 2022), SNM (Wang, IJCAI 2022), NegSpike, SRP (Hao, AAAI 2023)."""

    def made(parameters: Parameters) -> NeuronSpec:
        return NeuronSpec.named(name, presteps=parameters.presteps, initial_potential=parameters.initial_potential)

    return made
