"""`probe layers`: what a recording's layers are and how they fire."""

from __future__ import annotations

from pathlib import Path

import click

from probe.cli.common import format_options, print_csv, print_json, print_table, recording_argument, threshold_text


@click.command()
@recording_argument
@format_options
def command(file: Path, as_json: bool, as_csv: bool) -> None:
    """List the layers: name, shape, threshold, firing rate, silent and saturated share.

    A neuron is silent if it never fired in any sample, saturated if it fired at every timestep of every sample.

    \b
    Example:  probe layers recording.h5
    """
    from probe.analysis import layer_table

    table = layer_table(file)
    if as_json:
        return print_json(table)
    if as_csv:
        return print_csv(table["layers"])
    header = ["layer", "name", "neuron", "shape", "neurons", "L", "θ"]
    header += ["firing rate", "spikes/sample", "silent", "saturated"]
    rows = [
        [
            row["index"], row["name"], row["neuron"], "x".join(map(str, row["shape"])), f"{row['neurons']:,}",
            row["levels"] or "-", threshold_text(row["threshold"]), f"{row['firing_rate']:.4f}",
            f"{row['spikes_per_sample']:,.1f}", f"{row['silent']:.4f}", f"{row['saturated']:.4f}",
        ]
        for row in table["layers"]
    ]  # fmt: skip
    return print_table(header, rows, left=3)
