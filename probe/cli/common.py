"""What several commands share: arguments, and giving tables as text, JSON, CSV or a file."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from probe.cli import complain
from probe.cli.completing import layers as complete_layers
from probe.cli.completing import recordings
from probe.cli.layout import is_dumb, table_text, takes_colour, width_of
from probe.printable import printable_json
from probe.tables import check_table, csv_text, write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

F = TypeVar("F", bound=Callable[..., Any])

NARROW = 80
"""Columns of a terminal below which a progress bar is numbers alone."""


def recording_argument(function: F) -> F:
    """FILE, by default ./recording.h5."""
    return click.argument(
        "file", type=click.Path(path_type=Path), default="recording.h5", metavar="[FILE]", shell_complete=recordings,
    )(function)  # fmt: skip


def layer_option(function: F) -> F:
    """--layer SPEC, several times."""
    return click.option(
        "--layer", "layers", multiple=True, metavar="SPEC", shell_complete=complete_layers,
        help="Index (0, -1), slice (0:5), dotted name, glob or re:PATTERN; may be repeated.",
    )(function)  # fmt: skip


def fail_if_option(function: F) -> F:
    """--fail-if CONDITION, several times."""
    return click.option(
        "--fail-if", "conditions", multiple=True, metavar="CONDITION",
        help="A condition under which to exit with 1; may be repeated.",
    )(function)  # fmt: skip


@dataclass(frozen=True)
class Form:
    """In which form a command gives what it found: what --json, --csv, --table and --overwrite say."""

    as_json: bool
    as_csv: bool
    table: Path | None
    overwrite: bool

    @property
    def is_text(self) -> bool:
        """For a person to read on stdout."""
        return not (self.as_json or self.as_csv)

    def show(
        self, found: Any, rows: Callable[[], Iterable[Mapping[str, Any]]], text: Callable[[], None],
        columns: Sequence[str] = (), draw: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """Write the picture and the table's file if there are to be any, then print, also where those have failed.

        Args:
            found: the object that --json prints.
            rows: gives the rows of --csv and --table, nested.
            text: prints for a person.
            columns: of the rows, where there may be none.
            draw: draws and writes a picture.

        Raises:
            ProbeError: a file cannot be written; what is found is printed all the same.
        """
        failures: list[Exception] = []
        # Files first, for the reader of stdout may close it.
        for write in (draw, self.table and (lambda: self._write(list(rows()), columns))):
            try:
                if write:
                    write()
            except Exception as error:
                failures.append(error)
        if self.as_json:
            print_json(found)
        elif self.as_csv:
            click.echo(csv_text(list(rows()), columns), nl=False)
        else:
            text()
        if failures:
            for failure in failures[:-1]:
                complain(str(failure))
            raise failures[-1]

    def picture(self, output: Path | None, draw: Callable[[], Figure]) -> Callable[[], None] | None:
        """What draws a picture, writes it and says so, for `show`; None where none is asked for."""
        if output is None:
            return None

        def write() -> None:
            from probe.plots import save

            save(draw(), output, overwrite=self.overwrite)
            complain(f"{output} is drawn")

        return write

    def _write(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        assert self.table is not None
        write_table(self.table, rows, columns, overwrite=self.overwrite)
        complain(f"{self.table} is written, {len(rows)} row{'s' * (len(rows) != 1)}")


def table_options(function: F) -> F:
    """--json, --csv, --table and --overwrite, which reach the command as one argument, `form`."""

    @functools.wraps(function)
    def formed(*, as_json: bool, as_csv: bool, table: Path | None, overwrite: bool, **arguments: Any) -> Any:
        if as_json and as_csv:
            raise click.UsageError("got --json and --csv; expected one of them")
        # A table that could not be written is told before the work is done.
        if table is not None:
            check_table(table, overwrite=overwrite)
        return function(form=Form(as_json, as_csv, table, overwrite), **arguments)

    options = (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, a stable contract."),
        click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values."),
        click.option("--table", type=click.Path(path_type=Path), metavar="FILE",
                     help="Write those to a .csv, .parquet or .json file too."),
        click.option("--overwrite", is_flag=True, help="Replace existing files."),
    )  # fmt: skip
    for option in reversed(options):
        formed = option(formed)
    return formed  # type: ignore[return-value]


def print_json(value: Any) -> None:
    """One JSON object; there is no NaN in it."""
    click.echo(printable_json(value))


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, left: int = 1) -> None:
    """A table with aligned columns, the first `left` of them flush left; never cut, and split where it is too wide."""
    coloured = takes_colour(sys.stdout)
    text = table_text(header, rows, left=left, width=width_of(sys.stdout), bold=coloured)
    click.echo(text, nl=False, color=coloured)


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
def progress_bar(what: str, unit: str = "samples") -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where that is a terminal; yields what is called with the units done and to do."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

    columns: tuple[ProgressColumn, ...] = (
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    # A bar goes back over its line, which a dumb terminal does not, and neither does a file.
    shown = sys.stderr.isatty() and not is_dumb()
    console = Console(stderr=True, no_color=not takes_colour(sys.stderr))
    # The bar gives way first on a narrow terminal, where a line that is broken could not be gone back over.
    if console.width < NARROW:
        columns = columns[0], columns[2], columns[4]
    with Progress(*columns, console=console, disable=not shown) as bar:
        task = bar.add_task(what, total=None, rate="")

        def progress(done: int, to_do: int) -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            rate = f"{speed:.0f} {unit}/s" if speed else ""
            bar.update(task, completed=done, total=to_do, rate=rate)

        yield progress
