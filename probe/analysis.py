"""From an open recording to the numbers in a table: one public function for each reading command.

What they return is what `--json` prints; nothing here prints or draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.attribution import AnalogCoding, Coding, Statistics, lawful, summarise, why_not_even
from probe.errors import ProbeError
from probe.figures import figures_at
from probe.layers import select_layers as select_layers
from probe.layers import specs_of
from probe.recording import Layer, Recording, open_recording

SAMPLES_AT_ONCE = 32
"""Samples that a recomputation holds in memory."""
LOGITS_AT_ONCE = 4_000_000
"""Logits that are held in memory, as float64."""


def _opened(recording: Recording | str | Path) -> Recording:
    return recording if isinstance(recording, Recording) else open_recording(recording)


def check_timestep(recording: Recording, timestep: int | None) -> int:
    """The t that was asked for, T by default.

    Raises:
        ProbeError: the recording has no such t.
    """
    if timestep is None:
        return recording.timesteps
    if not 1 <= timestep <= recording.timesteps:
        raise ProbeError(f"t = {timestep}", expected=f"1 to T = {recording.timesteps}", next_step="pass -t N")
    return timestep


# ------------------------------------------------------------------------------------------------ unevenness


def unevenness(
    recording: Recording | str | Path = "recording.h5",
    layers: Sequence[str | int] | str | int | None = None,
    *,
    timestep: int | None = None,
    recompute: bool = False,
) -> dict[str, Any]:
    """Cases, attribution, offset spikes and residual potential of some layers at one t.

    Args:
        recording: an open one, or its path.
        layers: specs (see `select_layers`); None for all.
        timestep: t, from 1; None for T.
        recompute: derive the statistics again from the recorded arrays, and refuse if they differ.

    Returns:
        The object that `probe unevenness --json` prints: counts of neurons times samples, errors in units of θ.

    Raises:
        ProbeError: no such layer or t, an array that the recording does not hold, or a difference.
    """
    opened = _opened(recording)
    t = check_timestep(opened, timestep)
    chosen = select_layers(opened.layers, specs_of(layers))
    if not specs_of(layers) and any(layer.paired for layer in chosen):
        # Those without an ANN partner have no error; asked for by name, they say so.
        chosen = [layer for layer in chosen if layer.paired]
    return {
        "schema": "probe-unevenness/1",
        "file": str(opened.path),
        "timesteps": opened.timesteps,
        "timestep": t,
        "samples": opened.samples,
        "complete": opened.complete,
        "layers": [_layer_unevenness(layer, t, recompute) for layer in chosen],
    }


def error_figures(
    recording: Recording | str | Path = "recording.h5",
    layers: Sequence[str | int] | str | int | None = None,
    *,
    timestep: int | None = None,
) -> dict[str, Any]:
    """The figures engineers expect of φ against a, of some layers at one t: see `probe.figures`.

    Args:
        recording: an open one, or its path.
        layers: specs (see `select_layers`); None for all.
        timestep: t, from 1; None for T.

    Returns:
        The rows of `unevenness`, with bias, RMSE, relative L2, SQNR, cosine, Pearson and the largest error alone; in
        units of each neuron's own θ, over all samples, with 95% intervals over samples.

    Raises:
        ProbeError: no such layer or t, or an array that the recording does not hold.
    """
    found = unevenness(recording, layers, timestep=timestep)
    kept = ("index", "name", "threshold", "levels", "count", "figures", "largest_error")
    return {
        **found, "schema": "probe-figures/1", "layers": [{key: row[key] for key in kept} for row in found["layers"]],
    }  # fmt: skip


def _layer_unevenness(layer: Layer, t: int, again: bool) -> dict[str, Any]:
    facts = layer.recording.facts
    coding = layer.coding(t)
    oracle = facts["oracles"].get(str(layer.index), {"applies": False, "violations": 0, "ties": 0})
    law = facts["law"].get(str(layer.index), {"largest_difference": None, "broken": False})
    head: dict[str, Any] = {
        "index": layer.index,
        "name": layer.name,
        "threshold": describe_threshold(layer.threshold),
        "levels": layer.levels,
    }
    if coding is None:
        raise ProbeError(
            f"layer {layer.index} ({layer.name}) has no ANN partner, so there is no error to speak of",
            expected="a recording of an ANN and the SNN converted from it",
            next_step="see `probe layers`, `probe accuracy`, `probe plot raster`",
        )
    statistics, reason = statistics_at(layer, t, again=again), why_not_even(layer.traits, layer.initial_fraction)
    if statistics is None:
        statistics, reason = count_cases(layer, t, coding), "recorded without inputs, so this t has cases only"
    summary = summarise(statistics, coding)
    if reason:
        summary.update(local_cases=None, attribution=None, residual=None, reason=reason)
    largest = summary["largest_error"]
    if largest is not None:
        largest["neuron"] = [int(i) for i in np.unravel_index(largest["neuron"], layer.shape)]
    summary["figures"] = figures_at(layer, t, statistics, coding)
    spikes = int(layer.spikes_at[:t].sum())
    head["count"] = summary.pop("count")
    head["firing_rate"] = spikes / (head["count"] * t)
    return {**head, **summary, "oracle": oracle, "law": law}


def describe_threshold(threshold: npt.NDArray[np.float32]) -> float | dict[str, Any]:
    """θ as a number, or its spread where channels differ."""
    if threshold.size == 1:
        return float(threshold.reshape(()))
    low, mean, high = float(threshold.min()), float(threshold.mean()), float(threshold.max())
    return {"per": "channel", "min": low, "mean": mean, "max": high}


def statistics_at(layer: Layer, t: int, *, again: bool = False) -> Statistics | None:
    """A layer's statistics at one t: those kept in the recording, or derived from its arrays.

    None where the recording holds spikes but no inputs, and has kept nothing at that t: see `count_cases`.

    Raises:
        ProbeError: the recording has neither; or, with `again`, the two differ.
    """
    kept = layer.statistics_at(t)
    if kept is not None and not again:
        return kept
    coding = layer.coding(t)
    assert coding is not None
    if kept is None and not layer.has("snn_input"):
        if layer.has("snn_spikes") and not again:
            return None
        raise ProbeError(
            f"{layer.recording.path} keeps no statistics at t = {t}",
            expected="one of " + ", ".join(map(str, layer.recording.grid)),
            next_step=f"capture again with --at {t}, or with --record full",
        )
    derived = recompute_statistics(layer, t, coding)
    if kept is not None and not derived.same(kept):
        raise ProbeError(
            f"layer {layer.index} ({layer.name}): the statistics kept at t = {t} differ from those of the arrays",
            expected="equal ones",
            next_step="the file is damaged or was edited: capture again",
        )
    return derived


def recompute_statistics(layer: Layer, t: int, coding: Coding | AnalogCoding) -> Statistics:
    """The statistics at t from the recorded arrays: from `counts` at T, from `full` at every t.

    Raises:
        ProbeError: the recording does not hold the arrays.
    """
    total: Statistics | None = None
    for first in range(0, layer.recording.samples, SAMPLES_AT_ONCE):
        chosen = slice(first, min(first + SAMPLES_AT_ONCE, layer.recording.samples))
        if t == layer.recording.timesteps and not layer.has("snn_input"):
            count, input_sum = layer.read("spike_count", chosen), layer.read("input_sum", chosen)
        else:
            count = layer.read("snn_spikes", chosen, slice(0, t)).sum(1, dtype=np.int64)
            input_sum = sum_inputs(layer.read("snn_input", chosen, slice(0, t)))
            if t == layer.recording.timesteps:
                _check_sums(layer, chosen, count, input_sum)
        silenced = layer.read("silenced", chosen) if layer.info.silencing else None
        here = coding.statistics(layer.ann_values(chosen), count, input_sum, layer.threshold, silenced, first)
        total = here if total is None else total + here
    assert total is not None
    return total


def _check_sums(layer: Layer, chosen: slice, count: npt.NDArray[np.int64], input_sum: npt.NDArray[np.float32]) -> None:
    same = np.array_equal(count, layer.read("spike_count", chosen))
    if same and np.array_equal(input_sum, layer.read("input_sum", chosen)):
        return
    raise ProbeError(
        f"layer {layer.index} ({layer.name}): spikes and inputs do not add up to the counts and sums that are kept",
        expected="equal ones",
        next_step="the file is damaged or was edited: capture again",
    )


def count_cases(layer: Layer, t: int, coding: Coding | AnalogCoding) -> Statistics:
    """The statistics at t from spikes alone: cases, joint counts and offset spikes hold, all else means nothing."""
    total: Statistics | None = None
    for first in range(0, layer.recording.samples, SAMPLES_AT_ONCE):
        chosen = slice(first, min(first + SAMPLES_AT_ONCE, layer.recording.samples))
        count = layer.read("snn_spikes", chosen, slice(0, t)).sum(1, dtype=np.int64)
        nothing = np.zeros(count.shape, np.float32)
        here = coding.statistics(layer.ann_values(chosen), count, nothing, layer.threshold, first_sample=first)
        total = here if total is None else total + here
    assert total is not None
    return total


def sum_inputs(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Σx over time, (sample, timestep, *neuron) to (sample, *neuron): float32, in the order of t, as in the capture."""
    total = np.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        total += x[:, t]
    return total


