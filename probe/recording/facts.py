"""What a recording knows of its run beside arrays: joined where it lies in parts, and told where it is broken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Facts = dict[str, Any]
"""Name -> plain values; what `probe.run.Run.facts` gives."""


def joined(parts: Sequence[Mapping[str, Any]]) -> Facts:
    """The facts of a recording from those of its parts: what was counted adds up, what was largest stays so."""
    facts = dict(parts[0])
    facts["fed"] = {"differing_samples": sum(part["fed"]["differing_samples"] for part in parts)}
    for name, join in (("law", _join_laws), ("oracles", _join_oracles)):
        layers = dict.fromkeys(layer for part in parts for layer in part[name])
        facts[name] = {layer: join([part[name][layer] for part in parts if layer in part[name]]) for layer in layers}
    return facts


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _join_laws(laws: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "largest_difference": _largest(law["largest_difference"] for law in laws),
        "broken": any(law["broken"] for law in laws),
    }


def _join_oracles(oracles: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        **oracles[0],
        "violations": sum(oracle["violations"] for oracle in oracles),
        "ties": sum(oracle["ties"] for oracle in oracles),
        "input_difference": _largest(oracle["input_difference"] for oracle in oracles),
        "broken": any(oracle["broken"] for oracle in oracles),
    }


def broken_oracles(facts: Mapping[str, Any], names: Mapping[int, str]) -> Iterator[str]:
    """A sentence for each oracle that a run breaks.

    Args:
        facts: of the run.
        names: index of each recorded layer -> its name.
    """
    if differing := facts["fed"]["differing_samples"]:
        yield f"ANN and SNN were fed different numbers in {differing} samples"
    for index, name in names.items():
        where, oracle, law = f"layer {index} ({name})", facts["oracles"].get(str(index)), facts["law"][str(index)]
        if oracle and oracle["broken"]:
            yield (
                f"{where} errs in {oracle['violations']} neurons that cannot err, and its inputs differ by up to "
                f"{oracle['input_difference']:.2g} θ: fed the same input at every t it has no unevenness, so samples "
                "are mis-paired, time is read in the wrong order, or θ or v(0) is not what it is said to be"
            )
        if law["broken"]:
            yield (
                f"{where} is up to {law['largest_difference']:.2g} θ away from the conservation law v(T) = v(0) + Σx - "
                "θ·n: it is no soft-reset neuron with the θ and v(0) that it is said to have, and its attribution "
                "means nothing"
            )
