"""The families: how a kind of network is recognised, run as ANN, run as SNN and reset.

A family turns a user's model into a `Subject`; what may be claimed of its neurons (the conservation law, n_even)
follows from their `Traits` alone. Models are recognised by what their modules have, no paper's code is imported.
Another family is one file here and one line in `probe.models`, or an entry point in the group `probe.families`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from probe.attribution import lawful
from probe.errors import ProbeError

LAYOUTS = ("step", "TB", "BT", "T,B", "B,T")
"""How a layer's calls carry time: one call a timestep; one call with [T·B, ...] or [B·T, ...] merged, the first letter
outermost; one call with an axis for each, [T, B, ...] or [B, T, ...]."""


@dataclass(frozen=True)
class Traits:
    """How a layer's spiking neurons behave.

    Attributes:
        reset: `subtract` (soft), `zero` (hard) or `none`.
        fires_at: `>=` or `>`.
        signed: there are negative spikes.
        guarded: negative spikes never take the net count below 0.
        graded: several spikes a timestep.
        leaky: the potential decays.
        bounded: the potential is clipped from below.
        uniform_start: v(0) is one number for the layer, in units of θ.
        causal: one run of T steps gives every t <= T.
        presteps: τ, the steps before recording starts, after which a neuron may be silenced.
        exposes_potential: the module shows v(t).
    """

    reset: str = "subtract"
    fires_at: str = ">="
    signed: bool = False
    guarded: bool = True
    graded: bool = False
    leaky: bool = False
    bounded: bool = False
    uniform_start: bool = True
    causal: bool = True
    presteps: int = 0
    exposes_potential: bool = True

    def plain(self) -> dict[str, Any]:
        """As a recording keeps them."""
        return asdict(self)

    @property
    def lawful(self) -> bool:
        """The conservation law v(T) = v(0) + Σx - θ·n holds, with one v(0) for the layer."""
        return lawful(self.plain())


def _unknown() -> None:
    """What a family gives that does not show a quantity."""


@dataclass(frozen=True)
class LayerPair:
    """A layer: an ANN activation and the spiking module that replaces it.

    Attributes:
        name: dotted module path, the same in tables, files and `--layer`.
        snn: the spiking module whose output is s(t) times `height`; of a tuple the first is taken.
        threshold: θ, a number or an array broadcastable to (sample, *neuron), in the unit of its input.
        ann: the activation, whose input and output are recorded; None where there is no partner.
        levels: L of the activation; None for ReLU.
        neuron: `if`, `snm`, `negspike`, `srp`, `srp+negspike`, or another kind by its own name.
        initial_fraction: v(0) in units of θ.
        height: the output for one spike; None for θ.
        entry: the module whose input is x(t), where a chain of modules makes the layer; None for `snn`.
        layout: how calls carry time, one of `LAYOUTS`.
        traits: how its neurons behave.
        potential: gives v(t) after the latest call, in the unit of θ, where the module shows it.
        potentials: gives v at every t of the latest call, (timestep, sample, *neuron), where a merged layer keeps it.
        silenced: gives SRP's mask once its pre-steps are over, shape (sample, *neuron).
        snn_name: path of the spiking module, where it differs from `name`.

    Raises:
        ProbeError: a threshold is not positive, or the layout unknown.
    """

    name: str
    snn: nn.Module
    threshold: npt.NDArray[np.float32] | float
    ann: nn.Module | None = None
    levels: int | None = None
    neuron: str = "if"
    initial_fraction: float = 0.5
    height: npt.NDArray[np.float32] | float | None = None
    entry: nn.Module | None = None
    layout: str = "step"
    traits: Traits = Traits()
    potential: Callable[[], Tensor | None] = _unknown
    potentials: Callable[[], Tensor | None] = _unknown
    silenced: Callable[[], Tensor | None] = _unknown
    snn_name: str = ""

    def __post_init__(self) -> None:
        theta = np.asarray(self.threshold, np.float32)
        if not bool((theta > 0).all()) or not bool(np.isfinite(theta).all()):
            raise ProbeError(
                f"layer {self.name} has threshold {float(theta.min()):.4g}",
                expected="a threshold above 0",
                next_step="train that layer again, or check that its threshold was loaded",
                fault="threshold-not-positive",
                layer=self.name,
            )
        if self.layout not in LAYOUTS:
            raise ProbeError(f"layer {self.name} has layout {self.layout!r}", expected=f"one of {', '.join(LAYOUTS)}")
        if self.levels is not None and not 1 <= self.levels <= 255:
            raise ProbeError(
                f"layer {self.name} has {self.levels} levels", expected="1 to 255", fault="levels-differ",
                layer=self.name,
            )  # fmt: skip
        object.__setattr__(self, "threshold", theta)
        height = theta if self.height is None else np.asarray(self.height, np.float32)
        object.__setattr__(self, "height", height)

    @property
    def theta(self) -> npt.NDArray[np.float32]:
        """`threshold` as an array."""
        return np.asarray(self.threshold, np.float32)

    @property
    def spike_height(self) -> npt.NDArray[np.float32]:
        """`height` as an array."""
        return np.asarray(self.height, np.float32)


def time_first(values: Tensor, layout: str, timesteps: int, samples: int, *, fed: bool = False) -> Tensor:
    """What a merged layer was fed or gave, as (timestep, sample, *neuron).

    Args:
        values: the tensor.
        layout: one of `LAYOUTS` but `step`.
        timesteps: T.
        samples: in the batch.
        fed: it is an input: a T-major layer that is fed one copy of the samples is fed the same at every t.

    Raises:
        ProbeError: the sizes do not fit.
    """
    got = tuple(values.shape)
    if fed and layout == "TB" and len(values) == samples and timesteps > 1:
        values = values.expand(timesteps, *values.shape)
    elif layout == "TB" and len(values) == samples * timesteps:
        values = values.reshape(timesteps, samples, *values.shape[1:])
    elif layout == "BT" and len(values) == samples * timesteps:
        values = values.reshape(samples, timesteps, *values.shape[1:]).transpose(0, 1)
    elif layout == "B,T":
        values = values.transpose(0, 1)
    if values.ndim < 2 or values.shape[:2] != (timesteps, samples):
        raise ProbeError(
            f"a spiking layer is called with shape {got} for {samples} samples and {timesteps} timesteps",
            expected=f"time and samples in the layout {layout}",
            fault="time-layout",
        )
    return values


@dataclass(frozen=True)
class Subject:
    """A network as ANN and as SNN, with its layers.

    Attributes:
        snn: the network with spiking neurons.
        layers: its spiking layers, each with its ANN partner, in any order.
        ann: the network with activations, (sample, ...) to logits (sample, class); the same module as `snn` where one
            has both modes; None where there is none.
        reset: forgets the neurons' state; called before each batch.
        family: its name, as a recording keeps it.
        forward_ann: how `ann` is run, samples to logits; None for calling it.
        forward_snn: how `snn` is run: samples and T to the logits of each timestep, in order, (sample, class) each;
            None for calling it once a timestep.
        restore: leaves the model as it was found; called after the run.
        timesteps: the only T that the network can be run with; None for any.
        unpaired: activations of the ANN and spiking layers of the SNN that have no partner.
    """

    snn: nn.Module
    layers: Sequence[LayerPair]
    ann: nn.Module | None = None
    reset: Callable[[], None] = _unknown
    family: str = "user"
    forward_ann: Callable[[Tensor], Tensor] | None = None
    forward_snn: Callable[[Tensor, int], Iterator[Tensor]] | None = None
    restore: Callable[[], None] = _unknown
    timesteps: int | None = None
    unpaired: tuple[str, ...] = ()

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The SNN, and the ANN if it is another module."""
        return (self.snn,) if self.ann is None or self.ann is self.snn else (self.ann, self.snn)

    @property
    def presteps(self) -> int:
        """τ: steps before recording starts."""
        return max((layer.traits.presteps for layer in self.layers), default=0)

    def run_ann(self, x: Tensor) -> Tensor:
        """Logits of the ANN, shape (sample, class)."""
        assert self.ann is not None
        return logits_of((self.forward_ann or self.ann)(x))

    def run_snn(self, x: Tensor, timesteps: int) -> Iterator[Tensor | None]:
        """Reset, then run T timesteps on the same input: the logits of each, after a None for each pre-step."""
        self.reset()
        if self.forward_snn is not None:
            yield from self.forward_snn(x, timesteps)
            return
        for _ in range(self.presteps):
            self.snn(x.clone())
            yield None
        # A copy each time: a forward that works in place must not feed on what it made of the input before.
        for _ in range(timesteps):
            yield logits_of(self.snn(x.clone()))


def logits_of(output: Any) -> Tensor:
    """The logits among what a network returns: itself, or the first of a tuple such as (spikes, potential).

    Raises:
        ProbeError: it is no tensor.
    """
    found = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(found, Tensor):
        raise ProbeError(
            f"the network's output is a {type(output).__name__}",
            expected="a tensor of logits, or a tuple that begins with one",
            fault="logits-shape",
        )
    return found


def detached(value: Any) -> npt.NDArray[np.float32]:
    """A threshold that is a number, a Parameter or a buffer, as an array."""
    if isinstance(value, Tensor):
        value = value.detach().to("cpu", torch.float32).numpy()
    return np.asarray(value, np.float32)
