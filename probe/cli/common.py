"""What several commands share: arguments, and printing tables as text, JSON or CSV."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from probe.printable import printable, printable_json

F = TypeVar("F", bound=Callable[..., Any])


def recording_argument(function: F) -> F:
    """FILE, by default ./recording.h5."""
    return click.argument("file", type=click.Path(path_type=Path), default="recording.h5", metavar="[FILE]")(function)


def layer_option(function: F) -> F:
    """--layer SPEC, several times."""
    return click.option(
        "--layer", "layers", multiple=True, metavar="SPEC",
        help="Index (0, -1), slice (0:5), dotted name, glob or re:PATTERN; may be repeated.",
    )(function)  # fmt: skip


def fail_if_option(function: F) -> F:
    """--fail-if CONDITION, several times."""
    return click.option(
        "--fail-if", "conditions", multiple=True, metavar="CONDITION",
        help="A condition under which to exit with 1; may be repeated.",
    )(function)  # fmt: skip


def format_options(function: F) -> F:
    """--json and --csv."""
    function = click.option("--csv", "as_csv", is_flag=True, is_eager=True, help="Print comma-separated values.")(
        function
    )
    return click.option("--json", "as_json", is_flag=True, callback=_one_format, help="Print JSON, a stable contract.")(
        function
    )


def _one_format(ctx: click.Context, _param: click.Parameter, as_json: bool) -> bool:
    if as_json and ctx.params.get("as_csv"):
        raise click.UsageError("got --json and --csv; expected one of them")
    return as_json


def print_json(value: Any) -> None:
    """One JSON object; there is no NaN in it."""
    click.echo(printable_json(value))


def print_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """Nested rows as flat columns with dotted names; lists are joined by x."""
    flat = [flatten(row) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)


def flatten(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            text = "x".join(map(str, value)) if isinstance(value, list) else value
            flat[prefix + name] = printable(text) if isinstance(text, str) else text
    return flat


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, left: int = 1) -> None:
    """A table with aligned columns, the first `left` of them flush left; wider than the terminal it is not cut."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    # A table that is cut or wrapped can no longer be read by a program, nor by a person.
    measured = Console(width=10_000, file=sys.stdout).measure(table).maximum
    # Rendered first and printed by click, which knows how to meet a closed pipe.
    console = Console(width=max(measured, shutil.get_terminal_size().columns), file=sys.stdout, highlight=False)
    with console.capture() as rendered:
        console.print(table)
    click.echo(rendered.get(), nl=False)


def share(part: int, whole: int) -> str:
    """Four decimals, as lab notes give them."""
    return f"{part / whole:.4f}" if whole else "-"


def bytes_text(number: float) -> str:
    """A size with its unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.2f} TB"


def threshold_text(threshold: float | Mapping[str, Any]) -> str:
    """θ, or its range over channels."""
    if isinstance(threshold, Mapping):
        return f"{threshold['min']:.4g}..{threshold['max']:.4g}"
    return f"{threshold:.6f}"


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where that is a terminal; yields what is called with the samples done and to do."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None, rate="")

        def progress(done: int, samples: int) -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            rate = f"{speed:.0f} samples/s" if speed else ""
            bar.update(task, completed=done, total=samples, rate=rate)

        yield progress
