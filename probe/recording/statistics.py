"""A layer's statistics as HDF5 datasets, and back."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from probe.attribution import RESIDUAL_EDGES, LayerStatistics, Statistics
from probe.attribution.analog import OFFSETS
from probe.recording.schema import SUMS, LayerInfo, RunInfo

CHECKED = {"fletcher32": True, "compression": "gzip", "compression_opts": 1}


def write(
    group: h5py.Group,
    gathered: LayerStatistics,
    layer: LayerInfo,
    info: RunInfo,
    *,
    of_samples: bool = True,
) -> None:
    """Fill a layer's empty `statistics` group; `of_samples` says whether with those of each sample."""
    grid = tuple(gathered.statistics)
    _small(group, "timestep", np.array(grid, np.int64))
    if grid:
        for name in (f.name for f in fields(Statistics)):
            values = np.stack([getattr(statistics, name) for statistics in gathered.statistics.values()])
            group.create_dataset(name, data=values, **CHECKED)
        codings = layer.codings(grid, info.timesteps)
        coding = codings[grid[0]]
        group["sums"].attrs["columns"] = SUMS
        found = {t: codings[t].offsets(gathered.statistics[t]) for t in grid}
        span = max(OFFSETS, coding.timesteps - coding.lowest_count)
        offsets = np.zeros((len(grid), 2 * span + 1), np.int64)
        for row, t in zip(offsets, grid, strict=True):
            for key, number in found[t].items():
                row[key + span] = number
        group.create_dataset("offset_spikes", data=offsets, **CHECKED).attrs["first_key"] = -span
        group["residual"].attrs["edges"] = RESIDUAL_EDGES
        group["joint"].attrs["first_count"] = coding.lowest_count
        group.attrs["sums_are"] = "whole numbers" if coding.levels else "limbs"
    _small(group, "spikes_at", gathered.spikes_at)
    group.create_dataset("spikes_per_neuron", data=gathered.spikes_per_neuron, chunks=True, **CHECKED)
    _small(group, "per_sample_timestep", np.array(info.per_sample if grid else (), np.int64))
    _small(group, "first_input", gathered.first_input)
    if of_samples:
        group.create_dataset("per_sample", data=gathered.per_sample, chunks=True, **CHECKED).attrs["columns"] = SUMS


def _small(group: h5py.Group, name: str, values: npt.NDArray[Any]) -> None:
    """A dataset with a checksum, where it holds anything."""
    group.create_dataset(name, data=values, fletcher32=True if values.size else None)


def read(group: h5py.Group) -> LayerStatistics:
    """What `write` wrote."""
    grid = [int(t) for t in group["timestep"][()]]
    stored = {f.name: group[f.name][()] for f in fields(Statistics)} if grid else {}
    return LayerStatistics(
        {t: Statistics(**{name: values[i] for name, values in stored.items()}) for i, t in enumerate(grid)},
        group["spikes_at"][()],
        group["spikes_per_neuron"][()],
        group["per_sample"][()],
        group["first_input"][()],
    )


def read_at(group: h5py.Group, timestep: int) -> Statistics | None:
    """The statistics of one t, without reading the others; None where the grid has no such t."""
    grid = group["timestep"][()]
    where = np.flatnonzero(grid == timestep)
    if not len(where):
        return None
    return Statistics(**{f.name: group[f.name][where[0]] for f in fields(Statistics)})


def read_offsets(group: h5py.Group, timestep: int) -> dict[int, int]:
    """How many neurons have each offset spike at one t, as kept for readers of the plain file; the keys that occur."""
    where = np.flatnonzero(group["timestep"][()] == timestep)[0]
    first = int(group["offset_spikes"].attrs["first_key"])
    return {first + i: int(number) for i, number in enumerate(group["offset_spikes"][where]) if number}
