"""Writes a recording batch by batch in parts, so that nothing that was committed can be lost.

A part is at most about 256 MiB or a minute. What is on disk of a run is told by `probe.recording.parts`; how parts
become a recording by `probe.recording.joining`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

import h5py

from probe.attribution import LayerStatistics
from probe.recording import statistics as stored_statistics
from probe.recording.disk import Disk
from probe.recording.facts import Facts
from probe.recording.layout import conclude, lay_out
from probe.recording.parts import PartLine, PartsFolder
from probe.recording.schema import Batch, LayerInfo, RunInfo
from probe.recording.seal import seal


class Writer:
    """A sink that writes parts: `append` the arrays of consecutive batches, `commit` now and then.

    Args:
        folder: where the parts go.
        info: the run.
        layers: the recorded layers.
    """

    def __init__(self, folder: PartsFolder, info: RunInfo, layers: Iterable[LayerInfo]) -> None:
        self.folder, self.info, self.layers = folder, info, {layer.index: layer for layer in layers}
        self._file: h5py.File | None = None
        self._first = self._samples = 0

    def append(self, layer: int | None, batch: Batch) -> None:
        """Write a piece of one array; `layer` is None for what belongs to the network itself.

        Raises:
            OSError: a write failed since the part was begun.
        """
        file = self._file or self._begin(batch.first)
        if layer is None:
            group = "samples" if batch.field in ("index", "label", "digest_ann", "digest_snn") else "output"
            dataset = file[f"{group}/{batch.field}"]
        else:
            dataset = file[f"layers/{layer}/{batch.field}"]
        start = batch.first - self._first
        stop = start + len(batch.values)
        with self._failing():
            if len(dataset) < stop:
                dataset.resize(stop, axis=0)
            if batch.timestep is None:
                dataset[start:stop] = batch.values
            else:
                dataset[start:stop, batch.timestep - 1] = batch.values
        self._samples = max(self._samples, stop)
        self._check()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """HDF5 may stumble over what a failed write has thrown away: the failed write is what to tell."""
        try:
            yield
        except (OSError, RuntimeError):
            self._check()
            raise

    def _check(self) -> None:
        if self._disk.error is not None:
            raise self._disk.error

    def _begin(self, first: int) -> h5py.File:
        self._first, self._samples = first, 0
        # Named after the run: the parts of a recording that this one replaces stay whole to the end.
        self._part = self.folder.folder / f"part-{self.info.run_id[:8]}-{first:09d}.h5"
        self._temporary = self._part.with_name(self._part.name + ".tmp")
        self._disk = Disk(self._temporary, "w+")
        # The cache holds the chunks that a batch leaves half filled, of every timestep.
        self._file = h5py.File(self._disk, "w", rdcc_nbytes=8 << 20)
        lay_out(self._file, self.info, self.layers.values())
        return self._file

    def commit(self, gathered: dict[int, LayerStatistics], facts: Facts, *, complete: bool = False) -> None:
        """Make the current part safe, with the statistics and facts of its samples; without one there is nothing to do.

        Args:
            gathered: layer -> statistics of just these samples.
            facts: the run's, of just these samples.
            complete: these are all samples of the run.

        Raises:
            OSError: a write failed; the part is gone.
        """
        if self._file is None:
            return
        with self._failing():
            for index, statistics in gathered.items():
                group = self._file[f"layers/{index}/statistics"]
                stored_statistics.write(group, statistics, self.layers[index], self.info)
            conclude(self._file, facts, samples=self._samples, complete=complete)
            sealed = seal(self._file)
        self._file.close()
        self._file = None
        try:
            self._check()
            os.fsync(self._disk.fileno())
        except OSError:
            self._temporary.unlink(missing_ok=True)
            raise
        finally:
            self._disk.close()
        os.replace(self._temporary, self._part)
        size = self._part.stat().st_size
        self.folder.add(PartLine(self._part.name, size, self._first, self._samples, self.info.run_id, sealed))

    def drop(self) -> None:
        """Forget the current part, after a failed write for example; what was committed stays."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._disk.close()
            self._temporary.unlink(missing_ok=True)
