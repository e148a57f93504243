"""`probe check`: thresholds on the numbers of a recording, for CI."""

from __future__ import annotations

from pathlib import Path

import click

from probe.cli import EXIT_CHECK, complain, printable
from probe.cli.common import fail_if_option, print_json, recording_argument
from probe.errors import ProbeError


@click.command()
@recording_argument
@fail_if_option
@click.option("-t", "--timestep", type=int, help="t of the layers' numbers.  [default: T]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a stable contract.")
def command(file: Path, conditions: tuple[str, ...], timestep: int | None, as_json: bool) -> int:
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
    from probe.conditions import EXAMPLE, breach_lines, check, null_lines

    if not conditions:
        raise ProbeError("no condition", expected="--fail-if CONDITION", next_step=f"like --fail-if {EXAMPLE}")
    found = check(file, conditions, timestep=timestep)
    if as_json:
        print_json(found)
        return 0 if found["passed"] else EXIT_CHECK
    for line in null_lines(found["conditions"]):
        complain(f"note: {line}")
    lines = breach_lines(found["conditions"])
    for line in lines:
        click.echo(printable(line))
    if lines:
        return EXIT_CHECK
    compared = sum(result["compared"] for result in found["conditions"])
    click.echo(f"{found['file']}: {compared} numbers within {len(conditions)} limits at t = {found['timestep']}")
    return 0
