"""`probe diff`: two recordings layer by layer, what got better or worse, and whether beyond sampling noise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from probe.attribution import PIECES
from probe.cli import EXIT_CHECK, complain, printable
from probe.cli.common import Form, fail_if_option, layer_option, print_table, table_options
from probe.cli.completing import recordings

CASE_COLUMNS = (
    ("case 1", "zero_over"), ("case 2", "positive_over"), ("case 3", "positive_under"), ("α = 0, φ < α", "zero_under"),
)  # fmt: skip


@click.command()
@click.argument("a", type=click.Path(path_type=Path), shell_complete=recordings)
@click.argument("b", type=click.Path(path_type=Path), shell_complete=recordings)
@layer_option
@click.option("-t", "--timestep", type=int, help="t in both.  [default: the smaller T]")
@click.option("--timestep-b", type=int, help="t in B, where it is another.")
@fail_if_option
@table_options
def command(
    a: Path, b: Path, layers: tuple[str, ...], timestep: int | None, timestep_b: int | None,
    conditions: tuple[str, ...], form: Form,
) -> int:  # fmt: skip
    """Say what got better or worse from recording A to recording B, layers ranked by the change of their error.

    Intervals are 95%, over samples; paired where both recordings hold the same samples. Errors are in units of each
    layer's own θ. Conditions (see `probe check --help`) speak of B minus A.

    \b
    Example:  probe diff before.h5 after.h5 -t 4 --fail-if 'layers.*.cases.zero_over.share > 0.01'
              probe diff same.h5 same.h5 -t 4 --timestep-b 8
    """  # fmt: skip
    from probe.compare import diff
    from probe.conditions import breach_lines, null_lines

    found = diff(a, b, layers or None, timestep=timestep, timestep_b=timestep_b, conditions=conditions)
    exit_code = 0 if found["passed"] else EXIT_CHECK
    form.show(found, lambda: found["layers"], lambda: _print(found))
    if form.as_json:
        return exit_code
    for line in null_lines(found["conditions"]):
        complain(f"note: {line}")
    for line in breach_lines(found["conditions"]):
        click.echo(printable(f"B - A: {line}"), err=form.as_csv)
    return exit_code


def _print(found: Mapping[str, Any]) -> None:
    for name in ("a", "b"):
        side = found[name]
        click.echo(
            f"{name.upper()}: {printable(side['file'])}, {printable(side['method'])}, {side['samples']} samples, "
            f"t = {side['timestep']} of T = {side['timesteps']}"
        )
    reasons = dict.fromkeys(row["reason"] for row in found["layers"] if row["reason"])
    for note in (*found["notes"], *reasons):
        click.echo(printable(f"note: {note}"))
    for name, key in (("only in A", "only_in_a"), ("only in B", "only_in_b")):
        if found[key]:
            click.echo(printable(f"{name}: " + ", ".join(f"{one['index']} ({one['name']})" for one in found[key])))
    _print_accuracy(found["accuracy"])
    click.echo()
    header = ["layer", "name", "verdict", "mean square A", "B", "B - A", "95% from", "to"]
    header += [name.replace("_", " ") for name in PIECES] + [label for label, _ in CASE_COLUMNS]
    print_table([*header, "firing rate", "SQNR (dB)"], [_row(row) for row in found["layers"]], left=3)
    click.echo("columns after the interval are B - A: mean squares of the pieces, shares of the cases, rate, SQNR")


def _row(row: Mapping[str, Any]) -> list[str]:
    square, pieces, cases = row["mean_square"] or {}, row["pieces"] or {}, row["cases"] or {}
    sqnr = (row["figures"] or {}).get("sqnr_db")
    name = row["name"] if row["name"] == row["name_b"] else f"{row['name']} / {row['name_b']}"
    return [
        str(row["index"]), name, row["verdict"] or "-", _text(square.get("a"), ".6f"), _text(square.get("b"), ".6f"),
        _text(square.get("difference"), "+.6f"), *_ends(square, "+.6f"),
        *(_change(pieces.get(piece), "+.6f") for piece in PIECES),
        *(_change(cases.get(case), "+.4f") for _, case in CASE_COLUMNS),
        _change(row["firing_rate"], "+.4f"), _change(sqnr, "+.2f"),
    ]  # fmt: skip


def _print_accuracy(accuracy: Mapping[str, Any]) -> None:
    rows = []
    for label, entry in (("ANN", accuracy["ann"]), ("SNN", accuracy["snn"])):
        if entry is not None:
            scaled = {name: 100 * entry[name] for name in ("a", "b", "difference")}
            scaled["interval"] = entry["interval"] and {end: 100 * value for end, value in entry["interval"].items()}
            verdict = "-" if entry["beyond_noise"] is None else _verdict(entry)
            numbers = [f"{scaled['a']:.2f}", f"{scaled['b']:.2f}", f"{scaled['difference']:+.2f}"]
            rows.append([f"accuracy, {label}", verdict, *numbers, *_ends(scaled, "+.2f")])
    print_table(["", "verdict", "A", "B", "B - A", "95% from", "to"], rows, left=2)


def _verdict(entry: Mapping[str, Any]) -> str:
    if entry["difference"] == 0:
        return "equal"
    return ("better" if entry["difference"] > 0 else "worse") if entry["beyond_noise"] else "noise"


def _ends(entry: Mapping[str, Any], form: str) -> list[str]:
    interval = entry.get("interval") or {}
    return [_text(interval.get(end), form) for end in ("low", "high")]


def _change(entry: Mapping[str, Any] | None, form: str) -> str:
    return _text(entry["difference"] if entry else None, form)


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
