"""Writes a figure to a file, in the format that the file's name asks for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import ProbeError

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
    file = Path(path)
    if file.suffix.lower() not in FORMATS:
        raise ProbeError(
            f"{file} has the suffix {file.suffix!r}" if file.suffix else f"{file} has no suffix",
            expected=" or ".join(FORMATS),
            next_step=f"write to {file.with_suffix('.png')}" if file.name else "pass a file name",
        )
    if not file.parent.is_dir():
        raise ProbeError(
            f"no folder {file.parent}", expected="an existing folder", next_step="create it or write elsewhere"
        )
    if file.is_dir():
        raise ProbeError(f"{file} is a folder", expected="a file name")
    if file.exists() and not overwrite:
        raise ProbeError(f"{file} exists", expected="a new file", next_step="pass --overwrite, or -o FILE")
    return file


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
    # A full disk must not leave half a picture in the place of a whole one.
    unfinished = file.with_name(file.name + ".tmp")
    with style.applied():
        try:
            figure.savefig(unfinished, format=suffix[1:], **FORMATS[suffix])
            os.replace(unfinished, file)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise ProbeError(
                f"{file} cannot be written ({error.strerror or error})", expected="a writable folder with free space"
            ) from None
    return file
