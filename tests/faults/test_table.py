"""The table of faults: each is found, under its name, in its layer, and nothing is said of a healthy network.

`pytest tests/faults/test_table.py -s` prints it.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pytest

import probe
from probe.diagnosing import is_recording
from tests.faults.harness import Case

pytestmark = pytest.mark.usefixtures("one_thread")

FILES = ("models", "recordings", "gradients")
USUAL = {"data": "digits", "samples": 20, "timesteps": 4}


def gathered(attribute: str) -> list[Case]:
    """The cases of every file that is there and is about models."""
    found: list[Case] = []
    for name in FILES:
        if find_spec(f"tests.faults.{name}"):
            found += getattr(importlib.import_module(f"tests.faults.{name}"), attribute, [])
    return found


CASES, HEALTHY = gathered("CASES"), gathered("HEALTHY")


@dataclass(frozen=True)
class Row:
    """What was said of a case.

    Attributes:
        found: a finding has the check's name.
        layer: it names the layer.
        first: it comes first.
        findings: (severity, check, layer) of all.
    """

    case: Case
    found: bool
    layer: bool
    first: bool
    findings: Sequence[tuple[str, str, str | None]]


@functools.cache
def row(place: int, healthy: bool = False) -> Row:
    case = (HEALTHY if healthy else CASES)[place]
    target = case.make()
    options = dict(case.options) if is_recording(target) else {**USUAL, **case.options}
    said: list[dict[str, Any]] = probe.diagnose(target, **options)["findings"]
    findings = [(one["severity"], one["check"], one["layer"]) for one in said]
    named = [one for one in findings if one[1] == case.check]
    first = bool(findings) and findings[0][1:] == (case.check, case.layer)
    return Row(case, bool(named), any(one[2] == case.layer for one in named), first, findings)


@pytest.mark.parametrize("place", range(len(CASES)), ids=[case.name for case in CASES])
def test_a_fault_is_found_and_named(place: int) -> None:
    told = row(place)
    assert told.found, told.findings
    assert told.layer, (told.case.layer, told.findings)


@pytest.mark.parametrize("place", range(len(HEALTHY)), ids=[case.name for case in HEALTHY])
def test_nothing_is_said_of_a_healthy_network(place: int) -> None:
    assert [one for one in row(place, healthy=True).findings if one[0] != "note"] == []


def test_each_fault_is_in_two_networks() -> None:
    checks = [case.check for case in CASES]
    assert {check for check in checks if checks.count(check) < 2} == set()


def lines() -> Iterator[str]:
    """The table, a line a check, and the healthy networks."""
    rows = [row(place) for place in range(len(CASES))]
    yield f"{'check':<26}{'networks':>9}{'found':>7}{'layer':>7}{'first':>7}"
    for check in dict.fromkeys(one.case.check for one in rows):
        of_it = [one for one in rows if one.case.check == check]
        numbers = (len(of_it), *(sum(getattr(one, what) for one in of_it) for what in ("found", "layer", "first")))
        yield f"{check!s:<26}{numbers[0]:>9}{numbers[1]:>7}{numbers[2]:>7}{numbers[3]:>7}"
    healthy = [row(place, healthy=True) for place in range(len(HEALTHY))]
    false = {one.case.name: loud for one in healthy if (loud := [f for f in one.findings if f[0] != "note"])}
    yield f"healthy: {len(healthy)} networks, {len(false)} with a false alarm {false or ''}"


def test_the_table() -> None:
    """All found, none false."""
    whole = list(lines())
    sys.stdout.write("\n" + "\n".join(whole) + "\n")
    assert all(one.found and one.layer for one in (row(place) for place in range(len(CASES))))
    assert " 0 with a false alarm" in whole[-1]
