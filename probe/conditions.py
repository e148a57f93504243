"""Conditions on saved numbers: `layers.*.cases.zero_over.share > 0.05`, over the JSON of the reading commands.

A condition is a path, an operator (`>`, `>=`, `<`, `<=`, `==`, `!=`) and a number, `5%` or `0.05`. Paths::

    layers.3.cases.zero_over          a number of the layer 3 of `probe unevenness` or `probe layers`
    layers.block2.act.figures.rmse    the layer of that name; a plain number is an index, -1 the last
    layers.*.firing_rate              every layer; elsewhere `*` stands for every name, as in `snn.*`
    layers.*.cases.zero_over.share    of a count: its share of the layer's neurons
    ann, snn.8                        `probe accuracy`; also samples, timestep, timesteps, complete
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from probe.analysis import accuracy, layer_table, unevenness
from probe.errors import ProbeError
from probe.layers import select_layers
from probe.recording import Recording, open_recording

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
COUNTS = ("cases", "local_cases", "offset_spikes", "residual", "oracle")
"""Groups whose whole numbers count neurons, so that they have a share."""
EXAMPLE = "'layers.*.cases.zero_over.share > 0.05'"
LISTED = 8
"""Names in a message."""


@dataclass(frozen=True)
class Condition:
    """One condition: where it holds, a check fails.

    Attributes:
        text: as it was written.
        path, sign, limit: its three parts.
    """

    text: str
    path: str
    sign: str
    limit: float

    def holds(self, value: float) -> bool:
        """True where a value is beyond the limit."""
        return OPERATORS[self.sign](value, self.limit)


@dataclass(frozen=True)
class Found:
    """A number that a path names.

    Attributes:
        path: with the layer's index and every name in place of `*`.
        layer, name: the layer's index and name; None for a number of the whole recording.
        value: None where it is undefined, and then `reason` says why.
    """

    path: str
    layer: int | None
    name: str | None
    value: float | None
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """A layer's numbers."""

    index: int
    name: str
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class Numbers:
    """The numbers of a recording that paths speak of: of the whole, and of each layer."""

    whole: Mapping[str, Any]
    rows: Sequence[Row]


class _Missing(Exception):
    """A path leads to nothing: `part` is the first name that is not there, after `before`, where `names` are."""

    def __init__(self, part: str, before: Sequence[str], names: Sequence[str]) -> None:
        self.part, self.before, self.names = part, before, names


def parse(text: str) -> Condition:
    """A condition from what a user wrote.

    Raises:
        ProbeError: it has not the three parts, or its limit is no number.
    """
    found = re.fullmatch(r"\s*(\S.*?)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*", text)
    if not found:
        raise ProbeError(
            f"condition {text!r}", expected="PATH, one of > >= < <= == !=, and a number", next_step=f"like {EXAMPLE}"
        )
    path, sign, number = found.groups()
    words = {"true": 1.0, "false": 0.0}
    try:
        limit = words[number.lower()] if number.lower() in words else float(number.removesuffix("%"))
    except ValueError:
        limit = float("nan")
    if limit != limit:
        raise ProbeError(f"condition {text!r} compares with {number!r}", expected="a number such as 0.05 or 5%")
    return Condition(text.strip(), path, sign, limit / 100 if number.endswith("%") else limit)


def numbers_of(recording: Recording, timestep: int | None, paths: Sequence[str]) -> Numbers:
    """What some paths speak of; layers are summed up only where one of them asks for it."""
    found = accuracy(recording)
    whole = {key: found[key] for key in ("ann", "snn", "samples", "complete")}
    whole |= {"timesteps": recording.timesteps, "timestep": timestep or recording.timesteps}
    if not any(path.startswith("layers") for path in paths):
        return Numbers(whole, ())
    tables = {row["index"]: row for row in layer_table(recording)["layers"]}
    # A layer without an ANN partner has no error, but it fires.
    paired = [layer.index for layer in recording.layers if layer.paired]
    errors = unevenness(recording, paired, timestep=timestep)["layers"] if paired else []
    by_index = {row["index"]: row for row in errors}
    rows = [
        Row(index, str(row["name"]), {**row, **by_index.get(index, {"reason": "no ANN partner"})})
        for index, row in tables.items()
    ]
    return Numbers(whole, rows)


