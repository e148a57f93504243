"""`probe capture`: run a network as ANN and as SNN on the same samples and record every spiking layer."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from probe.cli import EXIT_CHECK, complain, printable
from probe.cli.common import bytes_text, layer_option, progress_bar
from probe.cli.source import source_arguments, source_options
from probe.errors import ProbeError
from probe.recording.schema import PRESETS

if TYPE_CHECKING:
    from probe.session import Capture

ASK_ABOVE = 10e9


@click.command()
@source_options()
@click.option("--at", multiple=True, type=int, metavar="t", help="More t at which statistics are kept; repeatable.")
@layer_option
@click.option("--record", default="full", show_default=True, type=click.Choice(PRESETS), help="What to keep.")
@click.option("-o", "--output", default="recording.h5", show_default=True, type=click.Path(path_type=Path),
              help="The new recording.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an existing recording.")
@click.option("--resume", is_flag=True, help="Go on where an earlier run of this command ended; begin if none has.")
@click.option("--yes", is_flag=True, help="Write more than 10 GB without asking.")
@click.option("--batch-size", default=50, show_default=True, help="Samples that are run at once.")
@click.option("--strict", is_flag=True, help="Exit with 1 if an oracle is broken.")
def command(yes: bool, strict: bool, **options: Any) -> int:
    """Run MODEL as ANN and as SNN on the same samples and record every spiking layer.

    \b
    MODEL is zoo:NAME (zoo:digits comes with its data), torchvision:NAME, or your own
    file.py:callable or package.module:callable, which returns an ANN, an SNN, a network
    with both modes, a pair (ann, snn) or a probe.Subject. See what is paired with
    `probe layers --model MODEL` first.

    \b
    --record stats   statistics only: cases, attribution, offset spikes, at the grid of t
             counts  and spike counts, ANN outputs and summed inputs of every neuron
             spikes  and every spike
             full    and every input of both networks

    \b
    A capture that ended early, however it did, goes on where it was with
      the same command and --resume
    and several processes share one with
      torchrun --nproc-per-node=N -m probe capture ...

    \b
    Example:  probe capture zoo:digits -T 16 --samples 500 --record counts -o counts.h5
    """
    from probe.session import oracle_message, plan

    arguments = "probe " + shlex.join(sys.argv[1:])
    planned = plan(command=arguments, **source_arguments(options), **options)
    if planned.speaks:
        for note in planned.notes:
            complain(f"note: {note}")
        _announce(planned)
    if planned.bytes > ASK_ABOVE and not yes:
        raise ProbeError(
            f"this would write up to {bytes_text(planned.bytes)}", expected="at most 10 GB without being told",
            next_step="pass --yes, or record less with --record, --layer or --samples",
        )  # fmt: skip
    with progress_bar("capture") if planned.speaks else nullcontext() as progress:
        captured = planned.run(progress)
    if not planned.speaks:
        return EXIT_CHECK if strict and captured.broken else 0
    for note in captured.notes:
        complain(f"note: {note}")
    from probe.analysis import accuracy
    from probe.recording.reader import open_written

    with open_written(captured.path) as recording:
        found = accuracy(recording)
    last = str(planned.info.timesteps)
    click.echo(
        f"{captured.path}: {captured.samples} samples, {len(planned.layers)} layers, T = {last}, "
        f"{bytes_text(captured.bytes)}"
    )
    ann = "" if found["ann"] is None else f"ANN {found['ann']:.4f}, "
    click.echo(f"accuracy: {ann}SNN {found['snn'][last]:.4f} at T = {last}")
    if captured.broken:
        complain(oracle_message(captured))
        return EXIT_CHECK if strict else 0
    return 0


def _announce(planned: Capture) -> None:
    sizes = planned.bytes_per_layer
    for layer in planned.layers:
        shape = "x".join(map(str, layer.shape))
        line = f"  layer {layer.index:<3} {printable(layer.name):<24} {shape:>12}  {bytes_text(sizes[layer.index]):>9}"
        click.echo(line, err=True)
    click.echo(
        f"  {planned.info.record}: arrays of at most {bytes_text(planned.bytes)} before compression, "
        f"{len(planned.indices)} samples of {printable(planned.info.data)}, T = {planned.info.timesteps}",
        err=True,
    )
