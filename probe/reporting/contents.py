"""What a report says of a recording, as plain data: the numbers of the reading commands, and chosen single samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.analysis import layer_table, right_answers, unevenness
from probe.attribution import CASES, PIECES, RESIDUAL_BINS_PER_THRESHOLD, RESIDUAL_EDGES, why_not_even
from probe.compare import diff, pair_layers, why_unpaired
from probe.diagnosing import diagnose
from probe.intervals import wilson
from probe.plots.colours import (
    BLUE,
    CASE_COLOURS,
    CASE_LABELS,
    EQUAL,
    GREEN,
    GREY,
    ORANGE,
    OVER,
    PURPLE,
    RED,
    RESIDUAL_COLOURS,
    TERM_COLOURS,
    TERM_LABELS,
    UNDER,
)
from probe.printable import printable
from probe.recording import Layer, Recording
from probe.reporting.single import (
    Detail,
    affordable,
    maps,
    rate_map,
    sample_head,
    shown_timesteps,
    telling_neurons,
    telling_samples,
    traces,
)
from probe.reporting.verdict import verdict

FACTS = (
    "model", "family", "method", "data", "split", "record", "seed", "device", "created_utc", "created_by",
    "torch_version", "command",
)  # fmt: skip
"""Attributes of a recording that the report shows as they are."""
WORDS = {
    "cases": [[name, CASE_LABELS[name], CASE_COLOURS[name]] for name in CASES],
    "pieces": [[name, TERM_LABELS[name], TERM_COLOURS[name]] for name in PIECES],
    "residual": RESIDUAL_COLOURS,
    "edges": [float(edge) for edge in RESIDUAL_EDGES],
    "bins_per_threshold": RESIDUAL_BINS_PER_THRESHOLD,
    "colours": {
        "snn": BLUE,
        "ann": ORANGE,
        "other": GREEN,
        "input": GREEN,
        "threshold": PURPLE,
        "unknown": GREY,
        "over": OVER,
        "under": UNDER,
        "equal": EQUAL,
        "negative": RED,
    },
}
"""The words and colours of every picture, and the bins of the residual potential."""
MOST_CELLS = 4096
"""Cells of a histogram of a and n, for more would neither be told apart nor fit: only ReLUs at large t have them."""

Array = npt.NDArray[Any]


def contents(recordings: Sequence[Recording], budget: int) -> dict[str, Any]:
    """All that the page shows of one or two recordings.

    Args:
        recordings: open ones; the second is laid beside the first.
        budget: bytes that single samples may take.

    Returns:
        `words`, `recordings`, `rows` (pairs of places in their lists of layers, None where one has no such layer) and
        `difference` (of two, as `probe.diff` has it; None where no layer is in both).
    """
    first = recordings[0]
    # Of both alike, so that the same neurons stand in the same places.
    detail = affordable(recordings, budget)
    samples = telling_samples(first, detail.samples)
    pages = [_recording(first, detail, samples, {})]
    pairs = [(layer.index, None) for layer in first.layers]
    if len(recordings) == 1:
        return {"words": WORDS, "recordings": pages, "rows": _rows(recordings, pairs), "difference": None}
    second = recordings[1]
    paired = pair_layers(first.layers, second.layers)
    same = why_unpaired(first, second) is None
    like = {
        other.index: layer
        for layer, other in paired
        if same and layer.shape == other.shape and layer.has("spike_count")
    }
    if not same:
        samples = telling_samples(second, detail.samples)
    pages.append(_recording(second, detail, samples, like))
    found = {layer.index: other.index for layer, other in paired}
    both: list[tuple[int | None, int | None]] = [(layer.index, found.get(layer.index)) for layer in first.layers]
    both += [(None, layer.index) for layer in second.layers if layer.index not in found.values()]
    return {
        "words": WORDS, "recordings": pages, "rows": _rows(recordings, both),
        "difference": diff(first, second) if paired else None,
    }  # fmt: skip


def _rows(recordings: Sequence[Recording], pairs: Sequence[tuple[int | None, int | None]]) -> list[list[int | None]]:
    """Indices of layers as places in the lists, which leave out the layers that were not recorded."""
    places = [{layer.index: place for place, layer in enumerate(one.layers)} for one in recordings]
    return [
        [None if index is None else known[index] for known, index in zip(places, pair, strict=False)] for pair in pairs
    ]


def _recording(
    recording: Recording, detail: Detail, samples: Sequence[int], like: Mapping[int, Layer]
) -> dict[str, Any]:
    """One recording: what is said of the network, and of each layer.

    Args:
        recording: an open one.
        detail: how much of single samples is shown.
        samples: to be shown.
        like: of the second of two, the layers of the first whose neurons are shown here too, by this one's indices.
    """
    grid = shown_timesteps(recording)
    rows = {t: _at(recording, t) for t in grid}
    table = {row["index"]: row for row in layer_table(recording)["layers"]}
    layers = []
    for layer in recording.layers:
        chosen = like.get(layer.index, layer)
        shown = []
        for sample in samples:
            neurons = telling_neurons(chosen, sample, detail.neurons)
            shown.append({"traces": traces(layer, sample, neurons), "maps": maps(layer, sample, detail)})
        layers.append(
            {
                **_layer(layer, table[layer.index]),
                "at": {str(t): rows[t][layer.index] for t in grid if layer.index in rows[t]},
                "rates": rate_map(layer),
                "shown": shown,
            }
        )
    found = diagnose(recording)
    last = list(rows[recording.timesteps].values())
    ann, snn = right_answers(recording)
    low, high = wilson(snn.mean(0), len(snn))
    return {
        "file": printable(recording.path.name),
        "facts": {name: printable(str(recording.attributes.get(name, ""))) for name in FACTS},
        "samples": recording.samples, "asked": int(recording.attributes["asked"]), "complete": recording.complete,
        "timesteps": recording.timesteps, "grid": grid,
        "verdict": verdict(recording, last, found["findings"]), "findings": found["findings"],
        "accuracy": {
            "ann": None if ann is None else float(ann.mean()), "snn": snn.mean(0).tolist(),
            "low": low.tolist(), "high": high.tolist(),
        },
        "shown": [sample_head(recording, sample) for sample in samples], "layers": layers,
    }  # fmt: skip


def _at(recording: Recording, timestep: int) -> dict[int, dict[str, Any]]:
    """The rows of `probe unevenness` at one t by the layers' indices, with what their pictures need beside them."""
    if not any(layer.paired for layer in recording.layers):
        return {}
    layers = {layer.index: layer for layer in recording.layers}
    rows = unevenness(recording, timestep=timestep)["layers"]
    return {row["index"]: {**row, **_pictures(layers[row["index"]], timestep)} for row in rows}


