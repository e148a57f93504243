"""A network with one fault, and what its diagnosis should say; the table of all of them is made in `test_table`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """A fault injected into a network, or a healthy twin.

    Attributes:
        name: what a test is called.
        check: the check that must find it; None for a healthy network, of which nothing above a note may be said.
        layer: dotted name of the layer that must be named; None where the fault is the whole network's.
        make: gives the model, as `probe.diagnose` takes it.
        options: of `probe.diagnose`.
    """

    name: str
    check: str | None
    layer: str | None
    make: Callable[[], Any]
    options: Mapping[str, Any] = field(default_factory=dict)
