"""`probe trace`: one neuron over time, as a table and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from probe.cli import printable
from probe.cli.common import Form, print_table, recording_argument, table_options
from probe.cli.completing import layers as complete_layers

if TYPE_CHECKING:
    from probe.analysis import Trace


@click.command()
@recording_argument
@click.option("--layer", default="0", show_default=True, metavar="SPEC", shell_complete=complete_layers,
              help="One layer.")  # fmt: skip
@click.option("--sample", default=0, show_default=True, help="Its place in the recording.")
@click.option("--neuron", required=True, metavar="N,N,N", help="Its place in the layer: channel, row, column.")
@table_options
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Draw it too: .png, .svg or .pdf.")
def command(file: Path, layer: str, sample: int, neuron: str, form: Form, output: Path | None) -> None:
    """Follow one neuron over time: x(t), v(t) against θ, s(t), n(t), φ(t), and what the ANN gave.

    Needs a recording made with --record full.

    \b
    Example:  probe trace --layer 1 --sample 3 --neuron 4,2,2 -o neuron.png
    """
    from probe.analysis import trace
    from probe.recording import open_recording

    with open_recording(file) as recording:
        found = trace(recording, layer, sample, neuron)
        label = int(recording.labels[found.sample])
    steps = [
        {
            "t": t + 1, "x": float(found.x[t]), "v": _known(found.potential[t]), "s": int(found.spike[t]),
            "n": int(found.count[t]), "phi": float(found.snn_output[t]),
        }
        for t in range(len(found.x))
    ]  # fmt: skip

    def draw() -> None:
        if output is not None:
            from probe.plots import draw_trace, save

            save(draw_trace(found), output, overwrite=form.overwrite)
            click.echo(f"{output}", err=not form.is_text)

    head = {
        "schema": "probe-trace/1", "file": str(file), "layer": found.layer_index, "name": found.layer_name,
        "sample": found.sample, "neuron": list(found.neuron), "threshold": found.threshold,
        "initial_potential": found.initial_potential, "levels": found.levels, "ann_input": found.ann_input,
        "ann_output": found.ann_output, "silenced": found.silenced,
    }  # fmt: skip
    form.show({**head, "steps": steps}, lambda: steps, lambda: _print(found, label, steps), draw=draw)


def _print(found: Trace, label: int, steps: Sequence[Mapping[str, Any]]) -> None:
    click.echo(
        f"Layer {found.layer_index} ({printable(found.layer_name)})  neuron {','.join(map(str, found.neuron))}  "
        f"sample {found.sample} (class {label})  θ = {found.threshold:.6f}  v(0) = {found.initial_potential:.6f}"
    )
    if found.ann_input is not None and found.ann_output is not None:
        k = round(found.ann_output * (found.levels or 0) / found.threshold)
        level = f" = {k}·θ/{found.levels}" if found.levels else ""
        click.echo(f"ANN: x = {found.ann_input:.6f}, a = {found.ann_output:.6f}{level}")
    if found.silenced:
        click.echo("silenced by SRP: it cannot fire, and v(t) below is only v(0) + Σx")
    print_table(
        ["t", "x(t)", "v(t)", "s(t)", "n(t)", "φ(t) = θ·n/t"],
        [
            [r["t"], f"{r['x']:+.6f}", "-" if r["v"] is None else f"{r['v']:+.6f}", r["s"], r["n"], f"{r['phi']:.6f}"]
            for r in steps
        ],
        left=0,
    )


def _known(value: float) -> float | None:
    """A number as JSON has it, which has no NaN."""
    return float(value) if value == value else None
