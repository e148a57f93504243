"""Files that a command writes: looked at before the work, and put in their place whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from probe.errors import ProbeError


def check_file(path: str | Path, suffixes: Sequence[str], *, overwrite: bool, option: str = "-o FILE") -> Path:
    """Where a file of one of these kinds can be written, before any work is done for it.

    Args:
        path: the file.
        suffixes: those that say a format, in small letters; the first is the one to propose.
        overwrite: it may be replaced.
        option: what names the file on the command line.

    Raises:
        ProbeError: another suffix, no such folder, a folder in its place, or it exists and may not be replaced.
    """
    file = Path(path)
    if file.suffix.lower() not in suffixes:
        raise ProbeError(
            f"{file} has the suffix {file.suffix!r}" if file.suffix else f"{file} has no suffix",
            expected=" or ".join(suffixes),
            next_step=f"write to {file.with_suffix(suffixes[0])}" if file.name else "pass a file name",
        )
    if not file.parent.is_dir():
        raise ProbeError(
            f"no folder {file.parent}", expected="an existing folder", next_step="create it or write elsewhere"
        )
    if file.is_dir():
        raise ProbeError(f"{file} is a folder", expected="a file name")
    if os.path.lexists(file) and not overwrite:
        raise _exists(file, option)
    return file


def _exists(file: Path, option: str) -> ProbeError:
    return ProbeError(f"{file} exists", expected="a new file", next_step=f"pass --overwrite, or {option}")


@contextmanager
def replacing(file: Path, *, overwrite: bool = True, option: str = "-o FILE") -> Iterator[Path]:
    """Write to the name that is yielded: it takes the place of `file` at the end, or is removed where that fails.

    Args:
        file: in an existing folder.
        overwrite: replace what is there, also what has appeared since it was looked at.
        option: what names the file on the command line.

    Raises:
        ProbeError: it cannot be written, or it has appeared meanwhile and may not be replaced.
    """
    # A full disk must not leave half a file in the place of a whole one, and two threads must not share a half.
    unfinished = file.with_name(f"{file.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield unfinished
        if overwrite:
            os.replace(unfinished, file)
        else:
            _place(unfinished, file)
    except FileExistsError:
        raise _exists(file, option) from None
    except OSError as error:
        raise ProbeError(
            f"{file} cannot be written ({error.strerror or error})", expected="a writable folder with free space"
        ) from None
    finally:
        unfinished.unlink(missing_ok=True)


def _place(unfinished: Path, file: Path) -> None:
    """Give a file its name unless another has it, in one step where the file system has links."""
    try:
        os.link(unfinished, file)
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(file):
            raise FileExistsError from None
        os.replace(unfinished, file)
