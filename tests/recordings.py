"""Whether two recordings hold the same, dataset by dataset."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np


def datasets(path: Path) -> dict[str, bytes]:
    """Each dataset's bytes, by name."""
    found: dict[str, bytes] = {}

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            value = item[()]
            found[name] = value if isinstance(value, bytes) else np.asarray(value).tobytes()

    with h5py.File(path, "r") as file:
        file.visititems(note)
    return found


def differing(one: Path, other: Path) -> list[str]:
    """Names of the datasets that are not the same byte by byte, or in one of the files only."""
    left, right = datasets(one), datasets(other)
    assert len(left) > 50
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))
