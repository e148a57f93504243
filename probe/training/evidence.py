"""What one training step of a network shows: its layers, its parameters, what backward did, what the next batch met."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from probe.training.running import Way
from probe.training.tracing import Follower, Site, Spiking, spike_height

ACTIVE = 0.01
"""A neuron is in its surrogate's active window where the derivative is above this share of its largest value."""
GRID = 8001
"""Points on which a surrogate is measured beside those that the network came to."""


@dataclass
class Failure:
    """A backward of the user that does not work.

    Attributes:
        text: what went wrong.
        site: the line of the user's code; None where it is not known.
    """

    text: str
    site: Site | None = None


@dataclass
class Measured:
    """A surrogate as autograd gives it.

    Attributes:
        switch: the value of its argument at which spikes set in.
        peak: largest derivative.
        peak_at: the argument at which it is largest; the middle where that is a plateau.
        at_switch: the derivative next to `switch`, as a share of `peak`.
    """

    switch: float | None
    peak: float
    peak_at: float
    at_switch: float | None


@dataclass
class Layer:
    """A spiking layer, and all its calls in one forward.

    Attributes:
        index: its number, in execution order.
        name: of its module, or of the weights before it.
        calls: one for each timestep, where the network goes through them one by one.
        samples: in the batch.
        derivatives: of the surrogate at every neuron of each call; None where it was not measured.
        measured: its surrogate.
        failures: of the surrogate's backward, each once.
        shapes: sentences about gradients of a wrong shape that autograd takes without a word.
        ignores: its backward does not use the gradient that it is given.
    """

    index: int
    name: str
    calls: list[Spiking]
    samples: int
    derivatives: list[Tensor | None] = field(default_factory=list)
    measured: Measured | None = None
    failures: list[Failure] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    ignores: bool = False

    @staticmethod
    def used(name: str, fed: str) -> str:
        """The name of a module's use behind some weights."""
        return f"{name} after {fed}"

    def use(self, name: str) -> str:
        """The name of this layer where it is a use of this module."""
        return self.used(name, self.calls[0].fed)

    @property
    def returns_none(self) -> bool:
        """Its backward gives the potential no gradient."""
        return any(sentence.startswith("returns None") for sentence in self.shapes)

    @property
    def module(self) -> str:
        """The class of its module, or of its Function where the module has weights."""
        first = self.calls[0]
        function = first.function.__name__ if first.function is not None else ""
        return function if first.place.after and function else first.place.kind

    @property
    def height(self) -> float:
        """The output for one spike, 0 where it never fired."""
        return max((spike_height(call.spikes) or 0.0 for call in self.calls), default=0.0)

    @property
    def firing_rate(self) -> float:
        """Share of outputs that are not 0."""
        fired = sum(int((call.spikes != 0).sum()) for call in self.calls)
        return fired / max(1, sum(call.spikes.numel() for call in self.calls))

    @property
    def neurons(self) -> int:
        """How many there are."""
        return self.fired().numel()

    def _is_merged(self, values: Tensor) -> bool:
        """A call holds all timesteps: (timestep, sample, ...)."""
        return values.ndim > 2 and len(values) != self.samples and values.shape[1] == self.samples

    def _by_neuron(self, values: Tensor) -> Tensor:
        """Largest absolute value of each neuron: over samples, and over time where a call holds all of it."""
        values = values.detach().abs().float()
        return values.amax((0, 1)) if self._is_merged(values) else values.amax(0)

    def fired(self) -> Tensor:
        """The neurons that fired in any sample at any timestep."""
        return torch.stack([self._by_neuron((call.spikes != 0).float()) for call in self.calls]).amax(0) > 0

    def largest_derivative(self) -> Tensor | None:
        """Of each neuron's surrogate; None where it was not measured."""
        known = [one for one in self.derivatives if one is not None]
        every = [one for one, call in zip(known, self.calls, strict=False) if one.shape == call.spikes.shape]
        if not known or len(every) != len(self.calls):
            return None
        return torch.stack([self._by_neuron(one) for one in every]).amax(0)

    def largest_gradient(self) -> Tensor | None:
        """That arrived at each neuron's potential; None where none did."""
        known = [self._by_neuron(call.arrived["potential"]) for call in self.calls if "potential" in call.arrived]
        return torch.stack(known).amax(0) if known else None

    @property
    def active_share(self) -> float | None:
        """Share of neurons, over samples and timesteps, that are in the surrogate's active window."""
        known = [one for one in self.derivatives if one is not None]
        if not known or self.measured is None or not self.measured.peak:
            return None
        inside = sum(int((one.abs() > ACTIVE * self.measured.peak).sum()) for one in known)
        return inside / sum(one.numel() for one in known)

    @property
    def norms(self) -> list[float | None]:
        """Norm of the gradient at the spikes of each call, or each timestep of a call; None where none arrived."""
        norms: list[float | None] = []
        for call in self.calls:
            parts = len(call.spikes) if self._is_merged(call.spikes) else 1
            found = call.arrived.get("spikes")
            if found is None:
                norms += [None] * parts
            else:
                norms += torch.linalg.vector_norm(found.float().reshape(parts, -1), dim=1).tolist()
        return norms

    @property
    def norm(self) -> float | None:
        """Norm of the gradient at all its spikes."""
        known = [norm for norm in self.norms if norm is not None]
        return math.sqrt(sum(norm * norm for norm in known)) if known else None