# ----------------------------------------------------------------------------------------- accuracy, layers


def accuracy(recording: Recording | str | Path = "recording.h5") -> dict[str, Any]:
    """Accuracy of the ANN (None where there is none) and of the SNN at every t, in [0, 1].

    The SNN's class at t is the largest of its logits summed up to t.
    """
    opened = _opened(recording)
    ann, snn = right_answers(opened)
    return {
        "schema": "probe-accuracy/1",
        "file": str(opened.path),
        "samples": opened.samples,
        "complete": opened.complete,
        "ann": None if ann is None else float(ann.mean()),
        "snn": {str(t + 1): float(value) for t, value in enumerate(snn.mean(0))},
    }


def right_answers(recording: Recording) -> tuple[npt.NDArray[np.bool_] | None, npt.NDArray[np.bool_]]:
    """Which samples the ANN, if there is one, and the SNN at every t have right: (sample,) and (sample, timestep).

    Logits are read in blocks: those of a large data set are larger than memory.
    """
    labels, classes = recording.labels, recording.read("output/snn", slice(0, 1)).shape[2]
    snn = np.empty((recording.samples, recording.timesteps), bool)
    ann = np.empty(recording.samples, bool) if recording.has_ann else None
    step = max(1, LOGITS_AT_ONCE // (recording.timesteps * classes))
    for first in range(0, recording.samples, step):
        part = slice(first, first + step)
        summed = np.cumsum(recording.read("output/snn", part), axis=1, dtype=np.float64)
        snn[part] = summed.argmax(2) == labels[part, None]
        if ann is not None:
            ann[part] = recording.read("output/ann", part).argmax(1) == labels[part]
    return ann, snn


def layer_table(recording: Recording | str | Path = "recording.h5") -> dict[str, Any]:
    """Each layer's name, shape, threshold, firing rate, what its spikes cost, and the shares that never or always fire.

    A neuron is silent if it never fired in any sample, saturated if it fired at every t of every sample. Synaptic
    operations are spikes times fan-out (see `probe.cost`), of one sample over all T; `macs` are the ANN's
    multiply-accumulates on what the layer feeds. Both are None where unknown, with `cost_reason`.
    """
    opened = _opened(recording)
    rows = []
    for layer in opened.layers:
        spikes = layer.spikes_per_neuron
        most = opened.samples * opened.timesteps
        rows.append(
            {
                "index": layer.index,
                "name": layer.name,
                "shape": list(layer.shape),
                "neurons": layer.neurons,
                "neuron": layer.neuron,
                "threshold": describe_threshold(layer.threshold),
                "levels": layer.levels,
                "firing_rate": float(spikes.sum() / (most * layer.neurons)),
                "spikes_per_sample": float(spikes.sum() / opened.samples),
                "silent": float((spikes == 0).mean()),
                "saturated": float((spikes == most).mean()),
                **_layer_cost(layer),
            }
        )
    return {"schema": "probe-layers/1", "file": str(opened.path), "samples": opened.samples,
            "complete": opened.complete, "cost": _network_cost(opened, rows), "layers": rows}  # fmt: skip


def _layer_cost(layer: Layer) -> dict[str, Any]:
    """Mean fan-out, synaptic operations of one sample over all T, and the ANN's multiply-accumulates."""
    unknown = {"fan_out": None, "synaptic_operations": None, "macs": None}
    fact = layer.recording.facts.get("cost", {}).get("layers", {}).get(str(layer.index))
    if fact is None:
        return {**unknown, "cost_reason": "recorded before fan-outs were"}
    if "reason" in fact:
        return {**unknown, "cost_reason": fact["reason"]}
    try:
        places = [np.zeros(size, int) if place is None else np.array(place, int)
                  for size, place in zip(layer.shape, fact["fan_out"]["places"], strict=True)]  # fmt: skip
        fan_out = np.array(fact["fan_out"]["values"], np.float64)[np.ix_(*places)].reshape(layer.shape)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise ProbeError(
            f"{layer.recording.path}: the fan-outs of layer {layer.index} cannot be read ({error})",
            expected="a whole recording", next_step="capture it again",
        ) from None  # fmt: skip
    # What is kept of each neuron is net, and a negative spike costs as much as a positive one.
    spikes = _events_per_neuron(layer) if layer.info.signed else layer.spikes_per_neuron
    operations = None if spikes is None else float((spikes * fan_out).sum() / layer.recording.samples)
    reason = None if fact["macs"] is not None else "there is no ANN"
    if operations is None:
        reason = "spikes are negative too, and each is kept from --record spikes on"
    return {"fan_out": float(fan_out.mean()), "synaptic_operations": operations, "macs": fact["macs"],
            "cost_reason": reason}  # fmt: skip


def _events_per_neuron(layer: Layer) -> npt.NDArray[np.int64] | None:
    """Spikes of either sign at all T, summed over samples; None where the recording does not hold each."""
    if not layer.has("snn_spikes"):
        return None
    total = np.zeros(layer.shape, np.int64)
    for first in range(0, layer.recording.samples, SAMPLES_AT_ONCE):
        spikes = layer.read("snn_spikes", slice(first, first + SAMPLES_AT_ONCE))
        total += np.abs(spikes).sum((0, 1), dtype=np.int64)
    return total


def _network_cost(recording: Recording, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Synaptic operations of all layers, and the ANN's multiply-accumulates, of one sample.

    `dense_macs` are those of weighted layers that are fed numbers, as the image, also in the SNN: at every t.
    """
    fact = recording.facts.get("cost", {})
    operations = [row["synaptic_operations"] for row in rows]
    whole = len(rows) == len(fact.get("layers", rows))
    known = whole and None not in operations
    reason = next((row["cost_reason"] for row in rows if row["cost_reason"]), None) or fact.get("reason")
    return {
        "synaptic_operations": sum(operations) if known else None,
        "macs": fact.get("macs"),
        "dense_macs": fact.get("dense_macs"),
        "reason": "only some layers are recorded" if not whole else reason,
    }


# ------------------------------------------------------------------------------------------------------ trace


@dataclass(frozen=True)
class Trace:
    """One neuron over time; arrays are (timestep,), potentials and inputs in the unit of a.

    Attributes:
        neuron: its place in the layer, such as (channel, row, column).
        ann_input: the ANN's pre-activation; None where the recording does not hold it.
        ann_output: a.
        x: the input x(t).
        potential: v(t), after the reset: as the module showed it where that was recorded, else by the conservation law;
            NaN where neither is known.
        spike: s(t).
        count: n(t).
        snn_output: φ(t) = θ·n(t)/t.
        silenced: SRP's mask keeps it from firing; then `potential` is what v(t) would be if the law held.
    """

    layer_index: int
    layer_name: str
    sample: int
    neuron: tuple[int, ...]
    threshold: float
    initial_potential: float
    levels: int | None
    ann_input: float | None
    ann_output: float | None
    x: npt.NDArray[np.float32]
    potential: npt.NDArray[np.float32]
    spike: npt.NDArray[np.int8]
    count: npt.NDArray[np.int64]
    snn_output: npt.NDArray[np.float64]
    silenced: bool = False


def trace(recording: Recording | str | Path, layer: str | int, sample: int, neuron: Sequence[int] | str | int) -> Trace:
    """Follow one neuron through one sample, as one would by hand: x(t), v(t) against θ, s(t), n(t).

    Args:
        recording: recorded with `full`.
        layer: a spec that names one layer.
        sample: its place in the recording, from 0; -1 for the last.
        neuron: its place in the layer, numbers or "channel,row,column"; one number is a flat index.

    Raises:
        ProbeError: no such layer, sample or neuron, or the recording does not hold the inputs.
    """
    opened = _opened(recording)
    chosen = select_layers(opened.layers, [layer])
    if len(chosen) != 1:
        raise ProbeError(f"{layer!r} names {len(chosen)} layers", expected="one layer", next_step="pass its index")
    found = chosen[0]
    if not -opened.samples <= sample < opened.samples:
        raise ProbeError(f"sample {sample}", expected=f"0 to {opened.samples - 1}", next_step="pass --sample N")
    sample %= opened.samples
    place = parse_neuron(found, neuron)
    over_time: Any = (slice(None), *place)
    x = found.read("snn_input", sample)[over_time].astype(np.float32)
    spike = found.read("snn_spikes", sample)[over_time].astype(np.int8)
    threshold = float(np.broadcast_to(found.threshold, (1, *found.shape))[(0, *place)])
    start = threshold * found.initial_fraction
    count = np.cumsum(spike, dtype=np.int64)
    if found.has("membrane_potential"):
        potential = found.read("membrane_potential", sample)[over_time]
    elif lawful(found.traits):
        potential = potential_by_law(x, count, np.float32(threshold), np.float32(start))
    else:
        potential = np.full(len(x), np.nan)
    return Trace(
        layer_index=found.index, layer_name=found.name, sample=sample, neuron=place, threshold=threshold,
        initial_potential=start, levels=found.levels,
        ann_input=float(found.read("ann_input", sample)[place]) if found.has("ann_input") else None,
        ann_output=float(found.read("ann_output", sample)[place]) if found.has("ann_output") else None,
        x=x, potential=potential.astype(np.float32), spike=spike, count=count,
        snn_output=threshold * count / np.arange(1, opened.timesteps + 1),
        silenced=bool(found.info.silencing and found.read("silenced", sample)[place]),
    )  # fmt: skip


def potential_by_law(
    x: npt.NDArray[np.float32], count: npt.NDArray[np.int64], threshold: Any, start: Any
) -> npt.NDArray[np.float32]:
    """v(t) = v(0) + Σx − θ·n, after the reset, where the conservation law holds.

    Args:
        x: x(t), (..., timestep); summed in float32 in the order of t.
        count: n(t), likewise.
        threshold, start: θ and v(0), float32, broadcastable to x.
    """
    potential: npt.NDArray[np.float32] = (start + np.cumsum(x, -1, dtype=np.float32) - threshold * count).astype("f4")
    return potential


def parse_neuron(layer: Layer, neuron: Sequence[int] | str | int) -> tuple[int, ...]:
    """A neuron's place in the layer, from numbers or "channel,row,column".

    Raises:
        ProbeError: there is no such neuron.
    """
    expected = "one number" if len(layer.shape) == 1 else f"{len(layer.shape)} numbers"
    expected += " below " + ",".join(map(str, layer.shape))
    try:
        parts = neuron.split(",") if isinstance(neuron, str) else neuron
        place = tuple(int(part) for part in (parts if isinstance(parts, Sequence | np.ndarray) else (parts,)))
    except ValueError:
        place = ()
    if len(place) == 1 and 0 <= place[0] < layer.neurons:
        place = tuple(int(i) for i in np.unravel_index(place[0], layer.shape))
    if len(place) != len(layer.shape) or not all(0 <= i < size for i, size in zip(place, layer.shape, strict=True)):
        raise ProbeError(f"neuron {neuron} of layer {layer.index} ({layer.name})", expected=expected,
                         next_step="pass --neuron N,N,N")  # fmt: skip
    return place
