"""`probe verify`: whether a recording is whole, and agrees with itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from probe.cli import EXIT_CHECK, printable
from probe.cli.common import Form, recording_argument, table_options


@click.command()
@recording_argument
@table_options
def command(file: Path, form: Form) -> int:
    """Read every byte of a recording, and hold it against its checksums and the laws; exit with 1 where one is broken.

    Cases add up to all neurons, the six pieces to the error, timesteps to counts, samples to totals, and statistics are
    equal to those derived again from the arrays. No network is run.

    \b
    Example:  probe verify recording.h5
    """
    from probe.verification import verify

    found = verify(file)
    form.show(found, lambda: [found], lambda: _print(found))
    return 0 if found["passed"] else EXIT_CHECK


def _print(found: Mapping[str, Any]) -> None:
    for problem in found["problems"]:
        click.echo(printable(problem))
    verdict = f"{len(found['problems'])} problems" if found["problems"] else "whole"
    what = f"{found['layers']} layers, {found['samples']} samples, {found['record']}"
    click.echo(printable(f"{found['file']}: {verdict}, {found['checked']} checks of {what}"))
