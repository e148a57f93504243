"""Whether an HDF5 file is built as a recording is, before a byte of its arrays is believed or room is made for them.

A recording holds its own data: hard links alone, each object once, numbers and text, filters that every HDF5 has. What
is claimed is stored: contiguous datasets whole, every chunk of the others, deflated at most as far as deflating goes.
Files elsewhere are read only where the recording lies in parts, and then those parts and no others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t, h5z

KNOWN_FILTERS = {h5z.FILTER_DEFLATE: "deflate", h5z.FILTER_SHUFFLE: "shuffle", h5z.FILTER_FLETCHER32: "fletcher32"}
EXPANDS = 1032
"""How many times as large as what is stored deflated data can be, at the most; zlib says so."""
CHECKSUM = 4
"""Bytes of fletcher32's."""
MOST_OBJECTS = 200_000
"""A network of a thousand layers has 30,000."""
MOST_VALUES = 4096
"""Numbers in an attribute."""
DEEPEST = 4
"""Groups within groups: layers/0/statistics is the deepest there is."""
PLAIN_TYPES = (h5t.INTEGER, h5t.FLOAT)

Parts = Mapping[str, int]
"""The name of each part's file as the index gives it, relative to the recording, in order -> its samples."""
Virtual = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Each virtual dataset's shape and type."""


class Built(NamedTuple):
    """What a file turned out to be.

    Attributes:
        virtual: the datasets that are read from the parts.
        bytes: those of all arrays once they are read.
    """

    virtual: Virtual
    bytes: int


def check_structure(file: h5py.File, parts: Parts | None = None) -> Built:
    """Refuse a file that is built otherwise than a recording.

    Args:
        file: open for reading.
        parts: where the recording lies in parts, theirs; none otherwise.

    Raises:
        ValueError: it says what is built otherwise, and where.
    """
    seen: set[int] = set()
    virtual: Virtual = {}
    claimed: list[int] = []
    size = file.id.get_filesize()

    def walk(group: h5g.GroupID, path: str, depth: int) -> None:
        check_attributes(group, path or "/")
        for raw in group:
            name = f"{path}/{raw.decode(errors='replace')}"[:200]
            if group.links.get_info(raw).type != h5l.TYPE_HARD:
                raise ValueError(f"{name} is a link to somewhere else")
            about = h5o.get_info(group, raw)
            if about.addr in seen:
                raise ValueError(f"{name} is an object that stands elsewhere too")
            seen.add(about.addr)
            if len(seen) > MOST_OBJECTS:
                raise ValueError(f"it has more than {MOST_OBJECTS:,} objects")
            if about.type == h5o.TYPE_GROUP:
                if depth == DEEPEST:
                    raise ValueError(f"{name} is a group too deep")
                walk(h5g.open(group, raw), name, depth + 1)
            elif about.type == h5o.TYPE_DATASET:
                dataset = h5d.open(group, raw)
                check_attributes(dataset, name)
                if _check_dataset(dataset, name, size, parts):
                    virtual[name] = dataset.shape, dataset.dtype
                claimed.append(math.prod(dataset.shape) * dataset.dtype.itemsize)
            else:
                raise ValueError(f"{name} is neither a group nor a dataset")

    root = h5g.open(file.id, b"/")
    seen.add(h5o.get_info(root).addr)
    walk(root, "", 1)
    return Built(virtual, sum(claimed))


