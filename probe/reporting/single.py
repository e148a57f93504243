"""What the page holds of single samples: feature maps, rasters and traces of the neurons and channels worth a look.

A recording may hold gigabytes of them and the page a few megabytes, so what is shown is chosen: samples that the SNN
gets wrong and the ANN right, neurons with the largest error and the most active ones, the strongest channels.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.analysis import right_answers
from probe.attribution import lawful
from probe.plots.choice import by_error, largest_sample, outputs_of, strongest_channels
from probe.recording import Layer, Recording
from probe.recording.schema import time_grid

Array = npt.NDArray[Any]

ROW = 64
"""Neurons of a layer without channels that stand in one row of a map."""
RATE_MAP = (48, 64)
"""Rows and columns that a map of firing rates has at most; larger layers are averaged in blocks."""
RATE_SAMPLES, RATE_SPIKES = 64, 40_000_000
"""A map of rates over t is the mean of at most so many samples, and of so many spikes and absent spikes."""


@dataclass(frozen=True)
class Detail:
    """How much is kept of single samples.

    Attributes:
        samples: shown of each recording.
        neurons: with their spikes, inputs and potentials, of each layer and sample.
        channels: shown as maps.
        side: rows and columns that a map has at most; of larger ones every second, third, ... neuron is shown.
    """

    samples: int
    neurons: int
    channels: int
    side: int


DETAILS = (
    Detail(4, 48, 8, 32), Detail(3, 40, 8, 32), Detail(2, 40, 8, 32), Detail(2, 32, 8, 16), Detail(1, 32, 8, 16),
    Detail(1, 24, 4, 16), Detail(1, 12, 4, 8), Detail(0, 0, 0, 0),
)  # fmt: skip
"""From much to little."""


def shown_timesteps(recording: Recording) -> list[int]:
    """The t that the slider stops at: those of the statistics, or where there are none those that they would have."""
    return list(recording.grid or time_grid(recording.timesteps))


def affordable(recording: Recording, budget: float) -> Detail:
    """The most detail that takes no more than `budget` bytes of the page."""
    return next(
        (one for one in DETAILS if sum(_bytes(layer, one) for layer in recording.layers) <= budget), DETAILS[-1]
    )


def _bytes(layer: Layer, detail: Detail) -> float:
    """About what a layer takes on the page, with base64's four bytes for three."""
    timesteps, grid = layer.recording.timesteps, len(shown_timesteps(layer.recording))
    traces = detail.neurons * timesteps * (9 if layer.has("snn_input") else 1)
    shape = (layer.shape[0], layer.shape[1], layer.shape[2]) if len(layer.shape) > 2 else (1, ROW, ROW)
    cells = min(shape[0], detail.channels) * min(shape[1], detail.side) * min(shape[2], detail.side)
    rates = min(RATE_MAP[0], shape[0]) * min(RATE_MAP[1], shape[1] * shape[2]) * grid
    return 4 / 3 * (rates + detail.samples * (traces + cells * (4 + grid * (1 if timesteps < 128 else 2))))


