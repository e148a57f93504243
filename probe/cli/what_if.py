"""`probe what-if`: each layer's error with another v(0), θ, method or arrival of its inputs, from a recording alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from probe.attribution import PIECES
from probe.cli import printable
from probe.cli.common import (
    Form,
    layer_option,
    print_table,
    recording_argument,
    share,
    table_options,
    threshold_text,
)
from probe.cli.source import Samples


@click.command()
@recording_argument
@layer_option
@click.option("-t", "--timestep", type=int, help="t to look at.  [default: T]")
@click.option(
    "--initial-potential",
    "initial_potentials",
    multiple=True,
    type=float,
    metavar="F",
    help="v(0) in units of θ, in [0, 1); repeatable.",
)
@click.option(
    "--scale-threshold",
    "threshold_scales",
    multiple=True,
    type=float,
    metavar="F",
    help="θ times F; v(0) stays the same share of it; repeatable.",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(("if", "snm", "negspike", "srp", "srp+negspike")),
    help="Other neurons; repeatable.",
)
@click.option(
    "--inputs",
    default="recorded",
    show_default=True,
    type=click.Choice(("recorded", "even", "permuted")),
    help="As they were, their mean at every t, or in a random order.",
)
@click.option("--seed", default=0, show_default=True, help="Of that order.")
@click.option("--srp-steps", default=4, show_default=True, help="τ of --method srp.")
@click.option("--samples", default="1000", show_default=True, type=Samples(), metavar="N|all",
              help="The recording's first N, or all.")  # fmt: skip
@table_options
def command(file: Path, layers: tuple[str, ...], form: Form, **options: Any) -> None:
    """Say what each layer's error would be with another v(0), θ, method or arrival of its inputs.

    No network runs: a layer's neurons are simulated again on the inputs that were recorded, so this is local: what
    the next layers would be fed does not change. Several options are combined; without any, the usual ones and the
    best v(0) and θ of a grid are shown. Errors are in units of the recorded θ. Needs a recording made with
    --record full.

    \b
    Example:  probe what-if --layer 1 --initial-potential 0.25 --method negspike
    """
    from probe.what_if import suppose

    found = suppose(file, layers, **options)
    form.show(found, lambda: _rows(found), lambda: _print(found))


def _print(found: Mapping[str, Any]) -> None:
    used, there = found["samples"], found["recorded_samples"]
    samples = f"{used} samples" if used == there else f"the first {used} of {there} samples"
    click.echo(f"t = {found['timestep']} of T = {found['timesteps']}, {samples}; mean squares in units of θ²")
    for row in found["layers"]:
        click.echo()
        _print_layer(row)
    click.echo()
    for note in found["notes"]:
        click.echo(note)


def _rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row an option; of a layer that is left out one with the reason."""
    head = {key: found[key] for key in ("file", "timestep", "samples")}
    rows = []
    for row in found["layers"]:
        layer = {**head, **{key: row[key] for key in ("index", "name", "neuron", "reason")}}
        if row["reason"]:
            rows.append(layer)
        for option in row.get("options", ()):
            rows.append({**layer, "count": row["count"], "reproduced": row["reproduced"], **option})
    return rows


def _print_layer(row: Mapping[str, Any]) -> None:
    title = f"Layer {row['index']} ({printable(row['name'])})"
    if row["reason"]:
        click.echo(f"{title}: {printable(row['reason'])}")
        return
    click.echo(
        f"{title}  {printable(row['neuron'])}  L = {row['levels'] or 'none (ReLU)'}  "
        f"θ = {threshold_text(row['threshold'])}  v(0) = {row['initial_potential']:g} θ"
    )
    absent = {"silencing"} if not any("srp" in option["method"] for option in row["options"]) else set()
    absent |= {"clipping"} if row["levels"] else set()
    pieces = [name for name in PIECES if name not in absent]
    cells = []
    for option in row["options"]:
        cases, count, attribution = option["cases"], row["count"], option["attribution"]
        change = "-" if option["change"] is None else f"{100 * option['change']:+.1f} %"
        change = "" if option is row["options"][0] else change
        equal = cases["zero_equal"] + cases["positive_equal"]
        numbers = (equal, cases["zero_over"], cases["positive_over"], cases["positive_under"], cases["zero_under"])
        cells.append(
            [printable(option["what"]), f"{option['mean_square']:.6f}", change]
            + [f"{attribution[name]['mean_square']:.6f}" for name in pieces]
            + [share(number, count) for number in numbers]
        )
    header = ["what if", "mean square", "change", *(name.replace("_", " ") for name in pieces)]
    print_table([*header, "φ = α", "case 1", "case 2", "case 3", "α = 0, φ < α"], cells)
    _print_check(row["reproduced"])


def _print_check(reproduced: Mapping[str, int]) -> None:
    if reproduced["violations"]:
        click.echo(
            f"NOT REPRODUCED: with the recorded parameters {reproduced['violations']:,} of {reproduced['neurons']:,} "
            "neurons do not give the recorded count, so the rows above mean nothing; θ, v(0) or the method is not what "
            "the recording says, or the file was edited"
        )
    elif reproduced["ties"]:
        click.echo(f"reproduced, but for {reproduced['ties']:,} ties of {reproduced['neurons']:,} neurons")
