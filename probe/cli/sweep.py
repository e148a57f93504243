"""`probe sweep`: conversion methods side by side over T, as a lab's table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from probe.attribution import PIECES
from probe.cli import EXIT_CHECK, complain, printable
from probe.cli.common import Form, layer_option, print_table, progress_bar, share, table_options
from probe.cli.completing import methods as complete_methods
from probe.cli.source import source_arguments, source_options
from probe.errors import ProbeError

LEFT_OUT = ("neuron",)
"""Options of a capture that a sweep gives itself."""


@click.command()
@source_options(without=LEFT_OUT)
@click.option("--methods", default="if,snm,negspike,srp,srp+negspike", show_default=True, metavar="NAME,...",
              shell_complete=complete_methods,
              help="Names, or NAME@F with v(0) = F·θ; cos too.")  # fmt: skip
@click.option("--at", multiple=True, type=int, metavar="t", help="More t for the table; repeatable.")
@layer_option
@click.option("-t", "--timestep", type=int, help="t of the layers' table, of the table's grid.  [default: T]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Draw accuracy over T: .png, .svg or .pdf.")
@click.option("--batch-size", default=50, show_default=True, help="Samples that are run at once.")
@click.option("--strict", is_flag=True, help="Exit with 1 if an oracle is broken.")
@table_options
def command(
    methods: str, timestep: int | None, output: Path | None, strict: bool, form: Form, **options: Any
) -> int:  # fmt: skip
    """Compare conversion methods over T on one network, each from a single simulated run.

    MODEL is as for `probe capture`, an ANN or a network with both modes.

    The table gives the accuracy in per cent, T = 0 for the ANN, with 95% intervals below; with --layer also what each
    layer's error is made of (--csv: that alone, at every t of the table). A method whose calibration depends on T (cos)
    is run once for each T, merged in time.

    \b
    Example:  probe sweep zoo:digits -T 32 --methods if,if@0,negspike,srp --samples all -o sweep.png
    """
    from probe.plots import draw_study
    from probe.plots.saving import check_target
    from probe.prepare import DEFAULT_SWEEP_T
    from probe.study import cost, sweep, table_grid

    names = [name for name in methods.split(",") if name]
    timesteps = options.pop("timesteps") or DEFAULT_SWEEP_T
    grid = table_grid(timesteps, options["at"])
    if timestep is not None and timestep not in grid:
        raise ProbeError(f"t = {timestep}", expected="one of " + ", ".join(map(str, grid)), next_step="pass --at N too")
    if output is not None:
        check_target(output, overwrite=form.overwrite)
    for line in cost(names, timesteps, options["at"]):
        click.echo(f"  {line}", err=True)
    shown = options["layers"]
    with progress_bar("sweep") as advance:
        found = sweep(
            methods=names, timesteps=timesteps, progress=_named(advance), tell=_tell, **source_arguments(options),
            **options,
        )  # fmt: skip
    broken = [f"{row['method']}: {sentence}" for row in found["methods"] for sentence in row["broken"]]
    try:
        form.show(
            found, lambda: _layer_rows(found) if shown else _rows(found),
            lambda: _print(found, timestep or timesteps, layers=bool(shown)),
            draw=form.picture(output, lambda: draw_study(found)),
        )  # fmt: skip
    finally:
        for sentence in broken:
            complain(f"ORACLE BROKEN: {sentence}")
    return EXIT_CHECK if strict and broken else 0


def _tell(sentence: str) -> None:
    complain(f"note: {sentence}")


def _named(advance: Callable[[int, int], None]) -> Callable[[str, int, int], None]:
    def progress(_method: str, done: int, samples: int) -> None:
        advance(done, samples)

    return progress


def _rows(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"method": "ann", "t": 0, **found["ann"]}
    for row in found["methods"]:
        for t, accuracy in row["accuracy"].items():
            yield {"method": row["method"], "t": int(t), **accuracy}


def _layer_rows(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in found["methods"]:
        for layer in row["layers"]:
            for t, here in layer["at"].items():
                yield {"method": row["method"], "layer": layer["index"], "name": layer["name"], "t": int(t), **here}


def _print(found: Mapping[str, Any], timestep: int, *, layers: bool) -> None:
    table = [str(t) for t in found["table"]]
    click.echo(f"{printable(found['model'])}, {found['samples']} samples of {printable(found['data'])}")
    rows = []
    for i, row in enumerate(found["methods"]):
        ann = f"{100 * found['ann']['accuracy']:.2f}" if i == 0 else ""
        rows.append([row["method"], ann, *(f"{100 * row['accuracy'][t]['accuracy']:.2f}" for t in table)])
    print_table(["accuracy (%)", "T=0", *table], rows)
    click.echo()
    intervals = []
    for i, row in enumerate(found["methods"]):
        ann = _interval(found["ann"]) if i == 0 else ""
        intervals.append([row["method"], ann, *(_interval(row["accuracy"][t]) for t in table)])
    print_table(["95% interval", "T=0", *table], intervals)
    if layers:
        _print_layers(found, str(timestep))


def _interval(accuracy: Mapping[str, float]) -> str:
    return f"{100 * accuracy['low']:.1f}-{100 * accuracy['high']:.1f}"


def _print_layers(found: Mapping[str, Any], t: str) -> None:
    click.echo(f"\nt = {t}; errors in units of θ, last six columns: shares of the mean square")
    rows = []
    for row in found["methods"]:
        for layer in row["layers"]:
            here = layer["at"][t]
            cases, count, pieces = here["cases"], here["count"], here["attribution"]
            equal = cases["zero_equal"] + cases["positive_equal"]
            counts = (equal, cases["zero_over"], cases["positive_over"], cases["positive_under"])
            rows.append(
                [layer["index"], layer["name"], row["method"], *(share(number, count) for number in counts)]
                + [f"{pieces['total']['mean_square']:.6f}"]
                + [_share(pieces.get(name)) for name in PIECES]
            )
    rows.sort(key=lambda cells: int(cells[0]))
    header = ["layer", "name", "method", "φ = α", "case 1", "case 2", "case 3", "mean square"]
    print_table([*header, *(name.replace("_", " ") for name in PIECES)], rows, left=3)


def _share(piece: Mapping[str, Any] | None) -> str:
    return "-" if piece is None or piece["share"] is None else f"{piece['share']:.4f}"
