"""Writes a figure to a file, in the format that the file's name asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.writing import check_file, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS: dict[str, dict[str, Any]] = {
    # Without a date the same picture is the same file.
    ".png": {},
    ".svg": {"metadata": {"Date": None}},
    ".pdf": {"metadata": {"CreationDate": None}},
}
"""Suffix -> what `savefig` is told beside it."""


def check_target(path: str | Path, *, overwrite: bool = True) -> Path:
    """Where a figure can be written, before any work is done for it.

    Raises:
        ProbeError: the suffix is none of `FORMATS`, the folder is missing, or the file exists and may not be replaced.
    """
    return check_file(path, tuple(FORMATS), overwrite=overwrite)


def save(figure: Figure, path: str | Path, *, overwrite: bool = True) -> Path:
    """Write a figure as PNG, SVG or PDF.

    Args:
        figure: from `draw`, or any other.
        path: the suffix says the format.
        overwrite: replace what is there.

    Returns:
        The path.

    Raises:
        ProbeError: another suffix, or the file exists or cannot be written.
    """
    file = check_target(path, overwrite=overwrite)
    from probe.plots import style

    suffix = file.suffix.lower()
    with style.applied(), replacing(file, overwrite=overwrite) as unfinished:
        figure.savefig(unfinished, format=suffix[1:], **FORMATS[suffix])
    return file
