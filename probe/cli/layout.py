"""What a terminal takes: its width, whether it may be given colours, and tables that fit into it."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Sequence
from typing import IO

from rich.cells import cell_len

from probe.printable import printable

GAP = "  "
"""Between two columns."""
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"


def takes_colour(stream: IO[str]) -> bool:
    """True where escape sequences are welcome: NO_COLOR forbids them, FORCE_COLOR asks for them, a terminal takes them.

    A terminal that calls itself dumb takes none.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return stream.isatty() and not is_dumb()


def is_dumb() -> bool:
    """The terminal says that it does nothing but print."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


def width_of(stream: IO[str]) -> int | None:
    """Columns of the terminal behind a stream; None where it is a pipe or a file, whose lines may have any length."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def wrapped(text: str, width: int, *, lead: str = "") -> str:
    """A text in lines of at most so many columns, broken between words.

    Args:
        text: one paragraph.
        width: a longer word stays whole.
        lead: stands before the first line; those that follow are indented as far.
    """
    lines = textwrap.wrap(
        text, max(width, len(lead) + 10), initial_indent=lead, subsequent_indent=" " * len(lead),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return "\n".join(lines)


def table_text(
    header: Sequence[str], rows: Sequence[Sequence[object]], *, left: int = 1, width: int | None = None,
    bold: bool = False,
) -> str:  # fmt: skip
    """A table with aligned columns, whose cells are neither cut nor wrapped.

    Args:
        header: a name for each column.
        rows: a value for each column.
        left: so many columns are flush left, the others flush right.
        width: columns of the terminal. A wider table is split into blocks, one below the other, that all begin with
            the columns that name the row.
        bold: the header is.
    """
    texts = [[printable(str(cell)) for cell in row] for row in (header, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
    keys = max(left, 1)
    # A column without a name says more of the one before it.
    groups = [[i] for i in range(min(keys, len(widths)))]
    for i in range(keys, len(widths)):
        if texts[0][i] or i == keys:
            groups.append([i])
        else:
            groups[-1].append(i)
    blocks = []
    for chosen in split_columns(widths, groups, keys, width):
        lines = [GAP.join(_padded(row[i], widths[i], i < left) for i in chosen).rstrip() for row in texts]
        if bold and lines[0]:
            lines[0] = f"{BOLD}{lines[0]}{PLAIN}"
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def split_columns(widths: Sequence[int], groups: Sequence[list[int]], keys: int, width: int | None) -> list[list[int]]:
    """Which columns stand in each block of a table.

    Args:
        widths: of the columns.
        groups: the columns, those together that stay together.
        keys: so many groups at the left name the row and are repeated in each block, or as many of them as leave half
            of the terminal to the others.
        width: of the terminal; None for any.
    """
    every = [i for group in groups for i in group]
    if width is None or _line(widths, every) <= width:
        return [every]
    while keys > 1 and _line(widths, every[:keys]) > width // 2:
        keys -= 1
    repeated = every[:keys]
    blocks: list[list[int]] = []
    block = list(repeated)
    for group in groups[keys:]:
        if len(block) > keys and _line(widths, [*block, *group]) > width:
            blocks.append(block)
            block = list(repeated)
        block += group
    return [*blocks, block]


def _line(widths: Sequence[int], chosen: Sequence[int]) -> int:
    return sum(widths[i] for i in chosen) + len(GAP) * (len(chosen) - 1)


def _padded(text: str, width: int, left: bool) -> str:
    space = " " * (width - cell_len(text))
    return text + space if left else space + text
