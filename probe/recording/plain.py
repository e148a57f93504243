"""JSON of a recording, held against what it is to say before anything is looked up in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

TRAITS: dict[str, type] = {
    "reset": str, "fires_at": str, "signed": bool, "guarded": bool, "graded": bool, "leaky": bool, "bounded": bool,
    "uniform_start": bool, "causal": bool, "presteps": int, "exposes_potential": bool,
}  # fmt: skip
"""What is known of a layer's neurons -> its type; others are left as they are."""
FACTS: dict[str, type] = {
    "modes": dict, "calls": dict, "order": list, "pairs": dict, "unpaired": list, "on_spikes": list, "cost": dict,
    "fed": dict, "law": dict, "oracles": dict,
}  # fmt: skip
NEEDED = ("modes", "order", "law", "oracles")
MOST_STEPS = 1 << 20
"""Timesteps before the first one, for SRP."""


def parsed(text: Any) -> Any:
    """The value of some JSON.

    Raises:
        ValueError: it is none, or holds a number that is not finite.
    """
    if not isinstance(text, str | bytes):
        raise ValueError("JSON is expected, and no text is there")
    return json.loads(text, parse_constant=_refused, parse_float=_finite)


def _refused(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no finite number")
    return value


def check_traits(traits: Any) -> None:
    """Refuse traits of other types.

    Raises:
        ValueError: one is.
    """
    _check_types(traits, TRAITS, "traits")
    if not 0 <= traits.get("presteps", 0) <= MOST_STEPS:
        raise ValueError("traits: presteps is impossible")


def check_facts(facts: Mapping[str, Any]) -> None:
    """Refuse facts of other types than `probe.run.Run.facts` gives.

    Raises:
        ValueError: one is, or is missing.
    """
    missing = [name for name in NEEDED if name not in facts]
    if missing:
        raise ValueError(f"{', '.join(missing)}: not there")
    _check_types(facts, FACTS, "facts")
    for layer, verdict in facts["law"].items():
        _check_types(verdict, {"broken": bool}, f"law of layer {layer}", needed=True)
        difference = verdict.get("largest_difference")
        if not _number(difference) or (verdict["broken"] and difference is None):
            raise ValueError(f"law of layer {layer} is no verdict")
    for layer, verdict in facts["oracles"].items():
        _check_types(
            verdict, {"applies": bool, "violations": int, "ties": int}, f"oracle of layer {layer}", needed=True
        )
        if not _number(verdict.get("input_difference")) or not isinstance(verdict.get("broken", False), bool):
            raise ValueError(f"oracle of layer {layer} is no verdict")
    for bend in facts.get("on_spikes", []):
        _check_types(bend, {"operation": str, "module": str}, "on_spikes", needed=True)
    modes = facts["modes"]
    for name, texts in {
        "order": facts["order"], "unpaired": facts.get("unpaired", []), "operations": facts.get("operations", []),
        **{key: modes.get(key, []) for key in ("found_in_training_mode", "training_kinds")},
    }.items():  # fmt: skip
        if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
            raise ValueError(f"{name} holds other than names")
    _check_types(facts.get("fed", {}), {"differing_samples": int}, "fed")
    _check_cost(facts.get("cost", {}))


def _check_cost(cost: Mapping[str, Any]) -> None:
    layers = cost.get("layers", {})
    _check_types(layers, {}, "cost")
    for where, of in (("network", cost), *layers.items()):
        _check_types(of, {}, f"cost of {where}")
        whole = all(_number(of.get(name)) for name in ("macs", "dense_macs"))
        if not whole or not isinstance(of.get("reason"), str | None) or (where != "network" and not _told(of)):
            raise ValueError(f"cost of {where} is none")


def _told(of: Mapping[str, Any]) -> bool:
    """A layer's cost: why it is unknown, or all that is known of it."""
    return isinstance(of.get("reason"), str) if "reason" in of else isinstance(of.get("fan_out"), dict) and "macs" in of


def _check_types(values: Any, types: Mapping[str, type], what: str, *, needed: bool = False) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{what} are no table")
    for name, kind in types.items():
        value = values.get(name)
        # For Python, true is a whole number.
        wrong = not isinstance(value, kind) or (kind is int and isinstance(value, bool))
        if wrong and (needed or name in values):
            raise ValueError(f"{what}: {name} is no {kind.__name__}")


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
