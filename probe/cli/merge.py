"""`probe merge`: parts and recordings into one plain file."""

from __future__ import annotations

from pathlib import Path

import click

from probe.cli import complain
from probe.cli.completing import recordings


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SOURCE...",
                shell_complete=recordings)  # fmt: skip
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The new file.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def command(sources: tuple[Path, ...], output: Path, overwrite: bool) -> int:
    """Join recordings, or the parts of one, into one plain file.

    SOURCE is a recording or a folder of parts (recording.h5.parts). Parts of one run are put in the order of their
    samples; recordings of other samples of the same network, data and options follow one another as given. Every
    count is that of a single run over all of them.

    \b
    Example:  probe merge recording.h5 -o one-file.h5
              probe merge node1/recording.h5.parts node2/recording.h5.parts -o whole.h5
    """
    from probe.merging import merge

    merged = merge(sources, output, overwrite=overwrite)
    for note in merged.notes:
        complain(f"note: {note}")
    click.echo(f"{merged.path}: {merged.samples} samples from {merged.pieces} pieces")
    if merged.samples < merged.asked:
        complain(f"warning: {merged.samples} of {merged.asked} samples: the recording is incomplete")
    return 0
