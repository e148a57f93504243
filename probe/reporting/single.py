"""What the page holds of single samples: feature maps, rasters and traces of the neurons and channels worth a look.

A recording may hold gigabytes of them and the page a few megabytes, so what is shown is chosen: samples that the SNN
gets wrong and the ANN right, neurons with the largest error and the most active ones, the strongest channels.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.analysis import potential_by_law, right_answers
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


def affordable(recordings: Sequence[Recording], budget: float) -> Detail:
    """The most detail that takes no more than `budget` bytes of the page, of all recordings together."""
    layers = [layer for recording in recordings for layer in recording.layers]
    return next((one for one in DETAILS if sum(_bytes(layer, one) for layer in layers) <= budget), DETAILS[-1])


def _bytes(layer: Layer, detail: Detail) -> float:
    """About what a layer takes on the page, with base64's four bytes for three."""
    timesteps, spikes = layer.recording.timesteps, layer.has("snn_spikes")
    at = len(shown_timesteps(layer.recording)) if spikes else 1
    traces = min(detail.neurons, layer.neurons) * timesteps * (9 if layer.has("snn_input") else 1) if spikes else 0
    channels, rows, columns = _in_maps(layer.shape)
    stride = _stride(layer.shape, detail.side)
    cells = min(channels, detail.channels) * -(-rows // stride) * -(-columns // stride)
    maps = cells * (4 + at * (1 if timesteps < 128 else 2)) if layer.has("spike_count") else 0
    height, width = (rows, columns) if len(layer.shape) < 3 else (channels, rows * columns)
    rates = min(RATE_MAP[0], height) * min(RATE_MAP[1], width) * at
    return 4 / 3 * (rates + detail.samples * (traces + maps))


def telling_samples(recording: Recording, number: int) -> list[int]:
    """Samples that the SNN has wrong and the ANN right, then those with the layers' largest errors, then the first."""
    ann, snn = right_answers(recording)
    lost = np.flatnonzero(ann & ~snn[:, -1]) if ann is not None else np.flatnonzero(~snn[:, -1])
    worst = [largest_sample(layer) for layer in reversed(recording.layers) if layer.paired]
    wanted = [*lost[: max(1, number // 2)].tolist(), *worst, *range(recording.samples)]
    return list(dict.fromkeys(wanted))[:number]


def sample_head(recording: Recording, sample: int) -> dict[str, Any]:
    """A sample's place, label and what each network says of it at T."""
    one = slice(sample, sample + 1)
    summed = recording.read("output/snn", one)[0].astype(np.float64).sum(0)
    return {
        "sample": sample, "label": int(recording.labels[sample]), "snn": int(summed.argmax()),
        "ann": int(recording.read("output/ann", one)[0].argmax()) if recording.has_ann else None,
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
    # In float64 first, as `probe.trace` has it.
    start = (threshold.astype(np.float64) * layer.initial_fraction).astype(np.float32)
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
        found["v"] = packed(potential_by_law(x, count, threshold[:, None], start[:, None]))
    return found


def maps(layer: Layer, sample: int, detail: Detail) -> dict[str, Any] | None:
    """Feature maps of the strongest channels of one sample: a, and n at each t of the grid (at T alone without spikes).

    Returns:
        `at` (the t), `channels`, `height` and `width` (rows and columns of a channel), `stride` (one neuron of so many
        is shown, down and across), `rows` and `columns` (that are shown), and as base64 `a` (channel, row, column)
        float32 in units of θ and `n` (t, channel, row, column) of so many `bytes` each, NaN and 0 where a vector leaves
        the last row unfilled; None where the recording holds no counts.
    """
    if not layer.has("spike_count") or not detail.channels:
        return None
    phi, a = outputs_of(layer, sample)
    channels = strongest_channels(phi, a, detail.channels) if len(layer.shape) > 2 else [0]
    at, counts = _counts(layer, sample)
    shown = [_as_maps(one)[channels] for one in counts]
    stride = _stride(layer.shape, detail.side)
    thinned = np.stack(shown)[:, :, ::stride, ::stride]
    # Neurons with several spikes a step have counts above T.
    largest = np.abs(thinned).max(initial=0)
    kind = next(one for one in (np.int8, np.int16, np.int32) if largest <= np.iinfo(one).max)
    _, height, width = _in_maps(layer.shape)
    found: dict[str, Any] = {
        "at": at, "channels": channels, "height": height, "width": width, "stride": stride,
        "rows": thinned.shape[2], "columns": thinned.shape[3],
        "n": packed(thinned.astype(kind)), "bytes": np.dtype(kind).itemsize,
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


def _in_maps(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, rows and columns in which a layer is shown; a vector breaks into rows of 64."""
    if len(shape) > 2:
        return shape[0], shape[1], math.prod(shape[2:])
    if len(shape) == 2:
        return 1, *shape
    return 1, -(-shape[0] // ROW), min(ROW, shape[0])


def _stride(shape: tuple[int, ...], side: int) -> int:
    """One neuron of so many is shown, down and across, so that a map has at most `side` rows and columns."""
    _, rows, columns = _in_maps(shape)
    # The only map of a layer may be larger.
    return max(1, -(-max(rows, columns) // (max(side, 1) if len(shape) > 2 else ROW)))


def _as_maps(values: Array) -> Array:
    """(*neuron) as (channel, row, column); a vector is filled up with NaN or 0."""
    shape = _in_maps(values.shape)
    padded = np.full(math.prod(shape), np.nan if values.dtype.kind == "f" else 0, values.dtype)
    padded[: values.size] = values.ravel()
    return padded.reshape(shape)


# -------------------------------------------------------------------------------------------- of many samples


def rate_map(layer: Layer) -> dict[str, Any]:
    """Firing rate by channel and place, averaged in blocks where the layer is large; at each t where spikes are kept.

    Returns:
        `at` (the t), `samples` (of how many it is the mean), `width` (places of a channel), `rows`, `columns`, `block`
        (channels and places of one cell), `low` and `high` in spikes per timestep, and `values` as base64 (t, row,
        column) bytes from 0 (low) to 255 (high), 0 where a vector leaves the last row unfilled.
    """
    at, samples, counts = _counts_over_samples(layer)
    means = np.stack([_blocks(_as_rows(one / (samples * t))) for t, one in zip(at, counts, strict=True)])
    low, high = min(0.0, float(np.nanmin(means))), max(float(np.nanmax(means)), 1e-9)
    height, width = _as_rows(counts[0]).shape
    return {
        "at": at, "samples": samples, "width": width, "rows": means.shape[1], "columns": means.shape[2],
        "block": [_block(height, RATE_MAP[0]), _block(width, RATE_MAP[1])], "low": low, "high": high,
        "values": packed(np.rint(np.nan_to_num((means - low) / (high - low)) * 255).astype(np.uint8)),
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


def _block(size: int, most: int) -> int:
    """How many stand in a block, so that there are at most `most` of them."""
    return -(-size // most)


def _blocks(values: Array) -> Array:
    """The means of blocks of a matrix, at most `RATE_MAP` of them; NaN is no value, and nothing but NaN gives NaN."""
    known = np.isfinite(values)
    total, number = np.where(known, values, 0.0), known.astype(np.float64)
    for axis, most in enumerate(RATE_MAP):
        edges = np.arange(0, values.shape[axis], _block(values.shape[axis], most))
        total, number = np.add.reduceat(total, edges, axis), np.add.reduceat(number, edges, axis)
    means: Array = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
    return means


def packed(values: Array) -> str:
    """An array as base64 of its bytes in C order, little-endian."""
    plain = np.ascontiguousarray(values)
    return base64.b64encode(plain.astype(plain.dtype.newbyteorder("<"), copy=False).tobytes()).decode()


def _numbers(values: Array) -> list[float | None]:
    """As JSON has it: no NaN."""
    return [float(one) if np.isfinite(one) else None for one in values]
