"""How the diagnosing commands print findings, and when they exit with 1."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import click

from probe.cli import EXIT_CHECK, printable
from probe.cli.layout import width_of, wrapped
from probe.diagnosis.findings import SEVERITIES, Finding, reaches

F = TypeVar("F", bound=Callable[..., Any])

WIDEST = 100
"""Columns of a sentence, however wide the terminal is, and in a file: longer lines are hard to read."""
MARGIN = "  "
LISTED = 6
"""Numbers of a list that are shown."""
COLUMNS = tuple(field.name for field in fields(Finding) if field.name != "evidence")
"""Of a table of findings, also where there is none; the evidence has a column for each of its numbers."""


def fail_on_option(function: F) -> F:
    """--fail-on SEVERITY."""
    return click.option(
        "--fail-on", type=click.Choice(SEVERITIES), default="error", show_default=True,
        help="Exit with 1 where something of this severity or worse is found.",
    )(function)  # fmt: skip


def print_findings(findings: Sequence[Finding]) -> None:
    """Worst first, each with its evidence, what to change and where to look; a line to paste is never wrapped."""
    for i, one in enumerate(findings):
        if i:
            click.echo()
        named = one.layer if one.index is None else f"{one.index} ({one.layer})"
        place = "whole network" if one.layer is None else f"layer {named}"
        click.echo(printable(f"{one.severity.upper()}  {place}  {one.check}"))
        _print(MARGIN, one.what)
        evidence = [f"{name.replace('_', ' ')} {_text(value)}" for name, value in one.evidence.items()]
        for label, text in (("evidence", "; ".join(evidence)), ("change", one.advice)):
            if text:
                _print(f"{MARGIN}{label:<10}", text)
        if one.look:
            click.echo(printable(f"{MARGIN}{'look':<10}{one.look}"))


def counted(findings: Sequence[Finding]) -> str:
    """As in `1 error, 2 warnings`."""
    numbers = {severity: sum(one.severity == severity for one in findings) for severity in SEVERITIES}
    return ", ".join(f"{number} {name}{'s' if number > 1 else ''}" for name, number in numbers.items() if number)


def _print(lead: str, text: str) -> None:
    click.echo(wrapped(printable(text), min(WIDEST, width_of(sys.stdout) or WIDEST), lead=lead))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        shown = ", ".join(map(_text, value[:LISTED]))
        return f"[{shown}{', ...' if len(value) > LISTED else ''}]"
    return "-" if value is None else str(value)


def exit_code(findings: Sequence[Finding], fail_on: str) -> int:
    """1 where something is as bad as `fail_on`, else 0."""
    return EXIT_CHECK if reaches(findings, fail_on) else 0
