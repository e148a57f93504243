"""`probe check`: thresholds on the numbers of a recording, for CI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from probe.cli import EXIT_CHECK, complain, printable
from probe.cli.common import Form, fail_if_option, recording_argument, table_options
from probe.errors import ProbeError

COLUMNS = ("condition", "path", "layer", "name", "value", "limit")
"""Of a table of breaches, also where there is none."""


@click.command()
@recording_argument
@fail_if_option
@click.option("-t", "--timestep", type=int, help="t of the layers' numbers.  [default: T]")
@table_options
def command(file: Path, conditions: tuple[str, ...], timestep: int | None, form: Form) -> int:
    """Exit with 1 where a saved number is beyond its limit, with a line for each; no network is run.

    \b
    A condition is a path, one of > >= < <= == !=, and a number (0.05 or 5%):
      layers.*.cases.zero_over.share > 5%    every layer; .share of a count
      layers.0.figures.sqnr_db < 20          one layer, by index or name
      snn.8 < 0.9                            accuracy at t = 8; ann for the ANN's
    Paths are those of the JSON of `probe unevenness`, `probe layers` and `probe accuracy`.

    \b
    Example:  probe check recording.h5 --fail-if 'layers.*.cases.zero_over.share > 0.05' --fail-if 'snn.8 < 90%'
    """
    from probe.conditions import EXAMPLE, check

    if not conditions:
        raise ProbeError("no condition", expected="--fail-if CONDITION", next_step=f"like --fail-if {EXAMPLE}")
    found = check(file, conditions, timestep=timestep)
    form.show(found, lambda: _rows(found), lambda: _print(found), COLUMNS)
    return 0 if found["passed"] else EXIT_CHECK


def _rows(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One a number that is beyond its limit."""
    for result in found["conditions"]:
        for breach in result["breaches"]:
            yield {"condition": result["condition"], **breach}


def _print(found: Mapping[str, Any]) -> None:
    from probe.conditions import breach_lines, null_lines

    results = found["conditions"]
    for line in null_lines(results):
        complain(f"note: {line}")
    for line in breach_lines(results):
        click.echo(printable(line))
    if found["passed"]:
        compared = sum(result["compared"] for result in results)
        click.echo(
            printable(f"{found['file']}: {compared} numbers within {len(results)} limits at t = {found['timestep']}")
        )
