"""What a MODEL is: `zoo:NAME`, or a module given from Python; it becomes a `Subject` by the family that fits."""

from __future__ import annotations

from torch import nn

from probe import zoo
from probe.errors import ProbeError
from probe.families import Subject, own
from probe.neurons import NEURONS, NeuronSpec


def open_model(name: str) -> nn.Module:
    """The model that `name` stands for.

    Raises:
        ProbeError: there is none.
    """
    return zoo.load(_in_zoo(name))


def bundled_data(name: str) -> str | None:
    """The bundled data that a model was trained on; None where the user has to name it.

    Raises:
        ProbeError: there is no such model.
    """
    return zoo.ZOO[_in_zoo(name)][1]


def _in_zoo(name: str) -> str:
    kind, _, rest = name.partition(":")
    if kind != "zoo" or rest not in zoo.ZOO:
        known = ", ".join(f"zoo:{known}" for known in zoo.ZOO)
        raise ProbeError(f"unknown model {name}", expected=f"one of {known}")
    return rest


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
