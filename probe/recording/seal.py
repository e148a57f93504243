"""The seal of a recording: a digest of all that its checksums do not cover, written last and held against it first.

HDF5's checksums are those of chunks. The attributes (T, levels, thresholds' names, traits, ...), the shapes, the types
and the tree itself have none, and a bit that flips there makes another table, not an error.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5o, h5s

SEAL = "seal"
"""The attribute of the root that holds it; the only thing that is not sealed."""
SMALL = 16 << 10
"""Bytes of a dataset up to which its values are sealed too; larger ones rest on their chunks' checksums."""


def seal_of(file: h5py.File) -> str:
    """SHA-256, in hexadecimal, over the tree of a recording: names, attributes, shapes, types, filters, small values.

    What it reads of the file is final once every attribute and dataset is, whether flushed or not; it costs a part of
    a millisecond for each dataset, however large.
    """
    digest = hashlib.sha256()
    for entry in _entries(h5g.open(file.id, b"/"), ""):
        digest.update(json.dumps(entry, sort_keys=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def seal(file: h5py.File) -> str:
    """Write the seal of a file that is finished but for that, and return it."""
    found = seal_of(file)
    file.attrs[SEAL] = found
    return found


def _entries(group: h5g.GroupID, path: str) -> Iterator[list[Any]]:
    """What is sealed of a group and all below, in the order of the names."""
    yield [path, "group", _attributes(group, path)]
    for name in sorted(group):
        below = f"{path}/{name.decode(errors='surrogateescape')}"
        item = h5o.open(group, name)
        if isinstance(item, h5d.DatasetID):
            yield [below, "dataset", _attributes(item, below), *_described(item)]
        elif isinstance(item, h5g.GroupID):
            yield from _entries(item, below)
        else:
            yield [below, "neither"]


def _attributes(item: Any, path: str) -> dict[str, list[Any]]:
    told = {}
    for i in range(h5a.get_num_attrs(item)):
        attribute = h5a.open(item, index=i)
        name = attribute.name.decode(errors="surrogateescape")
        if path or name != SEAL:
            told[name] = [*_kind(attribute), _values(attribute)]
    return told


def _kind(item: Any) -> list[Any]:
    """Shape and type of an attribute or dataset; text as text, whatever room it has."""
    kind = item.dtype
    return [list(item.shape), "text" if kind.kind == "O" else kind.str if kind.names is None else str(kind)]


def _values(item: Any) -> Any:
    """The values of an attribute or dataset, as JSON can say them exactly."""
    array = np.empty(item.shape, item.dtype)
    if isinstance(item, h5d.DatasetID):
        item.read(h5s.ALL, h5s.ALL, array)
    else:
        item.read(array)
    if array.dtype.kind == "O":
        return [one.decode(errors="surrogateescape") if isinstance(one, bytes) else str(one) for one in array.flat]
    return array.tobytes().hex() if array.nbytes <= 64 else hashlib.sha256(array.tobytes()).hexdigest()


def _described(dataset: h5d.DatasetID) -> list[Any]:
    """Shape, type, filters and, where they are few and lie in this file, the values of a dataset."""
    properties, told = dataset.get_create_plist(), _kind(dataset)
    if properties.get_layout() == h5d.VIRTUAL:
        return [*told, "virtual"]
    told.append([properties.get_filter(i)[0] for i in range(properties.get_nfilters())])
    small = math.prod(dataset.shape) * dataset.dtype.itemsize <= SMALL
    return [*told, _values(dataset)] if small else told
