"""`probe report`: one HTML file that shows a recording, or two side by side."""

from __future__ import annotations

from pathlib import Path

import click

from probe.cli.completing import recordings


@click.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, metavar="[FILE]...", shell_complete=recordings)
@click.option("-o", "--output", type=click.Path(path_type=Path), default="report.html", show_default=True,
              help="The HTML file.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def command(files: tuple[Path, ...], output: Path, overwrite: bool) -> None:
    """Write a report that is looked at in a browser: one file, without network or server.

    It holds the verdict with the findings of `probe diagnose`, accuracy over t, a map of the layers, and for each layer
    pictures that a timestep slider moves together. Of two FILEs the second is laid beside the first.

    \b
    Example:  probe report -o report.html
              probe report before.h5 after.h5 -o both.html
    """
    from probe.cli.common import bytes_text
    from probe.reporting import report

    written = report(files or "recording.h5", output, overwrite=overwrite)
    click.echo(f"{written}: {bytes_text(written.stat().st_size)}")
