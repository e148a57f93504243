"""What a plot is of: layers, samples, neurons and the statistics at one t, each refused with a reason where it is not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from probe.attribution import Coding, Statistics
from probe.errors import ProbeError
from probe.recording import Layer, Recording

Neuron = int | tuple[int, ...]
"""A neuron of a layer: its indices, as (channel, row, column), or its flat index."""
LayerChoice = int | str | Layer | Sequence[int | str | Layer] | None
NeuronChoice = Neuron | list[Neuron] | None


def choose_layers(recording: Recording, layers: LayerChoice) -> list[Layer]:
    """The chosen layers, in execution order; None stands for all."""
    if not recording.layers:
        raise ProbeError(f"{recording.path} holds no layers", expected="a recording with layers to draw")
    if layers is None:
        return list(recording.layers)
    specs = [layers] if isinstance(layers, int | str | Layer) else layers
    from probe.analysis import select_layers

    return select_layers(recording.layers, [str(spec.index if isinstance(spec, Layer) else spec) for spec in specs])


def choose_sample(recording: Recording, sample: int) -> int:
    """The sample, once it is known to be in the recording."""
    if not 0 <= sample < recording.samples:
        raise ProbeError(
            f"no sample {sample}", expected=f"0 to {recording.samples - 1}, its index in {recording.path}"
        )
    return int(sample)


def choose_neuron(layer: Layer, neuron: Neuron) -> tuple[int, ...]:
    """The indices of a neuron, once it is known to be in the layer."""
    place = tuple(int(i) for i in np.unravel_index(neuron, layer.shape)) if _is_flat(layer, neuron) else neuron
    if not isinstance(place, tuple) or len(place) != len(layer.shape) or not all(
        0 <= i < size for i, size in zip(place, layer.shape, strict=True)
    ):
        shown = ",".join(map(str, neuron)) if isinstance(neuron, tuple) else neuron
        raise ProbeError(
            f"no neuron {shown} in layer {layer.index}",
            expected=f"{len(layer.shape)} indices below {','.join(map(str, layer.shape))}, counted from 0",
        )
    return tuple(int(i) for i in place)


def _is_flat(layer: Layer, neuron: Neuron) -> bool:
    return isinstance(neuron, int | np.integer) and 0 <= neuron < math.prod(layer.shape)


def each_neuron(neurons: NeuronChoice) -> list[Neuron]:
    """The chosen neurons as a list; a tuple is one neuron."""
    if neurons is None:
        return []
    return list(neurons) if isinstance(neurons, list) else [neurons]


class Counted(NamedTuple):
    """A layer with its statistics at one t."""

    layer: Layer
    timestep: int
    coding: Coding
    statistics: Statistics

    @property
    def neurons(self) -> int:
        """Neurons times samples."""
        return int(self.statistics.cases.sum())


def counted(layers: Sequence[Layer], timestep: int | None) -> list[Counted]:
    """The layers' statistics at t; None stands for T.

    Raises:
        ProbeError: t is not in the grid, or some layers have no statistics at all; all of them are named at once.
    """
    recording = layers[0].recording
    t = recording.timesteps if timestep is None else int(timestep)
    found, missing = [], []
    for layer in layers:
        coding = layer.coding(t) if 1 <= t <= recording.timesteps else None
        statistics = layer.statistics_at(t)
        if coding is None or statistics is None:
            missing.append(layer)
        else:
            found.append(Counted(layer, t, coding, statistics))
    if missing:
        raise _why_missing(recording, missing, t)
    return found


def _why_missing(recording: Recording, missing: list[Layer], t: int) -> ProbeError:
    """Why some layers have no statistics at t."""
    for layer in missing:
        grid = tuple(layer.statistics.statistics)
        if layer.levels is not None and grid:
            return ProbeError(
                f"{recording.path} keeps no statistics at t = {t}",
                expected="t of its grid: " + ", ".join(map(str, grid)),
                next_step=f"pass one of them, or capture again with --at {t}" if 1 <= t <= recording.timesteps else "",
            )
    names = ", ".join(str(layer.index) for layer in missing)
    plural = "s" if len(missing) > 1 else ""
    if any(layer.levels is None for layer in missing):
        got = f"layer{plural} {names} ha{'ve' if plural else 's'} no levels (a ReLU activation), so neither cases nor attribution"
    else:
        got = f"layer{plural} {names} ha{'ve' if plural else 's'} no statistics: the neurons do not promise what they rest on"
    return ProbeError(got, expected="layers with a QCFS activation and soft-reset neurons", next_step="choose other layers")