@dataclass(frozen=True)
class Parameter:
    """A parameter after backward.

    Attributes:
        required: it asked for a gradient.
        used: it took part in the forward.
        norm: of its gradient; None where it got none.
    """

    name: str
    required: bool
    used: bool
    norm: float | None


@dataclass(frozen=True)
class NextBatch:
    """What a second batch met of the first.

    Attributes:
        reached: operations of the first batch that its graph goes back to.
        kept: the modules' attributes through which it does: path and name.
        error: what its backward raised.
        cured: calling the network's reset between batches ends it; None where nothing is known that resets.
        grown: attributes that hold more of the graph after each batch, with how many tensors after either.
    """

    reached: int
    kept: tuple[tuple[str, str], ...]
    error: str
    cured: bool | None
    grown: Mapping[tuple[str, str], tuple[int, int]]


@dataclass(frozen=True)
class Evidence:
    """All that the checks look at.

    Attributes:
        network, way: what was run, and how.
        follower: what it noted.
        layers: the spiking layers, in execution order.
        parameters: of the network.
        loss_origin: bits of what the value of the loss rests on.
        loss: its value.
        connected: the loss has a graph.
        error: what backward raised.
        failure: the user's line in it, where there is one.
        failed_layer: index of the layer in whose Function backward raised.
        next_batch: None where there was none to look at.
    """

    network: nn.Module
    way: Way
    follower: Follower
    layers: tuple[Layer, ...]
    parameters: tuple[Parameter, ...]
    loss_origin: int
    loss: float
    connected: bool
    error: str
    failure: Failure | None
    failed_layer: int | None
    next_batch: NextBatch | None

    def index_of(self, name: str) -> int | None:
        """The index of the spiking layer of this name."""
        return next((layer.index for layer in self.layers if name and layer.name in (name, layer.use(name))), None)

    @property
    def got(self) -> list[Parameter]:
        """The parameters that a gradient other than 0 reached."""
        return [one for one in self.parameters if one.norm]


def roles_of(follower: Follower, samples: int) -> list[list[Layer]]:
    """The spiking layers among the calls that were noted, in execution order.

    A neuron may make spikes at two places in a timestep, to fire and to reset: these are its roles.
    """
    found: dict[str, dict[tuple[Any, ...], list[Spiking]]] = {}
    for call in follower.calls:
        if call.spikes.ndim:
            key = (call.site, call.trail, call.function, call.spikes.shape[1:])
            roles = found.setdefault(call.place.layer, {})
            # By their latest call: what fires comes after what resets.
            roles[key] = [*roles.pop(key, []), call]
    own = type(follower.network).__name__
    return [
        [Layer(i, name or own, calls, samples) for calls in roles]
        for i, (name, roles) in enumerate(
            (name, roles) for name, every in found.items() for name, roles in _uses(name, every)
        )
    ]


def _uses(name: str, roles: dict[tuple[Any, ...], list[Spiking]]) -> list[tuple[str, list[list[Spiking]]]]:
    """One module that is used behind several weights is a layer behind each of them."""
    every = [call for calls in roles.values() for call in calls]
    counts = Counter(call.fed for call in every)
    if len(counts) < 2 or len(set(counts.values())) > 1 or any(call.place.after for call in every):
        return [(name, list(roles.values()))]
    return [
        (Layer.used(name, fed), [own for calls in roles.values() if (own := [one for one in calls if one.fed == fed])])
        for fed in counts
    ]


def chosen(roles: list[list[Layer]]) -> tuple[Layer, ...]:
    """Of each layer the role to which the largest gradient came; where none did, the last: firing follows resetting."""

    def weight(layer: Layer) -> tuple[bool, float]:
        norm = layer.norm
        largest = -1.0 if norm is None else norm if math.isfinite(norm) else math.inf
        return layer.calls[0].spikes.requires_grad, largest

    return tuple(max(reversed(layers), key=weight) for layers in roles)