def lookup(numbers: Numbers, path: str) -> list[Found]:
    """The numbers that a path names; with `*` those of every layer, in order.

    Raises:
        ProbeError: it names nothing, or no number; it says which names are near.
    """
    if path != "layers" and not path.startswith("layers."):
        try:
            found = list(_walk(numbers.whole, path.split("."), (), None))
        except _Missing as missing:
            raise _refused(missing, path, "", () if missing.before else ("layers",)) from None
        return [Found(".".join(at), None, None, value, reason) for at, value, reason in found]
    rows, parts = _chosen(numbers.rows, path.removeprefix("layers").removeprefix("."))
    made: list[Found] = []
    misses: list[_Missing] = []
    for row in rows:
        before = ("layers", str(row.index))
        try:
            found = list(_walk(row.numbers, parts, (), row))
        except _Missing as missing:
            misses.append(missing)
            found = [(tuple(parts), None, row.numbers.get("reason") or "this layer has no such number")]
        made += [Found(".".join(before + at), row.index, row.name, value, reason) for at, value, reason in found]
    if len(misses) == len(rows):
        # The layer that has come furthest knows the nearest names.
        furthest = max(misses, key=lambda one: (len(one.before), len(one.names)))
        raise _refused(furthest, path, path.removesuffix(".".join(parts)))
    return made


def _chosen(rows: Sequence[Row], rest: str) -> tuple[Sequence[Row], list[str]]:
    """The layers that the beginning of a path names, and what follows."""
    for row in sorted(rows, key=lambda row: -len(row.name)):
        if rest.startswith(row.name + ".") and not re.fullmatch(r"-?\d+", row.name):
            return [row], rest[len(row.name) + 1 :].split(".")
    spec, *parts = rest.split(".")
    if spec == "*" or re.fullmatch(r"[-\d:]+", spec):
        return (rows if spec == "*" else select_layers(rows, [spec])), parts
    names = [row.name for row in rows]
    if not rest:
        raise ProbeError("layers is no number", expected="layers.*.NAME or layers.0.NAME", next_step=f"like {EXAMPLE}")
    words = rest.split(".")
    starts = [".".join(words[: i + 1]) for i in range(len(words))]
    near = list(dict.fromkeys(name for start in starts for name in difflib.get_close_matches(start, names, 2)))
    expected = "perhaps " + " or ".join(near[:3]) if near else "an index, *, or one of " + ", ".join(names[:LISTED])
    raise ProbeError(f"no layer is called as layers.{rest} says", expected=expected, next_step="see `probe layers`")


def _walk(
    value: Any, parts: Sequence[str], before: tuple[str, ...], row: Row | None
) -> Iterator[tuple[tuple[str, ...], float | None, str]]:
    """The numbers below a value: path, number and, for None, the reason."""
    if value is None:
        yield (*before, *parts), None, _why(before + tuple(parts), row)
        return
    if not parts:
        if not isinstance(value, int | float):
            raise _Missing("", before, _names(value))
        yield before, value, ""
        return
    part, *rest = parts
    if part == "*" and isinstance(value, Mapping | list):
        yield from _walk_all(value, rest, before, row)
    elif part in _names(value):
        yield from _walk(value[int(part)] if isinstance(value, list) else value[part], rest, (*before, part), row)
    elif part == "share" and not rest and row is not None and before[0] in COUNTS and type(value) is int:
        yield (*before, part), value / row.numbers["count"], ""
    elif before[-1:] == ("offset_spikes",) and re.fullmatch(r"-?\d+", part):
        # Only the keys that occur are listed.
        yield from _walk(0, rest, (*before, part), row)
    else:
        raise _Missing(part, before, _names(value))


def _walk_all(
    value: Any, rest: Sequence[str], before: tuple[str, ...], row: Row | None
) -> Iterator[tuple[tuple[str, ...], float | None, str]]:
    """Below every name of a value; those below which there is nothing are left out, unless all are."""
    made, misses = [], []
    for name in _names(value):
        below = value[int(name)] if isinstance(value, list) else value[name]
        try:
            made += list(_walk(below, rest, (*before, name), row))
        except _Missing as missing:
            misses.append(missing)
    if not made:
        raise misses[0] if misses else _Missing("*", before, ())
    yield from made


