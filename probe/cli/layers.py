"""`probe layers`: what a recording's layers are and how they fire; or how a model's layers would be paired."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from probe.cli import complain, printable
from probe.cli.common import Form, print_table, recording_argument, table_options, threshold_text
from probe.cli.source import source_arguments, source_options
from probe.errors import ProbeError


@click.command()
@recording_argument
@table_options
@source_options(flag=True)
def command(file: Path, form: Form, model: str | None, **options: Any) -> None:
    """List the layers: name, shape, threshold, firing rate, cost, silent and saturated share.

    A neuron is silent if it never fired in any sample, saturated if it fired at every timestep of every sample.
    Synaptic operations are spikes times fan-out, of one sample over all T, beside the multiply-accumulates (MACs) that
    the ANN spends on what the layer feeds.

    With --model nothing is recorded: the table shows which activation is paired with which spiking layer, before a
    capture with the same options; a single sample is run.

    \b
    Example:  probe layers recording.h5
              probe layers --model file.py:networks --data cifar10
    """
    if model is None:
        _refuse_stray(click.get_current_context())
        return _of_recording(file, form)
    if click.get_current_context().get_parameter_source("file") != click.core.ParameterSource.DEFAULT:
        raise ProbeError(f"--model and the recording {file}", expected="one of them")
    return _of_model(model, options, form)


def _refuse_stray(ctx: click.Context) -> None:
    """An option of --model without it would be ignored in silence."""
    for name in ctx.params:
        if name in ("file", "as_json", "as_csv", "table", "overwrite", "model"):
            continue
        if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            raise ProbeError(f"--{name.replace('_', '-')} without --model", expected="--model MODEL")


def _of_recording(file: Path, form: Form) -> None:
    from probe.analysis import layer_table

    table = layer_table(file)
    form.show(table, lambda: table["layers"], lambda: _print_recording(table))


def _print_recording(table: Mapping[str, Any]) -> None:
    header = ["layer", "name", "neuron", "shape", "neurons", "L", "θ"]
    header += ["firing rate", "spikes/sample", "fan-out", "synaptic operations", "ANN's MACs", "silent", "saturated"]
    rows = [
        [
            row["index"], row["name"], row["neuron"], "x".join(map(str, row["shape"])), f"{row['neurons']:,}",
            row["levels"] or "-", threshold_text(row["threshold"]), f"{row['firing_rate']:.4f}",
            f"{row['spikes_per_sample']:,.1f}", _number(row["fan_out"], ",.1f"),
            _number(row["synaptic_operations"], ",.0f"), _number(row["macs"], ",.0f"),
            f"{row['silent']:.4f}", f"{row['saturated']:.4f}",
        ]
        for row in table["layers"]
    ]  # fmt: skip
    print_table(header, rows, left=3)
    cost = table["cost"]
    values = {name: _number(cost[name], ",.0f") for name in ("synaptic_operations", "macs", "dense_macs")}
    click.echo(
        f"a sample over all T: {values['synaptic_operations']} synaptic operations; the ANN: {values['macs']} MACs, "
        f"{values['dense_macs']} of them not fed by spikes: these the SNN does at every t"
        + (f" (unknown: {printable(cost['reason'])})" if cost["reason"] else "")
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _of_model(model: str, options: dict[str, Any], form: Form) -> None:
    from probe.prepare import Source, pairing_table, prepare

    prepared = prepare(Source(model, **source_arguments(options), **options))
    table = pairing_table(prepared)
    prepared.release()
    form.show(table, lambda: table["layers"], lambda: _print_pairing(table))


def _print_pairing(table: Mapping[str, Any]) -> None:
    for note in table["notes"]:
        complain(f"note: {note}")
    click.echo(f"{table['model']}: {table['family']}, T = {table['timesteps']}, {table['classes']} classes")
    header = ["layer", "ANN activation", "", "SNN layer", "", "neuron", "shape", "L", "θ", "v(0)/θ", "claims"]
    rows = [
        [
            row["index"], row["ann"] or "-", row["ann_module"] or "", row["snn"], row["snn_module"], row["neuron"],
            "x".join(map(str, row["shape"])), row["levels"] or "-", threshold_text(row["threshold"]),
            f"{row['initial_fraction']:g}", "all" if row["reason"] is None else row["reason"],
        ]
        for row in table["layers"]
    ]  # fmt: skip
    print_table(header, rows, left=6)
