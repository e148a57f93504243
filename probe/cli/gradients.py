"""`probe gradients`: one training step of a spiking network, and what is wrong with its gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from probe.cli import complain, printable
from probe.cli.common import Form, print_table, table_options
from probe.cli.findings import exit_code, fail_on_option, print_findings
from probe.cli.source import source_arguments, source_options
from probe.diagnosis.findings import Finding

LEFT_OUT = (
    "neuron", "srp_steps", "initial_potential", "levels", "calibrate", "calibrate_per", "calibration_samples",
    "average_pool", "samples",
)  # fmt: skip
"""Options of a capture that a training step has no use for, or gives itself."""


@click.command()
@click.option("--samples", default=32, show_default=True, help="In a batch, balanced over classes; two are run.")
@source_options(without=(*LEFT_OUT, "pairs"))
@click.option("--loss", metavar="FILE.py:NAME", help="A callable of (outputs, labels).  [default: the cross entropy of "
              "the outputs summed over time]")  # fmt: skip
@fail_on_option
@table_options
def command(fail_on: str, form: Form, **options: Any) -> int:
    """Run one training step of a spiking network, and say what is wrong with its gradients.

    MODEL is any network that is trained as it spikes, of a package or written by hand. What cuts autograd's graph is
    named with its layer and line; surrogates are measured where they are used; and the gradient is followed over layers
    and timesteps. The network is left as it was found. Exit code 1 where there is an error (see --fail-on).

    \b
    Example:  probe gradients net.py:Net --data mnist -T 25
    """
    from probe.training import gradients

    model = options.pop("model")
    arguments = source_arguments({**options, "pairs": ()})
    for name in ("model_args", "pairs"):
        options.pop(name, None)
    told = gradients(model, **{**options, **arguments})
    found = [Finding(**one) for one in told["findings"]]
    form.show(told, lambda: told["layers"], lambda: _print(told, found))
    return exit_code(found, fail_on)


def _print(told: Mapping[str, Any], found: Sequence[Finding]) -> None:
    _print_layers(told)
    print_findings(found)
    if not any(one.severity != "note" for one in found):
        click.echo("no error and no warning")


def _print_layers(told: Mapping[str, Any]) -> None:
    click.echo(printable(f"{told['model']}, a batch of {told['samples']} samples of {told['data']}: {told['run']}"))
    click.echo(printable(f"loss {_text(told['loss'], '.4f')}: {told['loss_is']}"))
    for note in told["notes"]:
        complain(f"note: {note}")
    if not told["layers"]:
        return
    header = ["layer", "name", "module", "calls", "neurons", "firing rate", "active", "dead"]
    header += ["gradient", "first", "last"]
    rows = []
    for row in told["layers"]:
        norms = row["gradient_norms"]
        rows.append(
            [row["index"], row["name"], row["module"], row["calls"], f"{row['neurons']:,}", f"{row['firing_rate']:.4f}"]
            + [_text(row["active_share"], ".4f"), _text(row["dead_share"], ".4f")]
            + [_text(norm, ".2e") for norm in (row["gradient_norm"], norms[0], norms[-1])]
        )
    print_table(header, rows, left=3)
    click.echo("active: share in the surrogate's window; gradient: norm at the spikes, at all, first and last call")


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
