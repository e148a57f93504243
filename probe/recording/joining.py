"""From parts to one recording: an index of virtual datasets over them, or one plain file.

Whole numbers add up to the same whatever the parts were, and sums of fractions are kept as limbs, so that they do too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from probe.attribution import LayerStatistics
from probe.errors import ProbeError
from probe.interrupts import uninterrupted
from probe.recording import statistics as stored_statistics
from probe.recording.disk import Disk
from probe.recording.facts import Facts, joined
from probe.recording.layout import conclude, lay_out, network_arrays
from probe.recording.parts import PartLine, PartsFolder, allow_open_files, sync
from probe.recording.reader import DAMAGE, Recording
from probe.recording.schema import RunInfo
from probe.recording.seal import SEAL, seal

COPIED_AT_ONCE = 64 << 20
"""Bytes of an array, before compression."""
Totals = Mapping[int, LayerStatistics]
"""Layer -> its statistics over all samples, without those of each sample."""


def open_part(folder: Path, line: PartLine, *, trusted: bool = False) -> Recording:
    """Open a part, which is a recording that is not complete, without a warning.

    Args:
        folder: where it is.
        line: what the ledger says of it.
        trusted: it was written or looked through just now.

    Raises:
        ProbeError: it is not what the ledger says.
        OSError: the system does not let it be opened.
    """
    path = folder / line.name
    try:
        with path.open("rb"):
            # What the system refuses is not the part's fault.
            pass
        file = h5py.File(path, "r")
        try:
            part = Recording(path, file, trusted=trusted)
        except BaseException:
            file.close()
            raise
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EIO):
            raise
        raise ProbeError(f"{path} is damaged ({error})", expected="a whole part") from None
    if (part.attributes["run_id"], part.attributes[SEAL], part.samples) != (line.run_id, line.seal, line.samples):
        part.close()
        raise ProbeError(f"{path} is not the part that the ledger names", expected=f"{line.samples} samples")
    return part


def _rows(dataset: h5py.Dataset) -> Iterator[slice]:
    """Slices of a dataset along its first axis, of a size that fits into memory."""
    each = max(1, math.prod(dataset.shape[1:]) * dataset.dtype.itemsize)
    step = max(1, COPIED_AT_ONCE // each)
    for start in range(0, len(dataset), step):
        yield slice(start, min(start + step, len(dataset)))


def without_samples(statistics: LayerStatistics) -> LayerStatistics:
    """Statistics less those of each sample, which would grow with the recording."""
    return replace(statistics, per_sample=statistics.per_sample[:0])


def _moved(statistics: LayerStatistics, by: int) -> LayerStatistics:
    """The same for samples that have another place in the recording."""
    if not by:
        return statistics
    shift = np.array([0, by, 0], np.int64)
    moved = {
        t: replace(one, largest=one.largest + shift if one.largest[1] >= 0 else one.largest)
        for t, one in statistics.statistics.items()
    }
    return replace(statistics, statistics=moved)


def totals_of(pieces: Sequence[Recording], firsts: Sequence[int], *, keep_places: bool = False) -> Totals:
    """Statistics of all pieces.

    Args:
        pieces: in the order of their samples.
        firsts: of each, the place of its first sample in its own statistics.
        keep_places: let samples keep these places; else they follow one another without a gap.
    """
    totals: dict[int, LayerStatistics] = {}
    start = 0
    for piece, first in zip(pieces, firsts, strict=True):
        for layer in piece.layers:
            here = _moved(without_samples(layer.statistics), 0 if keep_places else start - first)
            totals[layer.index] = totals[layer.index] + here if layer.index in totals else here
        start += piece.samples
    return totals


def _write(
    file: h5py.File,
    info: RunInfo,
    pieces: Sequence[Recording],
    totals: Totals,
    put: Callable[[str], None],
    *,
    complete: bool,
    arrays: bool,
) -> None:
    """Write one recording of all pieces; `put` gives it a per-sample dataset, by path."""
    layers = [layer.info for layer in pieces[0].layers]
    lay_out(file, info, layers, arrays=arrays)
    for name in network_arrays(info):
        put(name)
    for layer in layers:
        for name in layer.arrays(info.record, info.timesteps):
            put(f"layers/{layer.index}/{name}")
        group = file[f"layers/{layer.index}/statistics"]
        stored_statistics.write(group, totals[layer.index], layer, info, of_samples=False)
        put(f"layers/{layer.index}/statistics/per_sample")
    facts: Facts = joined([piece.facts for piece in pieces])
    conclude(file, facts, samples=sum(piece.samples for piece in pieces), complete=complete)


def write_index(folder: PartsFolder, lines: Sequence[PartLine], *, complete: bool, totals: Totals | None) -> None:
    """Let parts appear as one recording under their final name.

    Args:
        folder: where they are.
        lines: the parts, in the order of their samples.
        complete: they hold all samples of their run.
        totals: their statistics, where they are known already.

    Raises:
        OSError: writing failed; what stood under that name still does.
    """
    temporary = folder.folder / "index.h5.tmp"
    pieces: list[Recording] = []
    try:
        allow_open_files(len(lines))
        pieces = [open_part(folder.folder, line, trusted=True) for line in lines]
        totals = totals or totals_of(pieces, [line.first for line in lines])
        with Disk(temporary, "w+") as disk:
            with h5py.File(disk, "w") as file:
                _write(
                    file, RunInfo.of(pieces[0].attributes), pieces, totals,
                    lambda name: _link(file, name, pieces, folder.folder), complete=complete, arrays=False,
                )  # fmt: skip
                file.attrs["parts"] = json.dumps([vars(line) for line in lines])
                file.attrs["parts_folder"] = folder.folder.name
                seal(file)
            if disk.error is not None:
                raise disk.error
            os.fsync(disk.fileno())
        os.replace(temporary, folder.path)
        sync(folder.path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        for piece in pieces:
            piece.close()


def _link(file: h5py.File, name: str, pieces: Sequence[Recording], folder: Path) -> None:
    datasets = [piece._file[name] for piece in pieces]
    shape = (sum(len(dataset) for dataset in datasets), *datasets[0].shape[1:])
    if not math.prod(shape):
        # There is nothing to point to.
        file.create_dataset(name, shape=shape, dtype=datasets[0].dtype)
        return
    layout = h5py.VirtualLayout(shape, datasets[0].dtype)
    start = 0
    for piece, dataset in zip(pieces, datasets, strict=True):
        # Relative, so that the recording and its folder can be moved together.
        source = h5py.VirtualSource(f"{folder.name}/{piece.path.name}", name, dataset.shape)
        layout[start : start + len(dataset)] = source
        start += len(dataset)
    file.create_virtual_dataset(name, layout).attrs.update(dict(datasets[0].attrs.items()))


def write_whole(
    target: Path,
    info: RunInfo,
    pieces: Sequence[Recording],
    firsts: Sequence[int],
    *,
    complete: bool,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Write one plain file with everything that some recordings hold.

    Args:
        target: its name; it appears when it is whole.
        info: what it says of its run.
        pieces: in the order of their samples.
        firsts: of each, the place of its first sample in its own statistics.
        complete: they hold all samples that were asked for.
        stop: asked now and then; True ends it.

    Raises:
        KeyboardInterrupt: it was stopped; nothing is left of it.
        OSError: writing failed; nothing is left of it.
    """
    temporary = target.with_name(target.name + ".tmp")
    try:
        with Disk(temporary, "w+") as disk:
            with h5py.File(disk, "w", rdcc_nbytes=8 << 20) as file:
                _write(
                    file, info, pieces, totals_of(pieces, firsts), lambda name: _copy(file, name, pieces, disk, stop),
                    complete=complete, arrays=True,
                )  # fmt: skip
                seal(file)
            if disk.error is not None:
                raise disk.error
            os.fsync(disk.fileno())
        os.replace(temporary, target)
        sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _copy(file: h5py.File, name: str, pieces: Sequence[Recording], disk: Disk, stop: Callable[[], bool]) -> None:
    samples = sum(piece.samples for piece in pieces)
    if name not in file:
        first = pieces[0]._file[name]
        shape = (samples, *first.shape[1:])
        checked = {"chunks": True, "fletcher32": True} if math.prod(shape) else {}
        file.create_dataset(name, shape=shape, dtype=first.dtype, **checked).attrs.update(dict(first.attrs.items()))
    target = file[name]
    if len(target) != samples:
        target.resize(samples, axis=0)
    start = 0
    for piece in pieces:
        source = piece._file[name]
        for rows in _rows(source):
            target[start + rows.start : start + rows.stop] = source[rows]
            if disk.error is not None:
                raise disk.error
            if stop():
                raise KeyboardInterrupt
        start += len(source)


