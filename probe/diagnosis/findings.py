"""A finding: what is wrong, in which layer it starts, the numbers that show it, and what to change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

SEVERITIES = ("error", "warning", "note")
"""Worst first: the numbers mean nothing or the network is not what it is meant to be; it costs accuracy; worth knowing.
"""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        check: name of the check that found it.
        severity: one of `SEVERITIES`.
        layer: dotted name of the layer in which it starts; None where it concerns the whole network.
        what: what is wrong, in one sentence.
        evidence: the numbers behind it, plain values.
        advice: what to change.
        look: a command to paste; empty where there is nothing to look at.
        index: the layer's index.
    """

    check: str
    severity: str
    layer: str | None
    what: str
    evidence: dict[str, Any] = field(default_factory=dict)
    advice: str = ""
    look: str = ""
    index: int | None = None

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity {self.severity!r}, expected one of {', '.join(SEVERITIES)}")


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """By severity, then those of the whole network, then by layer; otherwise as they came."""
    return sorted(findings, key=lambda one: (SEVERITIES.index(one.severity), -1 if one.index is None else one.index))


def as_json(finding: Finding) -> dict[str, Any]:
    """As `--json` prints it."""
    return asdict(finding)


def reaches(findings: Iterable[Finding], severity: str) -> bool:
    """True if any finding is of this severity or worse."""
    return any(SEVERITIES.index(one.severity) <= SEVERITIES.index(severity) for one in findings)
