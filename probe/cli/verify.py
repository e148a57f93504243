"""`probe verify`: whether a recording is whole, and agrees with itself."""

from __future__ import annotations

from pathlib import Path

import click

from probe.cli import EXIT_CHECK, printable
from probe.cli.common import print_json, recording_argument


@click.command()
@recording_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a stable contract.")
def command(file: Path, as_json: bool) -> int:
    """Read every byte of a recording, and hold it against its checksums and the laws; exit with 1 where one is broken.

    Cases add up to all neurons, the six pieces to the error, timesteps to counts, samples to totals, and statistics are
    equal to those derived again from the arrays. No network is run.

    \b
    Example:  probe verify recording.h5
    """
    from probe.verification import verify

    found = verify(file)
    if as_json:
        print_json(found)
    else:
        for problem in found["problems"]:
            click.echo(printable(problem))
        verdict = f"{len(found['problems'])} problems" if found["problems"] else "whole"
        what = f"{found['layers']} layers, {found['samples']} samples, {found['record']}"
        click.echo(printable(f"{found['file']}: {verdict}, {found['checked']} checks of {what}"))
    return 0 if found["passed"] else EXIT_CHECK
