"""`export`: the raw arrays of a recording as one `.npz` file, written block by block, so that memory does not grow.

The keys are the paths of the recording: `layers/0/snn_spikes`, `samples/label`, `output/snn`. Values are decoded:
spikes are int8 (sample, timestep, *neuron) and no bits, ANN outputs are float32 and no levels.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import numpy.typing as npt

from probe.errors import ProbeError
from probe.interrupts import uninterrupted
from probe.layers import select_layers, specs_of
from probe.printable import shortened
from probe.recording import Layer, Recording, open_recording
from probe.recording.parts import free_bytes
from probe.recording.schema import FIELDS, OVER_TIME
from probe.writing import check_file, replacing

SUFFIXES = (".npz",)
BLOCK_BYTES = 16_000_000
"""Decoded, that are held at a time; a single timestep of a single sample may take more."""
OF_ENTRY = 512
"""Bytes that an entry takes beside its array, generously."""

Block = npt.NDArray[Any]


@dataclass(frozen=True)
class Entry:
    """One array of the file.

    Attributes:
        key: its name there.
        shape: of the whole array, decoded.
        dtype: likewise.
        blocks: gives it in C order, piece by piece.
    """

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    blocks: Callable[[], Iterator[Block]]

    @property
    def bytes(self) -> int:
        """Of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


class _Stopped(Exception):
    """A signal came."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        path: the file.
        keys: of its arrays.
        bytes: of the file.
        notes: what the user should know, a sentence each.
    """

    path: Path
    keys: tuple[str, ...]
    bytes: int
    notes: tuple[str, ...] = ()


def export(
    recording: Recording | str | Path = "recording.h5",
    path: str | Path = "arrays.npz",
    layers: Sequence[str | int] | str | int | None = None,
    *,
    arrays: Sequence[str] | str | None = None,
    samples: slice | int | str | None = None,
    compress: bool = False,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda sentence: None,
    progress: Callable[[int, int], None] = lambda done, to_do: None,
) -> Exported:
    """Write arrays of a recording to an `.npz` file, which `numpy.load` opens as it is: no pickle is in it.

    Beside what is asked for it holds `timesteps`, `samples/index`, `samples/label`, `output/snn`, where there is an ANN
    `output/ann`, and of each layer `name`, `levels` (0 for none), `threshold` and `initial_potential`.

    Args:
        recording: an open one, or its path.
        path: the new file, `.npz`.
        layers: specs (see `probe.layers.select_layers`); None for all.
        arrays: names among `probe.recording.schema.FIELDS`; None for all that the recording holds.
        samples: a slice without a step of places in the recording, one place, or a text such as `0:100` or `3`; None
            for all.
        compress: deflate it, which takes much longer and makes spikes much smaller.
        overwrite: replace what is there.
        tell: called with a sentence on how large it will be, before anything is written.
        progress: called with the bytes done and to do, before compression.

    Returns:
        What was written.

    Raises:
        ProbeError: no such layer, array or sample, the recording does not hold the array, the disk has no room, or the
            file exists or cannot be written.
    """
    file = check_file(path, SUFFIXES, overwrite=overwrite)
    if not isinstance(recording, Recording):
        with open_recording(recording) as opened:
            return export(
                opened, file, layers, arrays=arrays, samples=samples, compress=compress, overwrite=overwrite, tell=tell,
                progress=progress,
            )  # fmt: skip
    chosen = select_layers(recording.layers, specs_of(layers))
    places = parse_samples(samples, recording.samples)
    names = _named(arrays)
    entries = [*_of_run(recording, places)]
    notes = []
    for layer in chosen:
        entries += _of_layer(layer, names, places)
    if not names and not any(layer.has(name) for layer in chosen for name in FIELDS):
        notes.append(f"{recording.path} was recorded with --record {recording.record}, which keeps no arrays of layers")
    size = sum(entry.bytes + OF_ENTRY for entry in entries)
    tell(f"{len(entries)} arrays, {size / 1e6:,.1f} MB" + " before compression" * compress)
    if size > free_bytes(file) and not compress:
        raise ProbeError(
            f"{size / 1e9:.2f} GB to write and {free_bytes(file) / 1e9:.2f} GB free", expected="room for the arrays",
            next_step="choose fewer with --layer, --array or --sample, or pass --compress",
        )  # fmt: skip
    _write(file, entries, size, compress, overwrite, progress)
    return Exported(file, tuple(entry.key for entry in entries), file.stat().st_size, tuple(notes))


def parse_samples(samples: slice | int | str | None, count: int) -> range:
    """The samples that are meant, as consecutive places in a recording of `count`.

    Raises:
        ProbeError: it is neither a slice without a step nor a place, or none of the recording's samples is in it.
    """
    if samples is None:
        return range(count)
    if isinstance(samples, str):
        said = re.fullmatch(r"\s*(-?[0-9]{1,18})?\s*(:)?\s*(-?[0-9]{1,18})?\s*", samples)
        if said is None or not (said[1] or said[2]):
            raise ProbeError(
                f"samples {shortened(repr(samples), 60)}", expected="A:B or one place", next_step="pass --sample 0:100"
            )
        first, stop = (None if text is None else int(text) for text in (said[1], said[3]))
        if first is not None and not said[2]:
            return _some(range(count)[first : first + 1 or None], samples, count)
        return _some(range(count)[first:stop], samples, count)
    if not isinstance(samples, bool):
        with suppress(TypeError):
            if not isinstance(samples, slice):
                place = operator.index(samples)
                return _some(range(count)[place : place + 1 or None], str(place), count)
            if samples.step not in (None, 1):
                raise ProbeError(f"samples in steps of {samples.step}", expected="a slice without a step")
            return _some(range(count)[samples], f"{samples.start}:{samples.stop}", count)
    raise ProbeError(f"samples {shortened(repr(samples), 60)}", expected="a slice of whole numbers, or one place")


