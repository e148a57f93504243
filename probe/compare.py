"""Two recordings layer by layer: what got better or worse from A to B, by how much, and whether beyond sampling noise.

Every number is B minus A, in units of each neuron's own θ, A's in A and B's in B. Where both hold the same samples the
intervals are paired: the same samples are drawn in both, so what the samples have in common drops out. Otherwise each
draws its own. A difference is beyond noise where its 95% interval does not hold 0; of 20 layers that do not differ
one is beyond it by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.analysis import check_timestep, right_answers
from probe.attribution import CASES, PIECES
from probe.conditions import Numbers, Row, difference, judged, lookup, numbers_of, parse
from probe.errors import ProbeError
from probe.figures import FIGURES, SEED, bounds, figures_of, resampled, sample_sums, why_no_interval
from probe.layers import select_layers, specs_of
from probe.recording import Layer, Recording, open_recording

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """One of the two recordings, at one t.

    Attributes:
        seed: of its draws; both sides have the same where they are paired.
    """

    recording: Recording
    timestep: int
    seed: int

    def drawn(self, values: Array) -> Array:
        """Sums over samples drawn with replacement, (draw, what)."""
        return resampled(values, self.seed)


def diff(
    a: Recording | str | Path,
    b: Recording | str | Path,
    layers: Sequence[str | int] | str | int | None = None,
    *,
    timestep: int | None = None,
    timestep_b: int | None = None,
    conditions: Sequence[str] = (),
) -> dict[str, Any]:
    """Compare two recordings.

    Args:
        a, b: open ones, or their paths.
        layers: specs of A's layers (see `select_layers`); None for all.
        timestep: t in both; None for the smaller T.
        timestep_b: t in B, where it is another.
        conditions: on B minus A, as for `check`; layers by A's index and name.

    Returns:
        The object that `probe diff --json` prints: layers ranked by how much the mean square of their error changed.

    Raises:
        ProbeError: no layer of A is in B, no such layer or t, or a condition that cannot be read or names nothing.
    """
    parsed = [parse(text) for text in conditions]
    first, second = (one if isinstance(one, Recording) else open_recording(one) for one in (a, b))
    t_a = check_timestep(first, min(first.timesteps, second.timesteps) if timestep is None else timestep)
    t_b = check_timestep(second, t_a if timestep_b is None else timestep_b)
    apart = why_unpaired(first, second)
    sides = Side(first, t_a, SEED), Side(second, t_b, SEED if apart is None else SEED + 1)
    specs = specs_of(layers)
    pairs = pair_layers(select_layers(first.layers, specs), second.layers)
    if not pairs:
        raise ProbeError(
            f"no layer of {first.path} is in {second.path}", expected="layers of the same names or shapes",
            next_step="see `probe layers` of both",
        )  # fmt: skip
    paths = ["layers", *(one.path for one in parsed)]
    numbers = [_aligned(numbers_of(side.recording, side.timestep, paths), pairs, i) for i, side in enumerate(sides)]
    rows = [
        _compared(sides, pair, before.numbers, after.numbers)
        for pair, before, after in zip(pairs, numbers[0].rows, numbers[1].rows, strict=True)
    ]
    rows.sort(key=lambda row: -abs(row["mean_square"]["difference"]) if row["mean_square"] else 1)
    results = [judged(one, difference(*(lookup(side, one.path) for side in numbers))) for one in parsed]
    left, right = ({layer.index for layer in (pair[i] for pair in pairs)} for i in (0, 1))
    return {
        "schema": "probe-diff/1",
        "a": _head(sides[0]),
        "b": _head(sides[1]),
        "paired": apart is None,
        "notes": _notes(sides, pairs, apart),
        "accuracy": _accuracies(sides),
        "layers": [{"rank": rank, **row} for rank, row in enumerate(rows, 1)],
        "only_in_a": [] if specs else [_named(layer) for layer in first.layers if layer.index not in left],
        "only_in_b": [] if specs else [_named(layer) for layer in second.layers if layer.index not in right],
        "passed": not any(result["breaches"] for result in results),
        "conditions": results,
    }


def why_unpaired(a: Recording, b: Recording) -> str | None:
    """The reason why the samples of two recordings are not the same; None where they are."""
    for name, what in (("data", "data"), ("split", "splits")):
        if a.attributes.get(name) != b.attributes.get(name):
            return f"they hold different {what}"
    if not np.array_equal(a.indices, b.indices):
        return "they hold different samples"
    if not all(np.array_equal(one, other) for one, other in zip(a.digests, b.digests, strict=True)):
        return "the same samples were fed as different numbers"
    return None


def pair_layers(a: Sequence[Layer], b: Sequence[Layer]) -> list[tuple[Layer, Layer]]:
    """Layers of equal names, and of the rest those of equal indices and shapes; in A's order."""
    by_name, taken = {layer.name: layer for layer in b}, {layer.name for layer in a}
    by_index = {layer.index: layer for layer in b if layer.name not in taken}
    pairs = []
    for layer in a:
        other = by_name.get(layer.name) or by_index.get(layer.index)
        if other is not None and (other.name == layer.name or other.shape == layer.shape):
            pairs.append((layer, other))
    return pairs


