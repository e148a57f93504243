"""COS, calibration of offset spikes (Hao et al., ICLR 2023): v(0) is shifted by about one spike, neuron by neuron.

Each layer simulates all T steps of its input once from v(0) = θ/2. In units of θ, with V the potential before its
reset: where it ends with v < 0 and has fired, v(0) = ½ - max(1, min V at its spikes - 0.999), so that its weakest spike
is lost; where it ends with v >= 1, v(0) = ½ + max(1, 1.001 - max V where it did not fire), so that one more comes. Then
the T steps are simulated again. Time is merged into the batch, for a layer needs all its input first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from probe.methods.parameters import Parameters
from probe.neurons import if_step

NEVER = 1000.0
"""A potential, in units of θ, that no neuron reaches."""


@dataclass(frozen=True)
class Cos:
    """The neurons of COS, for a run of T steps.

    Attributes:
        parameters: `timesteps` and `initial_potential` are used.
    """

    parameters: Parameters = field(default_factory=Parameters)
    layout: ClassVar[str] = "TB"

    @property
    def initial_potential(self) -> float:
        """v(0) of the pre-simulation, in units of θ."""
        return self.parameters.initial_potential

    @property
    def traits(self) -> dict[str, Any]:
        """v(0) is no number of the layer, and what a run of T steps does at t < T is not what a run of t steps does."""
        return {"uniform_start": False, "causal": False}

    def make(self, theta: Tensor) -> CosNeurons:
        """A layer."""
        return CosNeurons(theta, self.parameters.timesteps, self.initial_potential)


def shifted_start(potential: Tensor, count: Tensor, weakest: Tensor, strongest: Tensor, start: float) -> Tensor:
    """v(0) after the pre-simulation, in units of θ; all tensors (sample, *neuron).

    Args:
        potential: v(T) of the pre-simulation.
        count: n(T).
        weakest: the smallest V with which the neuron fired, `NEVER` where it did not.
        strongest: the largest V with which it did not fire, minus `NEVER` where it always did.
        start: v(0) of the pre-simulation.
    """
    fewer = start - (weakest - 0.999).clamp(min=1)
    more = start + (1.001 - strongest).clamp(min=1)
    shifted = torch.where((potential < 0) & (count > 0), fewer, torch.full_like(potential, start))
    return torch.where(potential >= 1, more, shifted)


class CosNeurons(nn.Module):
    """A layer of COS; takes and gives (T * sample, *neuron), timesteps outermost, and keeps v(T) of its latest call."""

    threshold: Tensor

    def __init__(self, theta: Tensor, timesteps: int, start: float) -> None:
        super().__init__()
        self.register_buffer("threshold", theta.detach().clone())
        self.timesteps, self.start = timesteps, start
        self.silenced: None = None
        self.reset()

    def reset(self) -> None:
        """Nothing outlives a call but the potential that is shown."""
        self.potential: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """θ·s of all timesteps."""
        steps = (x / self.threshold).reshape(self.timesteps, -1, *x.shape[1:])
        start = self._calibrated(steps)
        v, spikes = start, []
        for step in steps:
            v, spike = if_step(v, step, 1.0)
            spikes.append(spike)
        self.potential = v * self.threshold
        return torch.cat(spikes) * self.threshold

    def _calibrated(self, steps: Tensor) -> Tensor:
        v = torch.full_like(steps[0], self.start)
        count, weakest, strongest = torch.zeros_like(v), torch.full_like(v, NEVER), torch.full_like(v, -NEVER)
        for step in steps:
            charged = v + step
            v, spike = if_step(v, step, 1.0)
            fired = spike > 0
            count += spike
            weakest = torch.where(fired, torch.minimum(weakest, charged), weakest)
            strongest = torch.where(fired, strongest, torch.maximum(strongest, charged))
        return shifted_start(v, count, weakest, strongest, self.start)
