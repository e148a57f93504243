"""`probe surrogate`: surrogate gradients as autograd gives them, against the Heaviside step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from probe.cli import complain
from probe.cli.common import Form, print_table, table_options

if TYPE_CHECKING:
    from probe.surrogates import MeasuredSurrogate

SCHEMA = "probe-surrogate/1"


@click.command()
@click.argument("specs", nargs=-1, required=True, metavar="SPEC...")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Draw them in one picture: .png, .svg or .pdf.")
@click.option("--range", "span", default=2.0, show_default=True, metavar="X", help="x = v − θ runs from −X to X.")
@click.option("--at", multiple=True, type=float, metavar="X", help="Print forward and gradient at x too; repeatable.")
@table_options
def command(
    specs: tuple[str, ...], output: Path | None, span: float, at: tuple[float, ...], form: Form
) -> None:  # fmt: skip
    """Measure surrogate gradients through autograd: maximum, width, area, and whether forward is a step.

    SPEC names a callable from x = v − θ to spikes: package.module:NAME, package.module.NAME or path/to/file.py:NAME,
    with arguments as in NAME(alpha=4.0); spikingjelly:NAME and snntorch:NAME stand for their modules of surrogates.
    A class, its function, an autograd function, and a function that makes surrogates will all do. Naming code runs it.

    The width is that at half maximum; active is where the gradient is above 1% of it; area 1 is the step's height.

    \b
    Example:  probe surrogate 'spikingjelly:Sigmoid(alpha=4.0)' 'snntorch:fast_sigmoid(slope=25)' -o surrogates.png
    """
    from probe.plots import draw_surrogates
    from probe.plots.saving import check_target
    from probe.surrogates import POINTS, distinct, measure_surrogate

    if output is not None:
        check_target(output, overwrite=form.overwrite)
    found = distinct([measure_surrogate(spec, at=at, span=span) for spec in specs])
    rows = [one.plain() for one in found]
    form.show(
        {"schema": SCHEMA, "range": span, "points": POINTS, "dtype": "float32", "surrogates": rows},
        lambda: [{name: value for name, value in row.items() if name != "remarks"} for row in rows],
        lambda: _print(found), draw=form.picture(output, lambda: draw_surrogates(found)),
    )  # fmt: skip


def _print(found: Sequence[MeasuredSurrogate]) -> None:
    rows = []
    for one in found:
        g = one.gradient
        values = () if g is None else (g.maximum, g.peak, g.width, g.active_from, g.active_to, g.area, g.area_below)
        forward = one.forward
        fires = f"x {forward.fires_at} {forward.switch:.4g}" if forward.step else "no step"
        rows.append([one.label, fires, *(_text(value) for value in values or [None] * 7)])
    header = ["surrogate", "fires at", "maximum", "at x", "width", "active from", "to", "area", "below 0"]
    print_table(header, rows)
    if any(one.at for one in found):
        click.echo()
        points = [[one.label, f"{x:g}", _text(y), _text(g)] for one in found for x, y, g in one.at]
        print_table(["surrogate", "x", "forward", "gradient"], points)
    for one in found:
        for sentence in one.remarks:
            complain(f"{one.label}: {sentence}")


def _text(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.4f}"