def _aligned(numbers: Numbers, pairs: Sequence[tuple[Layer, Layer]], side: int) -> Numbers:
    """The numbers of one side's layers, under the indices and names of A's."""
    rows = {row.index: row.numbers for row in numbers.rows}
    return Numbers(numbers.whole, [Row(pair[0].index, pair[0].name, rows[pair[side].index]) for pair in pairs])


def _head(side: Side) -> dict[str, Any]:
    recording = side.recording
    return {
        "file": str(recording.path), "timesteps": recording.timesteps, "timestep": side.timestep,
        "samples": recording.samples, "complete": recording.complete,
        "method": str(recording.attributes.get("method", "")),
    }  # fmt: skip


def _named(layer: Layer) -> dict[str, Any]:
    return {"index": layer.index, "name": layer.name}


def _notes(sides: tuple[Side, Side], pairs: Sequence[tuple[Layer, Layer]], apart: str | None) -> list[str]:
    notes = []
    steps = [side.recording.timesteps for side in sides]
    if steps[0] != steps[1]:
        notes.append(f"T = {steps[0]} in A and {steps[1]} in B; compared at " + " and ".join(
            f"t = {t}" for t in dict.fromkeys(side.timestep for side in sides)))  # fmt: skip
    if apart:
        notes.append(f"not paired: {apart}, so the intervals are wider than those of paired samples")
    renamed = [f"{one.index} ({one.name}, {other.name})" for one, other in pairs if one.name != other.name]
    if renamed:
        notes.append(f"paired by index, names differ: {_listed(renamed)}")
    of_theta = [str(one.index) for one, other in pairs if not np.array_equal(one.threshold, other.threshold)]
    if of_theta:
        notes.append(f"θ differs in layers {_listed(of_theta)}: each error is in units of its own θ")
    of_levels = [str(one.index) for one, other in pairs if one.levels != other.levels]
    if of_levels:
        notes.append(f"L differs in layers {_listed(of_levels)}")
    return notes


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


# ------------------------------------------------------------------------------------------------------ entries


def _entry(a: float | None, b: float | None, drawn: Array | None = None) -> dict[str, Any]:
    """Two numbers, B minus A, and whether that is beyond noise: None where nobody can tell."""
    if a is None or b is None:
        return {"a": a, "b": b, "difference": None, "interval": None, "beyond_noise": None}
    interval = None if drawn is None else bounds(drawn)
    beyond = None if interval is None else interval["low"] > 0 or interval["high"] < 0
    return {"a": a, "b": b, "difference": b - a, "interval": interval, "beyond_noise": beyond}


