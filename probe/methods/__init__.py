"""The conversion methods: which neurons stand in place of an ANN's activations, by the names that papers give them.

A method turns `Parameters` into the description of its neurons, which has `make(theta)` (the module of a layer, with
`reset`, `potential` and `silenced`), `traits`, `layout` and `initial_potential`. Another method is one file here and
one line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from probe.methods import cos, stepwise
from probe.methods.parameters import Parameters


class Neurons(Protocol):
    """The neurons of a method: `probe.neurons.NeuronSpec` is one such description."""

    @property
    def initial_potential(self) -> float:
        """v(0) in units of θ."""

    @property
    def layout(self) -> str:
        """How calls carry time, one of `probe.families.LAYOUTS`."""

    @property
    def traits(self) -> dict[str, Any]:
        """What differs from `probe.families.Traits()`."""

    def make(self, theta: Tensor) -> nn.Module:
        """The neurons of a layer with threshold θ."""


@dataclass(frozen=True)
class Method:
    """A conversion method.

    Attributes:
        neurons: gives its neurons.
        summary: what it does, in a line.
        causal: one run of T steps gives every t <= T.
    """

    neurons: Callable[[Parameters], Neurons]
    summary: str
    causal: bool = True


METHODS: dict[str, Method] = {
    "if": Method(stepwise.neurons("if"), "integrate and fire, v(0) = θ/2"),
    "snm": Method(stepwise.neurons("snm"), "a negative spike where v <= -θ and the net count is above 0"),
    "negspike": Method(stepwise.neurons("negspike"), "a negative spike where v < 0 and the net count is above 0"),
    "srp": Method(stepwise.neurons("srp"), "pre-simulation, then neurons that ended at v <= 0.001·θ are silenced"),
    "srp+negspike": Method(stepwise.neurons("srp+negspike"), "srp, with negative spikes"),
    "cos": Method(cos.Cos, "v(0) shifted by one spike, neuron by neuron, after a pre-simulation", causal=False),
}
"""Name -> method."""

__all__ = ["METHODS", "Method", "Neurons", "Parameters"]