def _names(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [str(name) for name in value]
    return [str(i) for i in range(len(value))] if isinstance(value, list) else []


def _why(parts: tuple[str, ...], row: Row | None) -> str:
    """Why a number is None."""
    if row is None:
        return "recorded without an ANN" if parts[0] == "ann" else "undefined"
    numbers = row.numbers
    if parts[0] == "figures":
        reasons = numbers["figures"]["reasons"]
        names = (parts[1], ".".join(parts[1:3]), "interval")
        return next((str(reasons[name]) for name in names if name in reasons), "undefined")
    if parts[0] in ("synaptic_operations", "macs", "fan_out"):
        return str(numbers.get("cost_reason") or "undefined")
    if parts[-1] == "share" and numbers.get("attribution"):
        return "there is no error to have a share of"
    return str(numbers.get("reason") or "undefined")


def _refused(missing: _Missing, path: str, prefix: str, more: Sequence[str] = ()) -> ProbeError:
    """What to tell of a path that names nothing; `prefix` is what of it chose the layers."""
    names, next_step = [*more, *missing.names], "see `probe unevenness --json`"
    listed = ", ".join(names[:LISTED]) + (" ..." if len(names) > LISTED else "")
    if not missing.part:
        return ProbeError(f"{path} is no number", expected=f"a name after it: {listed}", next_step=next_step)
    where = prefix + ".".join(missing.before)
    near = difflib.get_close_matches(missing.part, names, 3)
    if near:
        expected = "perhaps " + " or ".join(near)
    else:
        expected = f"one of {listed}" if names else "nothing after a number but .share of a count"
    got = f"no {missing.part} in {where.rstrip('.')}" if where else f"no number is called {missing.part}"
    return ProbeError(got, expected=expected, next_step=next_step)


# ----------------------------------------------------------------------------------------------------- verdicts


def judged(condition: Condition, found: Sequence[Found]) -> dict[str, Any]:
    """What became of one condition, as `probe check --json` prints it."""
    known = [one for one in found if one.value is not None]
    breaches = [one for one in known if one.value is not None and condition.holds(one.value)]

    def plain(one: Found, *names: str) -> dict[str, Any]:
        return {name: value for name, value in asdict(one).items() if name in ("path", "layer", "name", *names)}

    return {
        "condition": condition.text,
        "compared": len(known),
        "breaches": [{**plain(one, "value"), "limit": condition.limit} for one in breaches],
        "null": [plain(one, "reason") for one in found if one.value is None],
    }


def difference(before: Sequence[Found], after: Sequence[Found]) -> list[Found]:
    """What some numbers have changed by; those that only one side has are None."""
    first = {one.path: one for one in before}
    second = {one.path: one for one in after}
    made = []
    for path in dict.fromkeys((*first, *second)):
        one, other = first.get(path), second.get(path)
        either = one or other
        assert either is not None
        if one is None or other is None:
            made.append(replace(either, value=None, reason=f"only in {'B' if one is None else 'A'}"))
        elif one.value is None or other.value is None:
            made.append(replace(either, value=None, reason=one.reason or other.reason))
        else:
            made.append(replace(one, value=other.value - one.value))
    return made


def breach_lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each breach: path, value, limit, layer."""
    lines = []
    for result in results:
        sign = parse(result["condition"]).sign
        for breach in result["breaches"]:
            layer = "" if breach["layer"] is None else f"  layer {breach['layer']} ({breach['name']})"
            lines.append(f"{breach['path']} = {breach['value']:.6g} {sign} {breach['limit']:.6g}{layer}")
    return lines


def null_lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each condition and reason for which a number could not be compared."""
    lines = []
    for result in results:
        reasons: dict[str, list[str]] = {}
        for one in result["null"]:
            reasons.setdefault(one["reason"], []).append(one["path"])
        for reason, paths in reasons.items():
            listed = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
            lines.append(f"not compared, no value: {listed} ({reason})")
    return lines


def check(
    recording: Recording | str | Path = "recording.h5", conditions: Sequence[str] = (), *, timestep: int | None = None
) -> dict[str, Any]:
    """Hold a recording's numbers against limits; no network is run.

    Args:
        recording: an open one, or its path.
        conditions: each a path, an operator and a number; see the beginning of `probe.conditions`.
        timestep: the t of the layers' numbers; None for T.

    Returns:
        The object that `probe check --json` prints; `passed` where no condition holds anywhere. A number that is
        undefined breaks none, and is listed.

    Raises:
        ProbeError: a condition cannot be read, or its path names nothing.
    """
    parsed = [parse(text) for text in conditions]
    opened = recording if isinstance(recording, Recording) else open_recording(recording)
    numbers = numbers_of(opened, timestep, [one.path for one in parsed])
    results = [judged(one, lookup(numbers, one.path)) for one in parsed]
    return {
        "schema": "probe-check/1",
        "file": str(opened.path),
        "timesteps": opened.timesteps,
        "timestep": timestep or opened.timesteps,
        "samples": opened.samples,
        "complete": opened.complete,
        "passed": not any(result["breaches"] for result in results),
        "conditions": results,
    }
