"""What a plot is of: layers, samples, neurons, statistics at one t; what is not there is refused with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from probe.analysis import parse_neuron, select_layers
from probe.attribution import AnalogCoding, Coding, Statistics, why_not_even
from probe.errors import ProbeError
from probe.recording import Layer, Recording

Neuron = int | str | tuple[int, ...]
"""A neuron's place in its layer: indices, as (channel, row, column) or "channel,row,column", or one number."""
LayerChoice = int | str | Layer | Sequence[int | str | Layer] | None
NeuronChoice = Neuron | list[Neuron] | None
MOST_ACTIVE = 40
"""So many neurons are shown where none are chosen."""
CHANNELS = 8
"""So many channels are shown as maps."""


def choose_layers(recording: Recording, layers: LayerChoice) -> list[Layer]:
    """The chosen layers, in execution order; None stands for all."""
    if not recording.layers:
        raise ProbeError(f"{recording.path} holds no layers", expected="a recording with layers to draw")
    if layers is None:
        return list(recording.layers)
    specs = [layers] if isinstance(layers, int | str | Layer) else layers
    if not specs:
        raise ProbeError("no layer was chosen", expected="at least one", next_step="leave the choice out to take all")
    return select_layers(recording.layers, [spec.index if isinstance(spec, Layer) else spec for spec in specs])


def choose_sample(recording: Recording, sample: int) -> int:
    """A sample's index in the recording, from 0; -1 is the last."""
    if not -recording.samples <= sample < recording.samples:
        raise ProbeError(f"sample {sample}", expected=f"0 to {recording.samples - 1}", next_step="pass --sample N")
    return int(sample) % recording.samples


def choose_neuron(layer: Layer, neuron: Neuron) -> tuple[int, ...]:
    """The indices of a neuron, once it is known to be in the layer."""
    return parse_neuron(layer, neuron)


class Counted(NamedTuple):
    """A layer with its statistics at one t."""

    layer: Layer
    timestep: int
    coding: Coding | AnalogCoding
    statistics: Statistics

    @property
    def total(self) -> int:
        """Samples times neurons."""
        return int(self.statistics.cases.sum())


def counted(layers: Sequence[Layer], timestep: int | None, *, even: bool = False) -> list[Counted]:
    """The layers' statistics at t; None stands for T.

    Args:
        layers: of one recording.
        timestep: t of the grid.
        even: what is drawn rests on n_even or the conservation law.

    Raises:
        ProbeError: t is not in the grid, some layers have no statistics at all, or, with `even`, do not promise what
            they rest on; then all of them are named.
    """
    recording = layers[0].recording
    t = recording.timesteps if timestep is None else timestep
    found: list[Counted] = []
    missing: list[Layer] = []
    for layer in layers:
        statistics = layer.statistics_at(t)
        coding = layer.coding(t) if statistics is not None else None
        if statistics is None or coding is None:
            missing.append(layer)
        else:
            found.append(Counted(layer, t, coding, statistics))
    if missing:
        raise _why_missing(missing, t)
    reasons = {layer: why_not_even(layer.traits, layer.initial_fraction) for layer in layers if even}
    refused = {layer: reason for layer, reason in reasons.items() if reason}
    if refused:
        raise ProbeError(
            f"{_named(list(refused))}: {next(iter(refused.values()))}",
            expected="soft-reset neurons that fire at >=, once a timestep",
            next_step="choose other layers, or plot rates",
        )  # fmt: skip
    return found


def _named(layers: Sequence[Layer]) -> str:
    many = "layers " if len(layers) > 1 else "layer "
    return many + ", ".join(f"{layer.index} ({layer.name})" for layer in layers)


def _why_missing(layers: list[Layer], t: int) -> ProbeError:
    recording = layers[0].recording
    empty = [layer for layer in layers if not layer.statistics.statistics]
    if not empty:
        return ProbeError(
            f"{recording.path} keeps no statistics at t = {t}",
            expected="one of its grid, " + ", ".join(map(str, layers[0].statistics.statistics)),
            next_step=f"capture again with --at {t}" if 1 <= t <= recording.timesteps else "pass another t",
        )
    return ProbeError(
        f"{_named(empty)}: no ANN partner, and so neither cases nor an attribution",
        expected="a recording of an ANN and the SNN converted from it", next_step="choose other layers, or plot rates",
    )  # fmt: skip


# ------------------------------------------------------------------------------------ what is worth looking at


def most_active(layer: Layer) -> list[tuple[int, ...]]:
    """The neurons that fired most over all samples, in the order of their places."""
    spikes = layer.spikes_per_neuron.ravel()
    chosen = np.sort(np.argsort(-spikes, kind="stable")[:MOST_ACTIVE])
    return [tuple(int(i) for i in np.unravel_index(place, layer.shape)) for place in chosen]


def largest_sample(layer: Layer) -> int:
    """The sample with the largest |φ(T) − a| in units of θ; 0 where no neuron errs or nothing is known."""
    statistics = layer.statistics_at(layer.recording.timesteps)
    return max(0, int(statistics.largest[1])) if statistics is not None else 0


def largest_neuron(layer: Layer, sample: int) -> tuple[int, ...]:
    """The neuron with the largest |φ(T) − a| in units of θ in one sample; of equal ones that with most spikes.

    Without an ANN partner, that with most spikes.
    """
    phi, a = outputs_of(layer, sample)
    place = by_error(phi, a)[0]
    return tuple(int(i) for i in np.unravel_index(place, layer.shape))


def outputs_of(layer: Layer, sample: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """φ(T) and a of one sample, (*neuron) in units of θ; None for a where the layer has no ANN partner."""
    one = slice(sample, sample + 1)
    a = (layer.read("ann_output", one) / layer.threshold)[0] if layer.paired else None
    return (layer.read("spike_count", one) / np.float32(layer.recording.timesteps))[0], a


def by_error(phi: npt.NDArray[np.float32], a: npt.NDArray[np.float32] | None) -> npt.NDArray[np.intp]:
    """Flat indices of all neurons, those with the largest |φ − a| first; of equal ones those with most spikes."""
    # Rounded, since a in float32 would tell errors apart that are equal.
    error = np.zeros(phi.size) if a is None else np.round(np.abs(phi.astype(np.float64) - a), 5).ravel()
    return np.lexsort((phi.ravel(), error))[::-1]


def strongest_channels(
    phi: npt.NDArray[np.float32], a: npt.NDArray[np.float32] | None, number: int = CHANNELS
) -> list[int]:
    """The channels, along the first axis, in which Σ|a| + |φ| is largest, in their order."""
    both = np.abs(phi) if a is None else np.abs(phi) + np.abs(a)
    strength = both.reshape(len(phi), -1).sum(1)
    return [int(channel) for channel in np.sort(np.argsort(-strength, kind="stable")[:number])]
