"""`probe unevenness`: cases, attribution, offset spikes and residual potential, all layers or one in full."""

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

FIELD_ORDER = (
    ("α = 0, φ = α", "zero_equal"),
    ("α = 0, φ > α (case 1)", "zero_over"),
    ("α = 0, φ < α", "zero_under"),
    ("α > 0, φ = α", "positive_equal"),
    ("α > 0, φ > α (case 2)", "positive_over"),
    ("α > 0, φ < α (case 3)", "positive_under"),
)
"""The field's own order, so that the rows can be laid beside a lab note."""

FIGURE_TEXTS = {
    "bias": ("bias", "+.6f"),
    "rmse": ("RMSE", ".6f"),
    "relative_l2": ("relative L2", ".4f"),
    "sqnr_db": ("SQNR (dB)", ".2f"),
    "cosine": ("cosine", ".4f"),
    "pearson": ("Pearson", ".4f"),
}
"""Figure -> what a table calls it, and its format."""


@click.command()
@recording_argument
@layer_option
@click.option("-t", "--timestep", type=int, help="t to look at.  [default: T]")
@table_options
@click.option("--recompute", is_flag=True, help="Derive the statistics again from the arrays; they must agree exactly.")
def command(file: Path, layers: tuple[str, ...], timestep: int | None, form: Form, recompute: bool) -> None:
    """Say how the SNN's φ(t) differs from the ANN's α in each layer, and from where the error comes.

    Without --layer one line a layer; with it each layer in full. Errors are in units of θ.

    \b
    Example:  probe unevenness --layer 0 -t 4
    """
    from probe.analysis import unevenness

    found = unevenness(file, layers, timestep=timestep, recompute=recompute)
    head = {key: found[key] for key in ("file", "timestep", "samples")}
    form.show(found, lambda: [{**head, **row} for row in found["layers"]], lambda: _print(found, in_full=bool(layers)))


def _print(found: Mapping[str, Any], *, in_full: bool) -> None:
    if not in_full:
        _print_overview(found)
        return
    for row in found["layers"]:
        _print_layer(row, found)


def _print_overview(found: Mapping[str, Any]) -> None:
    click.echo(f"t = {found['timestep']} of T = {found['timesteps']}, {found['samples']} samples; errors in units of θ")
    header = ["layer", "name", "neurons", "α > 0", "φ = α", "case 1", "case 2", "case 3", "α = 0, φ < α", "mean square"]
    rows = []
    for row in found["layers"]:
        cases, count, pieces = row["cases"], row["count"], row["attribution"] or {}
        positive = sum(number for name, number in cases.items() if name.startswith("positive"))
        equal = cases["zero_equal"] + cases["positive_equal"]
        three = (cases["zero_over"], cases["positive_over"], cases["positive_under"], cases["zero_under"])
        counts = (positive, equal, *three)
        rows.append(
            [row["index"], row["name"], f"{count:,}", *(share(number, count) for number in counts)]
            + [f"{pieces['total']['mean_square']:.6f}" if pieces else "-"]
            + [_share_text(pieces[name]["share"] if pieces else None) for name in PIECES]
        )
    print_table([*header, *(name.replace("_", " ") for name in PIECES)], rows, left=2)
    click.echo("case 1: α = 0, φ > α; 2: α > 0, φ > α; 3: α > 0, φ < α; last six columns: shares of the mean square")


def _share_text(value: float | None) -> str:
    # + 0.0 makes a rounded -0 a plain 0.
    return "-" if value is None else f"{round(value, 4) + 0.0:.4f}"


