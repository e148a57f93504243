"""A recording of random integrate-and-fire neurons, for what the bundled network does not have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from probe.attribution import LayerStatistics
from probe.recording import Batch, LayerInfo, RunInfo, Writer
from probe.recording.joining import appear
from probe.recording.parts import PartsFolder
from probe.recording.schema import time_grid
from probe.spikes import pack

FACTS = {"modes": {}, "calls": {}, "order": [], "law": {}, "oracles": {}, "fed": {"differing_samples": 0}}


def write_recording(
    path: Path,
    names: Sequence[str],
    *,
    shape: tuple[int, ...] = (3, 4, 4),
    timesteps: int = 8,
    samples: int = 6,
    levels: int | None = 8,
    unguarded: bool = False,
    paired: bool = True,
    record: str = "full",
    complete: bool = True,
    threshold: Any = 0.5,
    model: str = "synthetic",
) -> Path:
    """Write a recording with a layer for each name; the neurons' inputs are random, and so are the ANN's outputs."""
    random = np.random.default_rng(0)
    theta = np.asarray(threshold, np.float32)
    traits = {"reset": "subtract", "signed": unguarded, "guarded": not unguarded, "presteps": 0}
    layers = [
        LayerInfo(index=i, name=name, module="IF", neuron="snm" if unguarded else "if", levels=levels, shape=shape,
                  threshold=theta, initial_fraction=0.5, traits=traits, paired=paired, height=theta,
                  encoding="levels" if levels else "raw")
        for i, name in enumerate(names)
    ]  # fmt: skip
    grid = time_grid(timesteps)
    info = RunInfo(
        timesteps=timesteps, record=record, family="own", method="if", model=model, data="random", split="test",
        seed=0, classes=10, batch_size=samples, grid=grid, run_id="1", asked=samples,
    )  # fmt: skip
    folder = PartsFolder(path)
    writer = Writer(folder, info, layers)
    numbers = np.arange(samples)
    network = {
        "index": numbers, "label": numbers % 10, "digest_ann": numbers.astype(np.uint64),
        "digest_snn": numbers.astype(np.uint64), "ann": random.normal(size=(samples, 10)).astype(np.float32),
        "snn": random.normal(size=(samples, timesteps, 10)).astype(np.float32),
    }  # fmt: skip
    for field, values in network.items():
        writer.append(None, Batch(field, 0, values))
    gathered = {}
    for layer in layers:
        x = random.normal(0.2, 0.5, (samples, timesteps, *shape)).astype(np.float32) * theta
        spikes = _fire(x, theta, unguarded)
        mean = x.mean(1) / theta + random.normal(0, 0.1, (samples, *shape))
        k = np.clip(np.floor(mean * (levels or 8) + 0.5), 0, levels or 8).astype(np.uint8)
        summed = np.cumsum(x, axis=1, dtype=np.float32)
        counts = np.cumsum(spikes, axis=1, dtype=np.int64)
        arrays = {
            "spike_count": counts[:, -1], "input_sum": summed[:, -1], "ann_input": summed[:, -1] / timesteps,
            "ann_output": k if levels else (theta * k / 8).astype(np.float32), "snn_input": x,
            "snn_spikes": spikes if unguarded else pack(spikes.reshape(samples, timesteps, -1)),
        }  # fmt: skip
        for field, stored in layer.arrays(record, timesteps).items():
            writer.append(layer.index, Batch(field, 0, arrays[field].astype(stored.dtype)))
        statistics = {}
        for t in grid:
            coding = layer.coding(t, timesteps)
            if coding is not None:
                values = k if levels else arrays["ann_output"]
                statistics[t] = coding.statistics(values, counts[:, t - 1], summed[:, t - 1], theta)
        across = (0, *range(2, spikes.ndim))
        gathered[layer.index] = LayerStatistics(
            statistics, spikes.sum(across, dtype=np.int64), counts[:, -1].sum(0),
            np.zeros((samples, 0, 5), np.int64), np.full((2, shape[0]), np.nan, np.float32),
        )  # fmt: skip
    writer.commit(gathered, FACTS, complete=complete)
    appear(folder, info.run_id, samples if complete else samples + 1)
    return path


def _fire(x: np.ndarray, theta: np.ndarray, signed: bool) -> np.ndarray:
    """Spikes of soft-reset neurons, int8, of the shape of x; where signed also at -θ, whatever the count."""
    potential = np.broadcast_to(theta * np.float32(0.5), x[:, 0].shape).copy()
    spikes = np.zeros(x.shape, np.int8)
    for t in range(x.shape[1]):
        potential += x[:, t]
        spikes[:, t] = (potential >= theta).astype(np.int8) - (signed & (potential <= -theta))
        potential -= theta * spikes[:, t]
    return spikes
