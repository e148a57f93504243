"""Tables as files: nested rows become flat columns with dotted names, written as CSV, Parquet or JSON."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import ProbeError
from probe.printable import printable, printable_json
from probe.writing import check_file, replacing

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]

SUFFIXES = (".csv", ".parquet", ".json")
"""Of a table's file."""
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""What a spreadsheet takes for the beginning of a formula, in some languages also in full width; `printable` leaves no
tab or line break at the beginning."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""What is one in every spreadsheet; Python also takes -inf and -1_0."""
NUMBERED = re.compile(r"(.*)\.(-?[0-9]{1,18})")
"""A column of several that differ in a number, as in `offset_spikes.-1`."""
INT64 = range(-(1 << 63), 1 << 63)
EXACT = 1 << 53
"""Whole numbers up to here are floats without rounding."""

Row = Mapping[str, Any]


def flatten(row: Row, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; every value is a number, a truth value, a text or None.

    A list of whole numbers is joined by x, as in 16x8x8, one of texts by semicolons; any other is JSON.
    """
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[printable(prefix + str(name))] = _cell(value)
    return flat


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple):
        if all(isinstance(one, str) for one in value):
            value = "; ".join(value)
        elif all(type(one) is int for one in value):
            value = "x".join(map(str, value))
        else:
            value = printable_json(value, indent=None)
    return printable(value) if isinstance(value, str) else value


def flat_rows(rows: Sequence[Row], columns: Sequence[str] = ()) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns of a table in the order in which they are met, and its rows, each with a value for every column.

    Columns that differ in a number at the end stand together, in its order. A name that is null where it is met, and in
    another row has nested values, is no column.

    Args:
        rows: nested.
        columns: names that are there even where no row has them.
    """
    flat = [flatten(row) for row in rows]
    met = dict.fromkeys([*columns, *(name for row in flat for name in row)])
    nested = {name[:end] for name in met for end, character in enumerate(name) if character == "."}
    known = {*columns, *(name for row in flat for name, value in row.items() if value is not None)}
    names = _in_order([name for name in met if name in known or name not in nested])
    return names, [{name: row.get(name) for name in names} for row in flat]


def _in_order(names: Sequence[str]) -> list[str]:
    """The same with numbered columns sorted, at the place of their first."""
    numbered: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if found := NUMBERED.fullmatch(name):
            numbered.setdefault(found[1], []).append((int(found[2]), name))
    ordered = []
    for name in names:
        found = NUMBERED.fullmatch(name)
        ordered += [one for _, one in sorted(numbered.pop(found[1], []))] if found else [name]
    return ordered


def csv_text(rows: Sequence[Row], columns: Sequence[str] = ()) -> str:
    """A table as comma-separated values: a header, then a line a row; None is an empty cell.

    A text that a spreadsheet would take for a formula (one that begins with = + - @, also of full width, and is no
    number) gets a leading apostrophe: names come from files that anybody may have made.
    """
    names, flat = flat_rows(rows, columns)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_inert, names))
    writer.writerows([_inert(row[name]) for name in names] for row in flat)
    return text.getvalue()


def _inert(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(FORMULA) or NUMBER.fullmatch(value):
        return value
    return f"'{value}"


def json_text(rows: Sequence[Row], columns: Sequence[str] = ()) -> str:
    """A table as a JSON list with an object a row: the flat columns, null for None and for what is no finite number."""
    _, flat = flat_rows(rows, columns)
    plain = [{name: _finite(value) for name, value in row.items()} for row in flat]
    return printable_json(plain) + "\n"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def arrow_table(rows: Sequence[Row], columns: Sequence[str] = ()) -> pyarrow.Table:
    """A table as pyarrow has it, each column of one type: truth values, int64, float64 or text; None is null.

    Whole numbers beside others become float64. Where numbers stand beside text, or a whole number fits neither type,
    all values of the column are text.
    """
    import pyarrow

    names, flat = flat_rows(rows, columns)
    arrays = [_column([row[name] for row in flat]) for name in names]
    return pyarrow.table(arrays, names=names)


def _column(values: Sequence[Any]) -> pyarrow.Array:
    import pyarrow

    there = [value for value in values if value is not None]
    kinds = {type(value) for value in there}
    if not kinds:
        return pyarrow.array(values, pyarrow.null())
    if kinds == {bool}:
        return pyarrow.array(values, pyarrow.bool_())
    if kinds == {int} and all(value in INT64 for value in there):
        return pyarrow.array(values, pyarrow.int64())
    if kinds == {float} or (kinds == {int, float} and all(abs(v) <= EXACT for v in there if isinstance(v, int))):
        return pyarrow.array(values, pyarrow.float64())
    return pyarrow.array([None if value is None else str(value) for value in values], pyarrow.string())


def check_table(path: str | Path, *, overwrite: bool) -> Path:
    """Where a table can be written, before any work is done for it.

    Raises:
        ProbeError: the suffix is none of `SUFFIXES`, pyarrow is not installed and Parquet is asked for, the folder is
            missing, or the file exists and may not be replaced.
    """
    file = check_file(path, SUFFIXES, overwrite=overwrite, option="--table FILE")
    if file.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise ProbeError(
            f"{file} needs pyarrow, which is not installed", expected=".csv or .json, or the extra",
            next_step="pip install 'snn-probe[parquet]'",
        )  # fmt: skip
    return file


def write_table(path: str | Path, rows: Sequence[Row], columns: Sequence[str] = (), *, overwrite: bool = False) -> Path:
    """Write a table as CSV, Parquet or JSON, as the suffix says.

    Args:
        path: `.csv`, `.parquet` or `.json`.
        rows: nested mappings; `flatten` says how they become columns.
        columns: names that are there even where no row has them.
        overwrite: replace what is there.

    Returns:
        The path.

    Raises:
        ProbeError: as `check_table`; or it cannot be written.
    """
    file = check_table(path, overwrite=overwrite)
    suffix = file.suffix.lower()
    with replacing(file, overwrite=overwrite, option="--table FILE") as unfinished:
        if suffix == ".parquet":
            from pyarrow import parquet

            parquet.write_table(arrow_table(rows, columns), unfinished)
        else:
            text = csv_text(rows, columns) if suffix == ".csv" else json_text(rows, columns)
            unfinished.write_text(text, encoding="utf-8", newline="")
    return file