def telling_samples(recording: Recording, number: int) -> list[int]:
    """Samples that the SNN has wrong and the ANN right, then those with the layers' largest errors, then the first."""
    ann, snn = right_answers(recording)
    lost = np.flatnonzero(ann & ~snn[:, -1]) if ann is not None else np.flatnonzero(~snn[:, -1])
    worst = [largest_sample(layer) for layer in reversed(recording.layers) if layer.paired]
    wanted = [*lost[: max(1, number // 2)].tolist(), *worst, *range(recording.samples)]
    return list(dict.fromkeys(wanted))[:number]


def sample_head(recording: Recording, sample: int) -> dict[str, Any]:
    """A sample's place, label and what each network says of it at T."""
    summed = recording.snn_logits[sample].astype(np.float64).sum(0)
    return {
        "sample": sample, "label": int(recording.labels[sample]), "snn": int(summed.argmax()),
        "ann": int(recording.ann_logits[sample].argmax()) if recording.has_ann else None,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- of one sample


def telling_neurons(layer: Layer, sample: int, number: int) -> list[int]:
    """Flat indices of neurons: half of them with the largest error, half the most active ones, in their order."""
    if not layer.has("spike_count"):
        return []
    phi, a = outputs_of(layer, sample)
    worst = by_error(phi, a)[: number // 2].tolist()
    active = np.lexsort((np.arange(phi.size), np.abs(phi).ravel()))[::-1][:number].tolist()
    return sorted(list(dict.fromkeys([*worst, *active]))[:number])


def traces(layer: Layer, sample: int, neurons: Sequence[int]) -> dict[str, Any] | None:
    """Spikes of some neurons of one sample, and x(t) and v(t) where the recording has them.

    Returns:
        `neurons` (flat indices), `threshold`, `start` (v(0)) and `a` of each, and as base64 `spikes` (neuron, timestep)
        int8, `x` and `v` (neuron, timestep) float32; None without spikes.
    """
    if not layer.has("snn_spikes") or not neurons:
        return None
    chosen = np.array(neurons)
    timesteps = layer.recording.timesteps
    spikes = layer.read("snn_spikes", sample).reshape(timesteps, -1)[:, chosen].T.astype(np.int8)
    threshold = np.broadcast_to(layer.threshold, (1, *layer.shape)).reshape(-1)[chosen].astype(np.float32)
    start = (threshold * layer.initial_fraction).astype(np.float32)
    found: dict[str, Any] = {
        "neurons": [int(one) for one in chosen], "threshold": _numbers(threshold), "start": _numbers(start),
        "a": _numbers(layer.read("ann_output", sample).reshape(-1)[chosen]) if layer.has("ann_output") else None,
        "spikes": packed(spikes), "lawful": lawful(layer.traits),
    }  # fmt: skip
    if layer.info.silencing and layer.has("silenced"):
        silenced = layer.read("silenced", sample).reshape(-1)[chosen]
        found["silenced"] = [bool(one) for one in silenced]
    if not layer.has("snn_input"):
        return found
    x = np.ascontiguousarray(layer.read("snn_input", sample).reshape(timesteps, -1)[:, chosen].T, np.float32)
    found["x"] = packed(x)
    if layer.has("membrane_potential"):
        found["v"] = packed(layer.read("membrane_potential", sample).reshape(timesteps, -1)[:, chosen].T)
    elif lawful(layer.traits):
        count = np.cumsum(spikes, 1, dtype=np.int64)
        # In the order of t and in float32, as `probe.trace` has it.
        potential = start[:, None] + np.cumsum(x, 1, dtype=np.float32) - threshold[:, None] * count
        found["v"] = packed(potential.astype(np.float32))
    return found


def maps(layer: Layer, sample: int, detail: Detail) -> dict[str, Any] | None:
    """Feature maps of the strongest channels of one sample: a, and n at each t of the grid (at T alone without spikes).

    Returns:
        `at` (the t), `names` (of the channels), `rows`, `columns`, `stride` and `height` (rows in all), and as base64
        `a` (channel, row, column) float32 in units of θ and `n` (t, channel, row, column), NaN and 0 where a long
        vector leaves the last row unfilled; None where the recording holds no counts.
    """
    if not layer.has("spike_count") or not detail.channels:
        return None
    phi, a = outputs_of(layer, sample)
    channels = strongest_channels(phi, a, detail.channels) if len(layer.shape) > 2 else [0]
    at, counts = _counts(layer, sample)
    shown = [_as_maps(one)[channels] for one in counts]
    stride = max(1, -(-max(shown[0].shape[1:]) // max(detail.side, 1)))
    if len(layer.shape) == 1:
        stride = 1 if shown[0].size <= ROW * ROW else -(-shown[0].shape[1] // ROW)
    thinned = np.stack(shown)[:, :, ::stride, ::stride]
    found: dict[str, Any] = {
        "at": at, "names": [f"channel {channel}" if len(layer.shape) > 2 else "" for channel in channels],
        "rows": thinned.shape[2], "columns": thinned.shape[3], "stride": stride, "height": shown[0].shape[1],
        "n": packed(thinned.astype(np.int8 if layer.recording.timesteps < 128 else np.int16)),
        "bytes": 1 if layer.recording.timesteps < 128 else 2,
    }  # fmt: skip
    if a is not None:
        found["a"] = packed(_as_maps(a)[channels][:, ::stride, ::stride].astype(np.float32))
    return found


def _counts(layer: Layer, sample: int) -> tuple[list[int], list[Array]]:
    """n(t) of one sample at each t of the grid, or at T alone, each (*neuron)."""
    timesteps = layer.recording.timesteps
    if not layer.has("snn_spikes"):
        return [timesteps], [layer.read("spike_count", sample)]
    spikes = layer.read("snn_spikes", sample)
    total, grid = np.cumsum(spikes, 0, dtype=np.int64), shown_timesteps(layer.recording)
    return grid, [total[t - 1] for t in grid]


def _as_maps(values: Array) -> Array:
    """(*neuron) as (channel, row, column); a vector breaks into rows of 64, filled up with NaN or 0."""
    if values.ndim > 2:
        return values.reshape(*values.shape[:2], -1)
    if values.ndim == 2:
        return values[None]
    rows, width = -(-values.size // ROW), min(ROW, values.size)
    padded = np.full(rows * width, np.nan if values.dtype.kind == "f" else 0, values.dtype)
    padded[: values.size] = values
    return padded.reshape(1, rows, width)


# -------------------------------------------------------------------------------------------- of many samples


def rate_map(layer: Layer) -> dict[str, Any]:
    """Firing rate by channel and place, averaged in blocks where the layer is large; at each t where spikes are kept.

    Returns:
        `at` (the t), `samples` (of how many it is the mean), `rows`, `columns`, `block` (channels and places of one
        cell), `low` and `high`, and `values` as base64 (t, row, column) bytes from 0 (low) to 255 (high).
    """
    at, samples, counts = _counts_over_samples(layer)
    means = np.stack([_blocks(_as_rows(one) / (samples * t)) for t, one in zip(at, counts, strict=True)])
    low, high = min(0.0, float(means.min())), max(float(means.max()), 1e-9)
    rows = _as_rows(counts[0]).shape
    return {
        "at": at, "samples": samples, "rows": means.shape[1], "columns": means.shape[2],
        "block": [-(-rows[0] // means.shape[1]), -(-rows[1] // means.shape[2])], "low": low, "high": high,
        "values": packed(np.rint((means - low) / (high - low) * 255).astype(np.uint8)),
    }  # fmt: skip


def _counts_over_samples(layer: Layer) -> tuple[list[int], int, list[Array]]:
    """n(t) summed over samples, at each t of the grid from a part of them, or at T from all."""
    recording = layer.recording
    if not layer.has("snn_spikes"):
        return [recording.timesteps], recording.samples, [layer.spikes_per_neuron]
    each = layer.neurons * recording.timesteps
    samples = min(recording.samples, RATE_SAMPLES, max(1, RATE_SPIKES // each))
    edges = [0, *shown_timesteps(recording)]
    between = [
        layer.read("snn_spikes", slice(0, samples), slice(first, last)).sum((0, 1), dtype=np.int64)
        for first, last in pairwise(edges)
    ]
    return edges[1:], samples, list(np.cumsum(between, 0))


def _as_rows(values: Array) -> Array:
    """(*neuron) as (channel, place)."""
    return values.reshape(len(values), -1) if values.ndim > 1 else _as_maps(values)[0]


def _blocks(values: Array) -> Array:
    """The means of blocks of a matrix, at most `RATE_MAP` of them."""
    for axis, most in enumerate(RATE_MAP):
        size = values.shape[axis]
        if size > most:
            edges = np.arange(0, size, -(-size // most))
            lengths = np.diff(np.append(edges, size))
            values = np.add.reduceat(values, edges, axis) / np.expand_dims(lengths, 1 - axis)
    return values


def packed(values: Array) -> str:
    """An array as base64 of its bytes in C order, little-endian."""
    plain = np.ascontiguousarray(values)
    return base64.b64encode(plain.astype(plain.dtype.newbyteorder("<"), copy=False).tobytes()).decode()


def _numbers(values: Array) -> list[float | None]:
    """As JSON has it: no NaN."""
    return [float(one) if np.isfinite(one) else None for one in values]