def _print_layer(row: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    cases, local, count = row["cases"], row["local_cases"], row["count"]
    click.echo(
        f"Layer {row['index']} ({printable(row['name'])})  t = {found['timestep']} of T = {found['timesteps']}  "
        f"L = {row['levels'] or 'none (ReLU)'}  θ = {threshold_text(row['threshold'])}  {found['samples']} samples"
    )
    positive = sum(number for name, number in cases.items() if name.startswith("positive"))
    if local is None:
        _print_cases_alone(row, positive)
        return
    even = sum(number for name, number in local.items() if name.startswith("positive"))
    rows = [["neurons counted", "", f"{count:,}", "", f"{count:,}"]]
    for label, number, against in (("α > 0", positive, even), ("α = 0", count - positive, count - even)):
        rows.append([label, share(number, count), f"{number:,}", share(against, count), f"{against:,}"])
    for label, name in FIELD_ORDER:
        number, against = cases[name], local[name]
        rows.append([label, share(number, count), f"{number:,}", share(against, count), f"{against:,}"])
    print_table(["", "α = ANN's a", "", "α = θ·n_even/t", ""], rows)
    click.echo()
    pieces = row["attribution"]
    print_table(
        ["attribution (units of θ)", "mean", "mean square", "share"],
        [
            [
                name.replace("_", " "), f"{pieces[name]['mean']:+.6f}", f"{pieces[name]['mean_square']:.6f}",
                _share_text(pieces[name].get("share")) if name != "total" else "",
            ]
            for name in ("total", *PIECES)
        ],
    )  # fmt: skip
    _print_figures(row)
    _print_offsets(row)
    click.echo()
    labels = {"below": "v(t) < 0", "inside": "0 <= v(t) < θ", "above": "v(t) >= θ", "silenced": "silenced by SRP"}
    print_table(
        ["residual potential", "share", "neurons"],
        [[labels[name], share(number, count), f"{number:,}"] for name, number in row["residual"].items()],
    )
    _print_verdicts(row)


def _print_cases_alone(row: Mapping[str, Any], positive: int) -> None:
    """What can be said where n_even cannot."""
    cases, count = row["cases"], row["count"]
    rows = [["neurons counted", "", f"{count:,}"], ["α > 0", share(positive, count), f"{positive:,}"]]
    rows.append(["α = 0", share(count - positive, count), f"{count - positive:,}"])
    rows += [[label, share(cases[name], count), f"{cases[name]:,}"] for label, name in FIELD_ORDER]
    print_table(["", "α = ANN's a", ""], rows)
    click.echo(f"no attribution: {row['reason']}")
    _print_figures(row)
    _print_offsets(row)


def _print_figures(row: Mapping[str, Any]) -> None:
    found, per_channel = row["figures"], isinstance(row["threshold"], Mapping)
    intervals = found["interval"] or {}
    click.echo()
    rows = []
    for name, (label, form) in FIGURE_TEXTS.items():
        interval = intervals.get(name)
        ends = [format(interval[end], form) for end in ("low", "high")] if interval else ["-", "-"]
        rows.append([label, "-" if found[name] is None else format(found[name], form), *ends])
    print_table([f"φ against α (units of {'each θ' if per_channel else 'θ'})", "", "95% from", "to"], rows)


def _print_offsets(row: Mapping[str, Any]) -> None:
    offsets, count = row["offset_spikes"], row["count"]
    click.echo()
    print_table(
        ["offset spikes", *offsets],
        [
            ["neurons", *(f"{number:,}" for number in offsets.values())],
            ["share", *(share(number, count) for number in offsets.values())],
        ],
    )


def _print_verdicts(row: Mapping[str, Any]) -> None:
    largest, oracle, law = row["largest_error"], row["oracle"], row["law"]
    if largest is not None:
        place = f"sample {largest['sample']}, neuron {','.join(map(str, largest['neuron']))}"
        click.echo(f"largest error {largest['error']:+.4f} θ: {place}")
    if law["broken"]:
        click.echo(
            f"ORACLE BROKEN: up to {law['largest_difference']:.2g} θ away from v(T) = v(0) + Σx - θ·n: no soft-reset "
            "neuron with this θ and v(0), so the attribution above means nothing"
        )
    if not oracle["applies"]:
        return
    if oracle.get("broken"):
        click.echo(
            f"ORACLE BROKEN: fed the same input at every t, yet {oracle['violations']:,} neurons err; samples are "
            "mis-paired, time is read in the wrong order, or θ or v(0) is not what it is said to be"
        )
    else:
        click.echo(f"oracle holds: fed the same input at every t, no unevenness ({oracle['ties']} ties)")
