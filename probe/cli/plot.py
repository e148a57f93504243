"""`probe plot`: a picture of a recording, as PNG, SVG or PDF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from probe.cli.common import layer_option, recording_argument
from probe.plots import KINDS, draw, save
from probe.plots.saving import check_target

HELP = """Draw a picture of a recording, and print where it is.

\b
KIND is one of
{kinds}

Without --layer every layer is drawn, each in a panel of its own where it needs one; for features and trace the first.

\b
Example:  probe plot phi --layer 0 -o phi.png
""".format(kinds="\n".join(f"  {kind:<12} {plot.summary}" for kind, plot in KINDS.items()))


@click.command(help=HELP)
@click.argument("kind", type=click.Choice(list(KINDS)), metavar="KIND")
@recording_argument
@layer_option
@click.option("-t", "--timestep", type=int, metavar="N", help="t to look at.  [default: T]")
@click.option("--sample", "samples", type=int, multiple=True, metavar="N", help="Its place in the recording.")
@click.option("--neuron", "neurons", multiple=True, metavar="N,N,N", help="Its place in the layer; may be repeated.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help=".png, .svg or .pdf.  [default: KIND-layerN.png]")
@click.option("--overwrite", is_flag=True, help="Replace an existing picture.")
def command(
    kind: str,
    file: Path,
    layers: tuple[str, ...],
    timestep: int | None,
    samples: tuple[int, ...],
    neurons: tuple[str, ...],
    output: Path | None,
    overwrite: bool,
) -> None:
    """Draw a picture of a recording, and print where it is."""
    from probe.plots.choice import choose_layers
    from probe.recording import open_recording

    with open_recording(file) as recording:
        if output is None:
            chosen = choose_layers(recording, layers or None)
            if not layers:
                chosen = chosen[:1] if KINDS[kind].on_figure else []
            output = Path(default_name(kind, [layer.index for layer in chosen]))
        check_target(output, overwrite=overwrite)
        figure = draw(
            recording, kind, layers=layers or None, timestep=timestep, samples=samples or None,
            neurons=list(neurons) or None,
        )  # fmt: skip
    click.echo(save(figure, output, overwrite=overwrite))


def default_name(kind: str, layers: Sequence[int]) -> str:
    """The picture's file name: the kind, and the indices of the layers that were chosen."""
    indices = "-".join(map(str, layers)) if len(layers) <= 6 else f"{layers[0]}to{layers[-1]}"
    return f"{kind}-layer{indices}.png" if layers else f"{kind}.png"
