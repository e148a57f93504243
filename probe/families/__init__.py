"""The families: how a kind of network is recognised, run as ANN, run as SNN and reset.

A family turns a user's model into a `Subject`; what may be claimed of its neurons (the conservation law, n_even)
follows from the `Traits` alone. Another family is one file here and one line in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn


@dataclass(frozen=True)
class Traits:
    """How a family's spiking neurons behave.

    Attributes:
        reset: `subtract` (soft) or `zero` (hard).
        fires_at: `>=` or `>`.
        signed: there are negative spikes.
        guarded: negative spikes never take the net count below 0.
        graded: several spikes a timestep, or other heights than θ.
        causal: one run of T steps gives every t <= T.
        presteps: τ, the steps before recording starts, after which a neuron may be silenced.
        exposes_potential: the module shows v(t).
    """

    reset: str = "subtract"
    fires_at: str = ">="
    signed: bool = False
    guarded: bool = True
    graded: bool = False
    causal: bool = True
    presteps: int = 0
    exposes_potential: bool = True

    def plain(self) -> dict[str, Any]:
        """As a recording keeps them."""
        return asdict(self)


def _unknown() -> None:
    """What a family gives that does not show a quantity."""


@dataclass(frozen=True)
class LayerPair:
    """A layer: an ANN activation and the spiking module that replaces it.

    Attributes:
        name: dotted module path, the same in tables, files and `--layer`.
        ann: the activation, whose input and output are recorded.
        snn: the spiking module; its output is θ·s(t).
        neuron: `if`, `snm`, `negspike`, `srp`, `srp+negspike`.
        levels: L of the activation; None for ReLU.
        threshold: θ, float32, broadcastable to (sample, *neuron).
        initial_fraction: v(0) in units of θ.
        potential: gives v(t) after the latest timestep, where the module shows it.
        silenced: gives SRP's mask once its pre-steps are over, shape (sample, *neuron).
    """

    name: str
    ann: nn.Module
    snn: nn.Module
    neuron: str
    levels: int | None
    threshold: npt.NDArray[np.float32]
    initial_fraction: float = 0.5
    potential: Callable[[], Tensor | None] = _unknown
    silenced: Callable[[], Tensor | None] = _unknown


@dataclass(frozen=True)
class Subject:
    """A network as ANN and as SNN, with its layers in execution order.

    Attributes:
        ann: the network with activations; called with (sample, channel, ...) it gives logits (sample, class).
        snn: the network with spiking neurons; called once a timestep it gives the logits of that timestep.
        layers: the pairs.
        traits: of the spiking neurons.
        reset: forgets the neurons' state; called before each batch.
        family: its name, as a recording keeps it.
    """

    ann: nn.Module
    snn: nn.Module
    layers: tuple[LayerPair, ...]
    traits: Traits
    reset: Callable[[], None]
    family: str

    def run_ann(self, x: Tensor) -> Tensor:
        """Logits of the ANN, shape (sample, class)."""
        logits: Tensor = self.ann(x)
        return logits

    def run_snn(self, x: Tensor, timesteps: int) -> Iterator[Tensor | None]:
        """Reset, then run T timesteps on the same input: the logits of each, after a None for each pre-step."""
        self.reset()
        for _ in range(self.traits.presteps):
            self.snn(x.clone())
            yield None
        # A copy each time: a forward that works in place must not feed on what it made of the input before.
        for _ in range(timesteps):
            yield self.snn(x.clone())