def _pictures(layer: Layer, timestep: int) -> dict[str, Any]:
    """Two histograms: `phi`, of a and n, and `bins`, of the residual potential.

    The cells of `phi` are [a in `steps` of θ, n, neurons]; with a `block` above 1, so many a and n from these on.
    """
    statistics, coding = layer.statistics_at(timestep), layer.coding(timestep)
    if statistics is None or coding is None:
        return {"phi": None, "bins": None}
    of_a, phi, number = coding.points(statistics)
    steps = coding.levels or timestep
    column, row = np.rint(of_a * steps).astype(int).clip(0), np.rint(phi * timestep).astype(int)
    block, cells = _cells(column, row, number)
    even = why_not_even(layer.traits, layer.initial_fraction) is None
    return {
        "phi": {"steps": steps, "block": block, "cells": cells.tolist()},
        "bins": statistics.residual.tolist() if even else None,
    }


def _cells(column: Array, row: Array, number: Array) -> tuple[int, Array]:
    """Joined in blocks of 1, 2, 4, ... columns and rows until they are no more than `MOST_CELLS`; blocks start at 0."""
    block = 1
    while True:
        places, of = np.unique(np.stack([column, row], 1) // block * block, axis=0, return_inverse=True)
        if len(places) <= MOST_CELLS:
            joined = np.bincount(of.ravel(), number, len(places)).astype(np.int64)
            return block, np.column_stack([places, joined])
        block *= 2


def _layer(layer: Layer, row: dict[str, Any]) -> dict[str, Any]:
    """A layer's own facts; its firing rate is over samples and neurons, at each t."""
    rate = layer.spikes_at / (layer.recording.samples * layer.neurons)
    kept = ("index", "threshold", "levels", "firing_rate", "silent", "saturated", "spikes_per_sample",
            "synaptic_operations", "macs", "neurons")  # fmt: skip
    return {
        **{name: row[name] for name in kept},
        "name": printable(layer.name), "module": printable(layer.module), "neuron": printable(layer.neuron),
        "shape": list(layer.shape), "paired": layer.paired, "start": layer.initial_fraction,
        "reason": why_not_even(layer.traits, layer.initial_fraction), "rate": [float(one) for one in rate],
    }  # fmt: skip