def _compared(
    sides: tuple[Side, Side], pair: tuple[Layer, Layer], before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any]:
    """One row: a layer in A and in B."""
    drawn, reason = _drawn(sides, pair)
    layer, other = pair
    head = {
        **_named(layer), "name_b": other.name, "index_b": other.index,
        "paired_by": "name" if layer.name == other.name else "index",
    }  # fmt: skip
    firing_rate = _entry(before["firing_rate"], after["firing_rate"], drawn.get("firing_rate"))
    if not (layer.paired and other.paired):
        nothing = {"mean_square": None, "pieces": None, "cases": None, "figures": None}
        return {**head, "verdict": None, **nothing, "firing_rate": firing_rate, "reason": "no ANN partner"}
    shares = [{name: row["cases"][name] / row["count"] for name in CASES} for row in (before, after)]
    parts = [row["attribution"] for row in (before, after)]
    square = _entry(_mean_square(before), _mean_square(after), drawn.get("mean_square"))
    found = {
        "mean_square": square,
        "pieces": {name: _entry(*(part[name]["mean_square"] for part in parts)) for name in PIECES}
        if all(parts) else None,
        "cases": {name: _entry(*(share[name] for share in shares)) for name in CASES},
        "firing_rate": firing_rate,
        "figures": {name: _entry(before["figures"][name], after["figures"][name], drawn.get(name)) for name in FIGURES},
    }  # fmt: skip
    return {**head, "verdict": _verdict(square), **found, "reason": reason}


def _mean_square(row: Mapping[str, Any]) -> float:
    """Of φ - a, also where there is no attribution."""
    whole = row["attribution"]
    return float(whole["total"]["mean_square"] if whole else row["figures"]["rmse"] ** 2)


def _verdict(square: Mapping[str, Any]) -> str | None:
    if square["difference"] == 0:
        return "equal"
    if square["beyond_noise"] is None:
        return None
    if not square["beyond_noise"]:
        return "noise"
    return "worse" if square["difference"] > 0 else "better"


def _drawn(sides: tuple[Side, Side], pair: tuple[Layer, Layer]) -> tuple[dict[str, Array], str | None]:
    """B minus A in each draw of samples, of all that has sums of each sample; and why nothing has."""
    made = []
    for side, layer, name in zip(sides, pair, "AB", strict=True):
        reason = why_no_interval(layer, side.timestep)
        coding = layer.coding(side.timestep)
        if reason or coding is None:
            return {}, f"no interval: {reason} in {name}" if reason else None
        sums = side.drawn(sample_sums(layer, side.timestep, coding))
        made.append({"mean_square": sums[:, 2] / sums[:, 0], "firing_rate": sums[:, 7] / sums[:, 0]} | figures_of(sums))
    return {name: made[1][name] - made[0][name] for name in made[0]}, None


def _accuracies(sides: tuple[Side, Side]) -> dict[str, Any]:
    """The ANN's, the SNN's at the t that are compared, and the SNN's at every t that both have."""
    (ann_a, snn_a), (ann_b, snn_b) = (right_answers(side.recording) for side in sides)

    def entry(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> dict[str, Any]:
        drawn = [
            side.drawn(right[:, None].astype(np.float64))[:, 0] / len(right)
            for side, right in zip(sides, (one, other), strict=True)
        ]
        several = min(len(one), len(other)) > 1
        return _entry(float(one.mean()), float(other.mean()), drawn[1] - drawn[0] if several else None)

    common = range(min(snn_a.shape[1], snn_b.shape[1]))
    return {
        "ann": None if ann_a is None or ann_b is None else entry(ann_a, ann_b),
        "snn": entry(snn_a[:, sides[0].timestep - 1], snn_b[:, sides[1].timestep - 1]),
        "snn_at": {str(t + 1): entry(snn_a[:, t], snn_b[:, t]) for t in common},
    }
