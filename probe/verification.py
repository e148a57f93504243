"""`verify`: whether a recording is whole, and agrees with itself; no network is run.

Every byte is read, so that checksums speak; then the laws: cases add up to all neurons, pieces to the total, timesteps
to counts, samples to totals, and statistics are equal to those derived again from the arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.analysis import SAMPLES_AT_ONCE, statistics_at, sum_inputs
from probe.attribution import (
    PIECES,
    RESIDUAL_BINS_PER_THRESHOLD,
    RESIDUAL_LIMIT,
    AnalogCoding,
    Coding,
    Statistics,
    why_not_even,
)
from probe.attribution.analog import from_limbs
from probe.attribution.levels import sums_of
from probe.errors import ProbeError
from probe.recording import Layer, Recording, open_recording

SAME = 1e-9
"""Pieces of a ReLU layer, which are float64, add up to the total within this share of their sizes."""


@dataclass
class Verdict:
    """What was looked at, and what is wrong with it.

    Attributes:
        checked: how many laws were held against numbers.
        problems: a sentence for each that does not hold.
    """

    checked: int = 0
    problems: list[str] = field(default_factory=list)

    def expect(self, holds: bool, problem: str) -> None:
        """Note one law."""
        self.checked += 1
        if not holds:
            self.problems.append(problem)

    def attempt(self, call: Callable[[], Any]) -> Any:
        """What a call gives; None where it is refused, which is a problem."""
        self.checked += 1
        try:
            return call()
        except ProbeError as error:
            self.problems.append(str(error))
            return None


def verify(recording: Recording | str | Path = "recording.h5") -> dict[str, Any]:
    """Hold a recording against its checksums, its shapes and the laws.

    Args:
        recording: an open one, or its path.

    Returns:
        The object that `probe verify --json` prints: `passed`, `checked` (how many laws), and `problems`, a sentence
        each, the first that was met first.

    Raises:
        ProbeError: it is no recording, or cannot be opened.
    """
    if not isinstance(recording, Recording):
        with open_recording(recording) as opened:
            return verify(opened)
    opened, verdict = recording, Verdict()
    verdict.attempt(opened.check_parts)
    _check_network(opened, verdict)
    for layer in opened.layers:
        _check_layer(layer, verdict)
    return {
        "schema": "probe-verify/1", "file": str(opened.path), "samples": opened.samples, "complete": opened.complete,
        "record": opened.record, "layers": len(opened.layers), "checked": verdict.checked,
        "passed": not verdict.problems, "problems": verdict.problems,
    }  # fmt: skip


def _check_network(recording: Recording, verdict: Verdict) -> None:
    for what in ("labels", "indices", "snn_logits", *(["ann_logits"] if recording.has_ann else [])):
        values = verdict.attempt(partial(getattr, recording, what))
        if values is not None and what.endswith("logits"):
            verdict.expect(bool(np.isfinite(values).all()), f"{what} hold NaN or infinity")
    digests = verdict.attempt(lambda: recording.digests)
    facts = verdict.attempt(lambda: recording.facts)
    if digests is not None and facts is not None:
        differing = int((digests[0] != digests[1]).sum())
        said = facts.get("fed", {}).get("differing_samples", 0)
        verdict.expect(
            differing == said,
            f"{differing} samples have digests that differ between the networks, and its facts say {said}",
        )


def _check_layer(layer: Layer, verdict: Verdict) -> None:
    where = f"layer {layer.index} ({layer.name})"
    gathered = verdict.attempt(lambda: layer.statistics)
    if gathered is None:
        return
    neurons = layer.recording.samples * layer.neurons
    spikes = int(gathered.spikes_at.sum())
    verdict.expect(
        int(gathered.spikes_per_neuron.sum()) == spikes,
        f"{where}: spikes of all neurons do not add up to those of all timesteps",
    )
    fits = np.allclose(layer.initial_potential, layer.threshold * np.float32(layer.initial_fraction), rtol=1e-6)
    verdict.expect(fits, f"{where}: v(0) is not {layer.initial_fraction:g} θ")
    grid, columns = layer.recording.grid, layer.per_sample_timesteps
    ordered = all(one < other for times in (grid, columns) for one, other in pairwise(times))
    within = set(columns) <= set(grid) and set(grid) <= set(range(1, layer.recording.timesteps + 1))
    verdict.expect(ordered and within, f"{where}: its statistics are kept at t = {grid} and {columns} for each sample")
    for t, statistics in gathered.statistics.items():
        at = f"{where}, t = {t}"
        coding = layer.coding(t)
        if coding is None:
            verdict.expect(False, f"{at}: statistics of a layer without an ANN partner")
            continue
        for problem in broken_sums(statistics, neurons):
            verdict.expect(False, f"{at}: {problem}")
        verdict.checked += 1
        verdict.expect(sum(coding.offsets(statistics).values()) == neurons, f"{at}: offset spikes do not add up")
        kept = verdict.attempt(partial(layer.offsets_at, t))
        verdict.expect(
            kept in (None, coding.offsets(statistics)), f"{at}: offset spikes differ from those of the cases"
        )
        for problem in _broken_counts(layer, t, statistics, coding):
            verdict.expect(False, f"{at}: {problem}")
        verdict.checked += 1
        if why_not_even(layer.traits, layer.initial_fraction) is None:
            for problem in broken_pieces(statistics, coding):
                verdict.expect(False, f"{at}: {problem}")
            verdict.checked += 1
    for problem in _broken_arrays(layer):
        verdict.expect(False, f"{where}: {problem}")
    verdict.checked += 1
    full = layer.has("snn_input")
    for t in gathered.statistics:
        if layer.paired and (full or (t == layer.recording.timesteps and layer.has("input_sum"))):
            verdict.attempt(partial(statistics_at, layer, t, again=True))


def _broken_counts(layer: Layer, t: int, statistics: Statistics, coding: Coding | AnalogCoding) -> Iterator[str]:
    """Laws of the sums of n and k, and of those of each sample, that do not hold."""
    whole = isinstance(coding, Coding)
    sums = statistics.sums if whole else np.array([from_limbs(limbs) for limbs in statistics.sums])
    if whole and not np.array_equal(sums_of(statistics.joint, coding.lowest_count), sums):
        yield "the sums of n and k are not those of their joint histogram"
    # Spikes beyond four a timestep are counted together.
    if not layer.info.graded and int(layer.spikes_at[:t].sum()) != int(sums[0]):
        yield "spikes up to t do not add up to the counts"
    of_samples = layer.per_sample_at(t)
    if of_samples is None:
        return
    found = of_samples.sum(0)
    if not (np.array_equal(found, sums) if whole else np.allclose(found, sums, rtol=SAME)):
        yield "the sums of the samples do not add up"


def broken_sums(statistics: Statistics, neurons: int) -> Iterator[str]:
    """Laws of counts that do not hold, a sentence each.

    Args:
        statistics: of one layer at one t.
        neurons: samples times neurons of the layer.
    """
    for name in ("cases", "local_cases", "joint"):
        values = getattr(statistics, name)
        if int(values.sum()) != neurons or bool((values < 0).any()):
            yield f"{name.replace('_', ' ')} do not add up to all {neurons:,} neurons"
    spoken = neurons - int(statistics.cases[..., -1].sum())
    if int(statistics.residual.sum()) != spoken or bool((statistics.residual < 0).any()):
        yield f"residual potentials do not add up to all {spoken:,} neurons"
    if not np.array_equal(statistics.cases[..., :-1].sum((0, 1)), _thirds(statistics)):
        yield "residual potentials and the residual key of the cases differ"


def _thirds(statistics: Statistics) -> npt.NDArray[np.int64]:
    """How many neurons end below 0, inside [0, θ) and above, from the bins of the residual potential."""
    zero = RESIDUAL_LIMIT * RESIDUAL_BINS_PER_THRESHOLD + 1
    ends = (statistics.residual[:zero], statistics.residual[zero : zero + RESIDUAL_BINS_PER_THRESHOLD])
    below, inside = (int(part.sum()) for part in ends)
    return np.array([below, inside, int(statistics.residual.sum()) - below - inside], np.int64)


def broken_pieces(statistics: Statistics, coding: Coding | AnalogCoding) -> Iterator[str]:
    """Laws of the attribution that do not hold: the six pieces add up to the total, and so do their products."""
    names = range(1, len(PIECES) + 1)
    moments = [coding.moment(statistics, term) for term in (0, *names)]
    size = sum(map(abs, moments)) or 1.0
    if abs(moments[0] - sum(moments[1:])) > SAME * size:
        yield "the pieces do not add up to the total"
    squares = [coding.product(statistics, 0, term) for term in (0, *names)]
    if abs(squares[0] - sum(squares[1:])) > SAME * (sum(map(abs, squares)) or 1.0):
        yield "the pieces' products with the total do not add up to its square"


def _broken_arrays(layer: Layer) -> Iterator[str]:
    """Laws between a layer's arrays; every array is read once."""
    if not layer.has("spike_count"):
        return
    timesteps = layer.recording.timesteps
    most = timesteps if not layer.info.graded else None
    total = np.zeros(layer.shape, np.int64)
    others = [name for name in ("silenced", "ann_input", "ann_output", "membrane_potential") if layer.has(name)]
    broken: dict[str, None] = {}
    try:
        for first in range(0, layer.recording.samples, SAMPLES_AT_ONCE):
            chosen = slice(first, min(first + SAMPLES_AT_ONCE, layer.recording.samples))
            count = layer.read("spike_count", chosen).astype(np.int64)
            total += count.sum(0)
            if most is not None and bool((np.abs(count) > most).any()):
                broken["a neuron has more spikes than timesteps"] = None
            if not layer.info.signed and bool((count < 0).any()):
                broken["a neuron that cannot has negative spikes"] = None
            if layer.has("snn_spikes") and not np.array_equal(
                layer.read("snn_spikes", chosen).sum(1, dtype=np.int64), count
            ):
                broken["spikes do not add up to the counts"] = None
            summed = layer.read("input_sum", chosen)
            if not bool(np.isfinite(summed).all()):
                broken["summed inputs hold NaN or infinity"] = None
            if layer.has("snn_input") and not np.array_equal(sum_inputs(layer.read("snn_input", chosen)), summed):
                broken["inputs do not add up to their sums"] = None
            for name in others:
                layer.read(name, chosen)
    except ProbeError as error:
        broken[str(error)] = None
    if not broken and not np.array_equal(total, layer.spikes_per_neuron):
        broken["counts of the samples do not add up to the spikes of each neuron"] = None
    yield from broken