def _some(places: range, said: str, count: int) -> range:
    if not places:
        raise ProbeError(f"samples {said}", expected=f"some of 0 to {count - 1}", next_step="pass --sample A:B")
    return places


def _named(arrays: Sequence[str] | str | None) -> tuple[str, ...]:
    """The arrays that were asked for, none where all that are there are meant."""
    one_of = "one of " + ", ".join(FIELDS)
    try:
        names = (arrays,) if isinstance(arrays, str) else () if arrays is None else tuple(arrays)
    except TypeError:
        raise ProbeError(f"arrays {shortened(repr(arrays), 60)}", expected=one_of) from None
    for name in names:
        if not isinstance(name, str) or name not in FIELDS:
            raise ProbeError(f"no array {shortened(str(name), 60)}", expected=one_of)
    return tuple(dict.fromkeys(names))


def _of_run(recording: Recording, places: range) -> Iterator[Entry]:
    yield _small("timesteps", np.int64(recording.timesteps))
    yield _small("samples/index", recording.indices[places.start : places.stop])
    yield _small("samples/label", recording.labels[places.start : places.stop])
    for key in ("output/snn", *(["output/ann"] if recording.has_ann else [])):
        shape = recording.read(key, slice(0, 1)).shape[1:]
        blocks = partial(_logits, recording, key, places, max(1, BLOCK_BYTES // (4 * math.prod(shape))))
        yield Entry(key, (len(places), *shape), np.dtype(np.float32), blocks)


def _logits(recording: Recording, key: str, places: range, samples: int) -> Iterator[Block]:
    for first in range(places.start, places.stop, samples):
        yield recording.read(key, slice(first, min(first + samples, places.stop)))


def _of_layer(layer: Layer, names: Sequence[str], places: range) -> Iterator[Entry]:
    head = f"layers/{layer.index}"
    yield _small(f"{head}/name", layer.name)
    yield _small(f"{head}/levels", np.int64(layer.levels or 0))
    yield _small(f"{head}/threshold", layer.threshold)
    yield _small(f"{head}/initial_potential", layer.initial_potential)
    for name in names or [name for name in FIELDS if layer.has(name)]:
        # Of no sample: it says the type, or why there is no such array.
        dtype = layer.read(name, slice(0, 0)).dtype
        steps = (layer.recording.timesteps,) if name in OVER_TIME else ()
        blocks = partial(blocks_of, layer, name, places, dtype)
        yield Entry(f"{head}/{name}", (len(places), *steps, *layer.shape), dtype, blocks)


def _small(key: str, values: Any) -> Entry:
    """An array that is in memory."""
    array = np.asarray(values)
    return Entry(key, array.shape, array.dtype, lambda: iter([array]))


def blocks_of(layer: Layer, name: str, places: range, dtype: np.dtype[Any], most: int = BLOCK_BYTES) -> Iterator[Block]:
    """An array of a layer in C order, decoded, in pieces of about `most` bytes.

    Args:
        layer: of an open recording.
        name: of the array.
        places: consecutive samples.
        dtype: of the decoded array.
        most: a piece is whole samples, or timesteps of one sample where a sample alone is larger; at least one.
    """
    timesteps = layer.recording.timesteps if name in OVER_TIME else 1
    step = layer.neurons * dtype.itemsize
    each = step * timesteps
    if each <= most or timesteps == 1:
        samples = max(1, most // each)
        for first in range(places.start, places.stop, samples):
            yield layer.read(name, slice(first, min(first + samples, places.stop)))
        return
    length = max(1, most // step)
    for sample in places:
        for first in range(0, timesteps, length):
            yield layer.read(name, slice(sample, sample + 1), slice(first, first + length))


def _write(
    file: Path, entries: Sequence[Entry], size: int, compress: bool, overwrite: bool,
    progress: Callable[[int, int], None],
) -> None:  # fmt: skip
    done = 0
    # What a signal was to do it does when the unfinished file is gone.
    with (
        uninterrupted() as stop,
        suppress(_Stopped),
        replacing(file, overwrite=overwrite) as unfinished,
        ZipFile(unfinished, "w") as archive,
    ):
        for entry in entries:
            # A fixed date, so that the same recording gives the same file, and rights for those who unpack it.
            info = ZipInfo(f"{entry.key}.npy")
            info.compress_type = ZIP_DEFLATED if compress else ZIP_STORED
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as stream:
                head = {"descr": np.lib.format.dtype_to_descr(entry.dtype), "fortran_order": False,
                        "shape": entry.shape}  # fmt: skip
                np.lib.format.write_array_header_1_0(stream, head)
                for block in entry.blocks():
                    if stop():
                        raise _Stopped
                    stream.write(np.ascontiguousarray(block, entry.dtype).tobytes())
                    done += block.nbytes
                    progress(done, size)