class Appeared(NamedTuple):
    """What became of the parts of a run.

    Attributes:
        samples: how many they hold.
        shown: they are the recording now; else what stood there before still does.
    """

    samples: int
    shown: bool


def appear(folder: PartsFolder, run_id: str, asked: int, *, totals: Totals | None = None, compact: int = 0) -> Appeared:
    """Let the parts of a run become the recording, and let others write there again.

    A whole recording of another run stays until this one is whole too.

    Args:
        folder: where they are.
        run_id: of the run.
        asked: how many samples it was to record.
        totals: their statistics, where they are known already and all samples are there.
        compact: bytes up to which the parts of a complete recording become one plain file.

    Raises:
        OSError: writing failed; the parts are as they were.
        KeyboardInterrupt: a signal came meanwhile; what is under the final name is whole.
    """
    with uninterrupted():
        return _appear(folder, run_id, asked, totals, compact)


def _appear(folder: PartsFolder, run_id: str, asked: int, totals: Totals | None, compact: int) -> Appeared:
    try:
        lines = folder.lines(run_id)
        samples = sum(line.samples for line in lines)
        complete = samples == asked
        if not lines or (not complete and _other_is_whole(folder.path, run_id)):
            return Appeared(samples, False)
        part = folder.folder / lines[0].name
        if len(lines) == 1 and complete and _says_complete(part):
            os.replace(part, folder.path)
            sync(folder.path.parent)
            folder.remove()
            return Appeared(samples, True)
        if complete and sum(line.bytes for line in lines) <= compact:
            with contextlib.ExitStack() as stack:
                pieces = [stack.enter_context(open_part(folder.folder, line, trusted=True)) for line in lines]
                info = RunInfo.of(pieces[0].attributes)
                write_whole(folder.path, info, pieces, [line.first for line in lines], complete=True)
            folder.remove()
            return Appeared(samples, True)
        write_index(folder, lines, complete=complete, totals=totals if complete else None)
        if complete:
            folder.keep_only(lines)
        return Appeared(samples, True)
    finally:
        folder.release()


def _other_is_whole(path: Path, run_id: str) -> bool:
    """A complete recording of another run has the final name."""
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs["complete"]) and file.attrs["run_id"] != run_id
    except (OSError, KeyError):
        return False


def _says_complete(part: Path) -> bool:
    with h5py.File(part, "r") as file:
        return bool(file.attrs["complete"])
