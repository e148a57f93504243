"""Editing a recording as somebody would on purpose: its seal is made to fit, so that other checks are reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from probe.recording.seal import seal


@contextmanager
def editing(path: Path) -> Iterator[h5py.File]:
    """The file, open for writing; sealed when it is closed."""
    with h5py.File(path, "r+") as file:
        yield file
        seal(file)
