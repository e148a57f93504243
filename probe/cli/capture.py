"""`probe capture`: run a network as ANN and as SNN on the same samples and record every spiking layer."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from probe.cli import EXIT_CHECK, complain, printable
from probe.cli.common import bytes_text, layer_option
from probe.errors import ProbeError
from probe.recording.schema import PRESETS

if TYPE_CHECKING:
    from probe.session import Capture

ASK_ABOVE = 10e9
NEURONS = ("if", "snm", "negspike", "srp", "srp+negspike")
"""Those of `probe.neurons`, which would load torch; a test holds the two together."""


class Samples(click.ParamType[Any]):
    """A number of samples, or `all` (None)."""

    name = "N|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """The number, or None for all."""
        if value == "all":
            return None
        try:
            return int(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is neither a number nor 'all'", param, ctx)


@click.command()
@click.argument("model", default="zoo:digits", metavar="[MODEL]")
@click.option("--data", help="digits, or cifar10-jpeg:PATH.  [default: the model's own, if bundled]")
@click.option("--split", default="test", show_default=True, help="train or test.")
@click.option("--samples", default="200", show_default=True, type=Samples(),
              help="Balanced over classes, chosen by the seed; or all, in order.")  # fmt: skip
@click.option("-T", "--timesteps", default=8, show_default=True, help="T, the simulated length.")
@click.option("--at", multiple=True, type=int, metavar="t", help="More t at which statistics are kept; repeatable.")
@click.option("--levels", type=int, help="L instead of the trained one.")
@click.option("--neuron", default="if", show_default=True, type=click.Choice(NEURONS), help="Kind of spiking neuron.")
@click.option("--srp-steps", default=4, show_default=True, help="τ, SRP's pre-simulation steps.")
@layer_option
@click.option("--record", default="full", show_default=True, type=click.Choice(PRESETS), help="What to keep.")
@click.option("-o", "--output", default="recording.h5", show_default=True, type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace an existing recording.")
@click.option("--yes", is_flag=True, help="Write more than 10 GB without asking.")
@click.option("--batch-size", default=50, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or auto.")
@click.option("--seed", default=0, show_default=True, help="Chooses the samples.")
@click.option("--strict", is_flag=True, help="Exit with 1 if an oracle is broken.")
def command(yes: bool, strict: bool, model: str, **options: Any) -> int:
    """Run MODEL as ANN and as SNN on the same samples and record every spiking layer.

    MODEL is zoo:digits (the default, with its data) or zoo:resnet20-cifar10 (needs --data).

    \b
    --record stats   statistics only: cases, attribution, offset spikes, at the grid of t
             counts  and spike counts, ANN outputs and summed inputs of every neuron
             spikes  and every spike
             full    and every input of both networks

    \b
    Example:  probe capture zoo:digits -T 16 --samples 500 --record counts -o counts.h5
    """
    from probe.session import oracle_message, plan

    arguments = "probe " + shlex.join(sys.argv[1:])
    planned = plan(model, command=arguments, **options)
    _announce(planned)
    if planned.bytes > ASK_ABOVE and not yes:
        raise ProbeError(
            f"this would write up to {bytes_text(planned.bytes)}", expected="at most 10 GB without being told",
            next_step="pass --yes, or record less with --record, --layer or --samples",
        )  # fmt: skip
    with _progress() as progress:
        captured = planned.run(progress)
    from probe.analysis import accuracy

    found = accuracy(captured.path)
    last = str(planned.info.timesteps)
    click.echo(
        f"{captured.path}: {captured.samples} samples, {len(planned.layers)} layers, T = {last}, "
        f"{bytes_text(captured.bytes)}"
    )
    click.echo(f"accuracy: ANN {found['ann']:.4f}, SNN {found['snn'][last]:.4f} at T = {last}")
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
        f"  {planned.info.record}: at most {bytes_text(planned.bytes)} before compression, "
        f"{len(planned.indices)} samples of {printable(planned.info.data)}, T = {planned.info.timesteps}",
        err=True,
    )


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("capture"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("capture", total=None, rate="")

        def progress(done: int, samples: int) -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            rate = f"{speed:.0f} samples/s" if speed else ""
            bar.update(task, completed=done, total=samples, rate=rate)

        yield progress
