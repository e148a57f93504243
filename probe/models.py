"""What a MODEL is: `zoo:NAME`, or a module given from Python; it becomes a `Subject` by the family that fits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from probe.errors import ProbeError
from probe.families import Subject, own
from probe.neurons import NEURONS, NeuronSpec


@dataclass(frozen=True)
class Model:
    """A network with what its source says of it."""

    name: str
    network: nn.Module
    data: str | None
    """The bundled data it was trained on, or None where the user has to name it."""


def open_model(name: str) -> Model:
    """The model that `name` stands for.

    Raises:
        ProbeError: there is none.
    """
    from probe import zoo

    kind, _, rest = name.partition(":")
    if kind != "zoo" or not rest:
        known = ", ".join(f"zoo:{known}" for known in zoo.ZOO)
        raise ProbeError(f"unknown model {name!r}", expected=f"one of {known}")
    return Model(name, zoo.load(rest), zoo.ZOO[rest][1] if rest in zoo.ZOO else None)


def adapt(network: nn.Module, neuron: str, *, presteps: int = 4, levels: int | None = None) -> Subject:
    """Pair a network's activations with spiking neurons.

    Args:
        network: the ANN.
        neuron: `if`, `snm`, `negspike`, `srp` or `srp+negspike`.
        presteps: τ, for SRP.
        levels: L instead of the trained one.

    Raises:
        ProbeError: the network, the neuron or a number does not fit.
    """
    if neuron not in NEURONS:
        raise ProbeError(f"unknown neuron {neuron!r}", expected=f"one of {', '.join(NEURONS)}")
    if levels is not None and not 1 <= levels <= 255:
        raise ProbeError(f"{levels} levels", expected="1 to 255", next_step="pass --levels L")
    if not 1 <= presteps <= 1000:
        raise ProbeError(f"{presteps} pre-simulation steps", expected="1 to 1000", next_step="pass --srp-steps N")
    if own.match(network):
        return own.adapt(network, neuron, NeuronSpec.named(neuron, presteps=presteps), levels)
    seen = ", ".join(sorted({type(module).__name__ for module in network.modules() if not list(module.children())}))
    raise ProbeError(f"no spiking layer found among {seen}", expected="a network with probe.neurons.QCFS activations")
