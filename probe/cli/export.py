"""`probe export`: the raw arrays of a recording as one .npz file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from probe.cli import complain
from probe.cli.common import bytes_text, layer_option, progress_bar, recording_argument
from probe.recording.schema import FIELDS


@click.command()
@recording_argument
@layer_option
@click.option("--array", "arrays", multiple=True, metavar="NAME", type=click.Choice(list(FIELDS)),
              help=f"{', '.join(FIELDS)}; may be repeated.  [default: all that there are]")  # fmt: skip
@click.option("--sample", "samples", metavar="A:B", help="Places in the recording, B not included.  [default: all]")
@click.option("-o", "--output", default="arrays.npz", show_default=True, type=click.Path(path_type=Path),
              help="The new file.")  # fmt: skip
@click.option("--compress", is_flag=True, help="Deflate: much slower, and spikes take much less room.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def command(
    file: Path, layers: tuple[str, ...], arrays: tuple[str, ...], samples: str | None, output: Path, **options: Any
) -> None:
    """Write raw arrays, decoded, to an .npz file for numpy, with labels and logits.

    Keys are the paths of the recording: numpy.load("arrays.npz")["layers/0/snn_spikes"] has the shape
    (sample, timestep, *neuron). The file is written block by block, so it may be larger than memory.

    \b
    Example:  probe export --layer 1 --array snn_spikes --sample 0:100 -o spikes.npz
    """
    from probe.exporting import export

    with progress_bar("export", "MB") as bar:
        done = export(
            file, output, layers, arrays=arrays, samples=samples, tell=_tell,
            progress=lambda done, to_do: bar(done // 10**6, to_do // 10**6), **options,
        )  # fmt: skip
    for note in done.notes:
        complain(f"note: {note}")
    click.echo(f"{done.path}: {len(done.keys)} arrays, {bytes_text(done.bytes)}")


def _tell(sentence: str) -> None:
    click.echo(f"  {sentence}", err=True)
