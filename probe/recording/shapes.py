"""Whether a layer's statistics have the grid, shapes and types that `probe.recording.statistics` writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache
from itertools import pairwise
from typing import Any

import h5py
import numpy as np

from probe.attribution import AnalogCoding, Coding, Statistics
from probe.recording.schema import SUMS


def check_statistics(
    group: h5py.Group,
    coding: Callable[[int], Coding | AnalogCoding | None],
    samples: int,
    timesteps: int,
    shape: tuple[int, ...],
) -> None:
    """Refuse statistics of another shape, type or grid than `write` writes, before anything is computed with them.

    Args:
        group: a layer's `statistics`.
        coding: how its numbers at a t are counted.
        samples: of the recording.
        timesteps: T.
        shape: of the layer, (*neuron).

    Raises:
        ValueError: they are; or cases do not add up to all neurons.
    """

    def expect(name: str, of: tuple[int, ...], *types: Any) -> None:
        found = group[name]
        if found.shape != of or found.dtype not in [np.dtype(one) for one in types]:
            raise ValueError(f"{name} has shape {found.shape} and type {found.dtype}, and not {of}")

    def times(name: str) -> list[int]:
        expect(name, (len(group[name]),), np.int64)
        found = [int(t) for t in group[name][()]]
        if any(one >= other for one, other in pairwise([0, *found, timesteps + 1])):
            raise ValueError(f"{name} is {found}, with T = {timesteps}")
        return found

    grid = times("timestep")
    columns = times("per_sample_timestep")
    neurons = samples * int(np.prod(shape, dtype=np.int64))
    if grid:
        whole = coding(grid[0])
        if whole is None:
            raise ValueError("there are some of a layer without an ANN partner")
        for name, (of, kind) in _layout(whole).items():
            expect(name, (len(grid), *of), kind)
        width = group["offset_spikes"].shape[1]
        expect("offset_spikes", (len(grid), width), np.int64)
        if int(group["offset_spikes"].attrs["first_key"]) != -(width // 2):
            raise ValueError("offset_spikes begins at another key")
        cases = group["cases"][()]
        if bool((cases < 0).any()) or any(int(one.sum()) != neurons for one in cases):
            raise ValueError(f"cases do not add up to all {neurons:,} neurons")
    elif coding(timesteps) is not None:
        raise ValueError("there are none")
    expect("spikes_at", (timesteps,), np.int64)
    expect("spikes_per_neuron", shape, np.int64)
    # Of a layer without an ANN partner only its own sums are there, and no column is named.
    width = len(columns) if grid else group["per_sample"].shape[1]
    expect("per_sample", (samples, width, len(SUMS)), np.int64, np.float64)
    expect("first_input", (2, group["first_input"].shape[1]), np.float32)


@lru_cache(maxsize=64)
def _layout(coding: Coding | AnalogCoding) -> dict[str, tuple[tuple[int, ...], Any]]:
    """The shape and type of each field, from the statistics of a single neuron."""
    zero, mask = np.zeros((1, 1), np.float32), np.zeros((1, 1), bool) if coding.silencing else None
    count = np.zeros((1, 1), np.int64)
    found = coding.statistics(count if coding.levels else zero, count, zero, np.ones((), np.float32), mask)
    return {f.name: (getattr(found, f.name).shape, getattr(found, f.name).dtype) for f in fields(Statistics)}