def check_dataset(file: h5py.File, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and type of one dataset of a part, which must be built as a recording's is, and so must the way there.

    Raises:
        ValueError: it says what is built otherwise.
    """
    group, size = h5g.open(file.id, b"/"), file.id.get_filesize()
    *groups, last = name.strip("/").encode().split(b"/")
    for raw in (*groups, last):
        if raw not in group or group.links.get_info(raw).type != h5l.TYPE_HARD:
            raise ValueError(f"{name} is not there, or a link to somewhere else")
        expected = h5o.TYPE_DATASET if raw is last else h5o.TYPE_GROUP
        if h5o.get_info(group, raw).type != expected:
            raise ValueError(f"{name} is no dataset")
        group = group if raw is last else h5g.open(group, raw)
    dataset = h5d.open(group, last)
    _check_dataset(dataset, name, size, None)
    return dataset.shape, dataset.dtype


def check_attributes(item: Any, path: str) -> None:
    """Refuse attributes that are neither numbers nor text, or too many; `item` is h5py's low-level object."""
    number = h5a.get_num_attrs(item)
    if number > MOST_VALUES:
        raise ValueError(f"{path} has {number:,} attributes")
    for i in range(number):
        attribute = h5a.open(item, index=i)
        kind, space = attribute.get_type(), attribute.get_space()
        name = f"attribute {attribute.name.decode(errors='replace')[:100]} of {path}"
        if not (isinstance(kind, h5t.TypeStringID | h5t.TypeEnumID) or kind.get_class() in PLAIN_TYPES):
            raise ValueError(f"{name} is neither a number nor text")
        if kind.committed():
            raise ValueError(f"{name} has a type of its own")
        if space.get_simple_extent_type() == h5s.NULL or space.get_simple_extent_npoints() > MOST_VALUES:
            raise ValueError(f"{name} has no value, or more than {MOST_VALUES:,}")


def _check_dataset(dataset: h5d.DatasetID, name: str, size: int, parts: Parts | None) -> bool:
    """Refuse a dataset that is stored otherwise than a recording's; true for a virtual one."""
    kind, space, properties = dataset.get_type(), dataset.get_space(), dataset.get_create_plist()
    if space.get_simple_extent_type() == h5s.NULL:
        raise ValueError(f"{name} has no value")
    if kind.committed():
        raise ValueError(f"{name} has a type of its own")
    layout = properties.get_layout()
    if isinstance(kind, h5t.TypeStringID):
        if not kind.is_variable_str() or space.get_simple_extent_npoints() != 1 or layout == h5d.VIRTUAL:
            raise ValueError(f"{name} is text of another kind")
        return False
    if kind.get_class() not in PLAIN_TYPES or dataset.dtype.kind not in "iuf" or dataset.dtype.itemsize > 8:
        raise ValueError(f"{name} holds values that are no plain numbers")
    if layout == h5d.VIRTUAL:
        if not parts:
            raise ValueError(f"{name} is read from other files, and the recording has no parts")
        _check_sources(properties, name, space.shape, parts)
        return True
    if layout == h5d.CHUNKED:
        _check_chunks(dataset, properties, name, size)
        return False
    if properties.get_external_count():
        raise ValueError(f"{name} is stored in other files")
    claimed = math.prod(space.shape) * dataset.dtype.itemsize
    stored = dataset.get_storage_size()
    offset = dataset.get_offset() if layout == h5d.CONTIGUOUS else 0
    if stored != claimed or (claimed and (offset is None or offset + claimed > size)):
        raise ValueError(f"{name} claims {claimed:,} bytes that the file does not hold")
    return False


def _check_chunks(dataset: h5d.DatasetID, properties: Any, name: str, size: int) -> None:
    """Every chunk is there, once, in its place, within the file, and as large as it can be."""
    shape, chunk, each = dataset.shape, properties.get_chunk(), dataset.dtype.itemsize
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    for one in filters:
        if one not in KNOWN_FILTERS:
            raise ValueError(f"{name} is stored with filter {one}, and not only {', '.join(KNOWN_FILTERS.values())}")
    expected = math.prod(-(-length // part) for length, part in zip(shape, chunk, strict=True))
    found = dataset.get_num_chunks()
    if found != expected:
        raise ValueError(f"{name} claims {expected:,} chunks and stores {found:,}")
    checked = {h5z.FILTER_FLETCHER32, h5z.FILTER_SHUFFLE} & set(filters)
    must = sum(1 << i for i, one in enumerate(filters) if one in checked)
    deflates = sum(1 << i for i, one in enumerate(filters) if one == h5z.FILTER_DEFLATE)
    full = math.prod(chunk) * each
    places: set[tuple[int, ...]] = set()
    extents: list[tuple[int, int]] = []

    def wrong(info: Any) -> str | None:
        aligned = all(o % c == 0 and o < s for o, c, s in zip(info.chunk_offset, chunk, shape, strict=True))
        if not aligned or info.chunk_offset in places:
            return "stands where none does"
        if info.filter_mask & must:
            return "has no checksum"
        if info.byte_offset is None or info.byte_offset + info.size > size:
            return "lies beyond the end of the file"
        if info.size <= CHECKSUM * filters.count(h5z.FILTER_FLETCHER32):
            # HDF5 2.0 reads beyond the end of it.
            return "is shorter than its checksum"
        deflated = bool(deflates & ~info.filter_mask)
        if not deflated and info.size - CHECKSUM * filters.count(h5z.FILTER_FLETCHER32) != full:
            return f"of {info.size:,} bytes claims {full:,}"
        # Of what does not shrink, deflating makes a little more.
        if deflated and not (full <= info.size * EXPANDS + 64 and info.size <= full + full // 100 + 128):
            return f"of {info.size:,} bytes claims {full:,}"
        places.add(info.chunk_offset)
        extents.append((info.byte_offset, info.size))
        return None

    problem = _each_chunk(dataset, wrong)
    if problem is None and len(places) != expected:
        problem = "is missing"
    if problem is not None:
        raise ValueError(f"{name}: a chunk {problem}")
    extents.sort()
    if any(start + length > after for (start, length), (after, _) in pairwise(extents)):
        raise ValueError(f"{name}: two chunks share bytes")


def _each_chunk(dataset: h5d.DatasetID, call: Callable[[Any], str | None]) -> str | None:
    """Call with each chunk's place until one gives something, which is returned."""
    if hasattr(dataset, "chunk_iter"):
        problem: str | None = dataset.chunk_iter(call)
        return problem
    return next(
        (one for i in range(dataset.get_num_chunks()) if (one := call(dataset.get_chunk_info(i))) is not None), None
    )


def _check_sources(properties: Any, name: str, shape: tuple[int, ...], parts: Parts) -> None:
    """The parts one after the other, each whole, and nothing else."""
    first = 0
    if properties.get_virtual_count() != len(parts):
        raise ValueError(f"{name} is not read from all parts")
    for i, (file, samples) in enumerate(parts.items()):
        if properties.get_virtual_filename(i) != file:
            raise ValueError(f"{name} is read from {properties.get_virtual_filename(i)!r:.200}, which is no part")
        if properties.get_virtual_dsetname(i).strip("/") != name.strip("/"):
            raise ValueError(f"{name} is read from another array, {properties.get_virtual_dsetname(i)!r:.200}")
        here, there = properties.get_virtual_vspace(i), properties.get_virtual_srcspace(i)
        block = (samples, *shape[1:])
        # Where all is selected, HDF5 keeps no shape; that of the part's own dataset is looked at when it is opened.
        everything = there.get_select_type() == h5s.SEL_ALL
        if not everything and (there.shape != block or not _whole(there, (0,) * len(shape), block)):
            raise ValueError(f"{name} is not read from the whole of part {i}")
        if here.shape != shape or not _whole(here, (first, *(0,) * (len(shape) - 1)), block):
            raise ValueError(f"{name}: part {i} does not stand in its place")
        first += samples
    if first != shape[0]:
        raise ValueError(f"{name} has {shape[0]} samples, and its parts have {first}")


def _whole(space: h5s.SpaceID, start: tuple[int, ...], block: tuple[int, ...]) -> bool:
    """True where exactly this block is selected."""
    if space.get_select_type() == h5s.SEL_ALL:
        return start == (0,) * len(start) and space.shape == block
    if space.get_select_type() != h5s.SEL_HYPERSLABS or space.get_select_npoints() != math.prod(block):
        return False
    low, high = space.get_select_bounds()
    return tuple(low) == start and tuple(np.add(start, block) - 1) == tuple(high)
