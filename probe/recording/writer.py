"""Writes a recording batch by batch in parts, so that nothing that was committed can be lost.

A part is a whole recording of some samples, at most about 256 MiB or a minute. It gets a temporary name, is closed,
synced and renamed, the folder is synced, and a line goes into the ledger. At the end a single part becomes the
recording by a rename; several get an index of virtual datasets. So the final name never stands for half a file.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from probe.attribution import LayerStatistics
from probe.errors import ProbeError
from probe.recording import statistics as stored_statistics
from probe.recording.schema import Batch, LayerInfo, RunInfo, Stored

PART_BYTES = 256 << 20
PART_SECONDS = 60.0
LEDGER = "ledger.jsonl"
LOCK = "lock"
LONGEST_NAME = 200
"""Bytes; most file systems allow 255, and the names of parts are longer."""
STEPWISE = ("snn_input", "snn_spikes", "membrane_potential")


def parts_folder(path: Path) -> Path:
    """Where the parts of a recording lie."""
    return path.with_name(path.name + ".parts")


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a target that exists or cannot be written.

    Raises:
        ProbeError: so it is.
    """
    folder = path.parent
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise ProbeError(f"a file name of {len(path.name)} characters", expected="a shorter one")
    if not folder.is_dir():
        raise ProbeError(f"no folder {folder}", expected="an existing folder", next_step="create it or pass another -o")
    if path.is_dir():
        raise ProbeError(f"{path} is a folder", expected="a file name", next_step="pass -o FILE")
    if not os.access(folder, os.W_OK) or not _writable(folder):
        raise ProbeError(
            f"folder {folder} cannot be written", expected="a writable folder", next_step="pass another -o"
        )
    if overwrite:
        return
    if path.exists():
        raise ProbeError(f"{path} exists", expected="a new file", next_step="pass --overwrite, or -o FILE")
    if parts_folder(path).exists():
        raise ProbeError(
            f"{parts_folder(path)} holds the parts of an unfinished capture",
            expected="a new file",
            next_step="pass --overwrite to discard them, or -o FILE",
        )


def _writable(folder: Path) -> bool:
    trial = folder / f".probe-{os.getpid()}"
    try:
        trial.touch()
        trial.unlink()
    except OSError:
        return False
    return True


def _lock(folder: Path, path: Path) -> IO[str] | None:
    """Hold the folder of parts for this process alone; released when the process ends, however it does."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        return None
    lock = (folder / LOCK).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise ProbeError(
            f"another capture is writing {path}", expected="one writer", next_step="wait for it, or pass another -o"
        ) from None
    return lock


@dataclass(frozen=True)
class PartLine:
    """A line of the ledger: a part that is whole and on disk."""

    name: str
    bytes: int
    first: int
    samples: int
    run_id: str


class Disk(io.FileIO):
    """A file that HDF5 writes through, and that keeps a failed write to itself.

    HDF5 cannot go on after a write that failed: it prints a page for each object it then cannot close, and may end
    the process. So the failure is kept in `error`, the rest is thrown away, and the writer looks after each batch.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`, or note why not; either way say that it was written."""
        size = memoryview(data).nbytes
        try:
            done = 0
            while self.error is None and done < size:
                done += super().write(memoryview(data).cast("B")[done:]) or 0
        except OSError as error:
            self.error = error
        if self.error is not None:
            self.seek(size, io.SEEK_CUR)
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the length, or note why not."""
        try:
            if self.error is None:
                super().truncate(size)
        except OSError as error:
            self.error = error
        return size or 0

    def readinto(self, buffer: Any) -> int:
        """Read, with zeros for what was never written because of an error."""
        done = super().readinto(buffer) or 0
        if self.error is not None and done < memoryview(buffer).nbytes:
            memoryview(buffer).cast("B")[done:] = bytes(memoryview(buffer).nbytes - done)
            done = memoryview(buffer).nbytes
        return done


class Writer:
    """A sink that writes to HDF5: `append` arrays, `commit` now and then, `finish`.

    Args:
        path: the final name; it appears at `finish` only.
        info: the run.
        layers: the recorded layers.
        overwrite: replace what is there, once the first new part is safe.
        part_bytes, part_seconds: when `part_is_full` says so.
    """

    def __init__(
        self,
        path: Path,
        info: RunInfo,
        layers: Iterable[LayerInfo],
        *,
        overwrite: bool = False,
        part_bytes: int = PART_BYTES,
        part_seconds: float = PART_SECONDS,
    ) -> None:
        check_target(path, overwrite=overwrite)
        self.path, self.info, self.layers = path, info, {layer.index: layer for layer in layers}
        self._limits = part_bytes, part_seconds
        self.folder = parts_folder(path)
        self.folder.mkdir(exist_ok=True)
        self._lock = _lock(self.folder, path)
        self._parts: list[PartLine] = []
        self._file: h5py.File | None = None
        self._first = self._samples = self._appended = 0

    # ------------------------------------------------------------------------------------------------- append

    def append(self, layer: int | None, batch: Batch) -> None:
        """Write a piece of one array; `layer` is None for what belongs to the network itself."""
        file = self._open_part()
        if layer is None:
            group = "samples" if batch.field in ("index", "label", "digest_ann", "digest_snn") else "output"
            dataset = file[f"{group}/{batch.field}"]
        else:
            dataset = file[f"layers/{layer}/{batch.field}"]
        start = batch.first - self._first
        stop = start + len(batch.values)
        if len(dataset) < stop:
            dataset.resize(stop, axis=0)
        if batch.timestep is None:
            dataset[start:stop] = batch.values
        else:
            dataset[start:stop, batch.timestep - 1] = batch.values
        self._samples = max(self._samples, stop)
        self._appended += batch.values.nbytes

    @property
    def bytes(self) -> int:
        """On disk, of the finished recording with its parts."""
        parts = sum(part.bytes for part in self._parts) if self.folder.exists() else 0
        return self.path.stat().st_size + parts

    def check(self) -> None:
        """Raise the OSError of a write that failed since the part was opened."""
        if self._disk.error is not None:
            raise self._disk.error

    @property
    def part_is_full(self) -> bool:
        """True when the current part has reached its size or age; ask between batches."""
        if self._file is None:
            return False
        part_bytes, part_seconds = self._limits
        return self._appended >= part_bytes or time.monotonic() - self._opened >= part_seconds

    def _open_part(self) -> h5py.File:
        if self._file is None:
            # Named after the run: the parts of a recording that this one replaces stay whole until `finish`.
            self._name = f"part-{self.info.run_id[:8]}-{len(self._parts):06d}.h5"
            self._first = self._parts[-1].first + self._parts[-1].samples if self._parts else 0
            self._samples = self._appended = 0
            self._opened = time.monotonic()
            # The cache holds the chunks that a batch leaves half filled, of every timestep.
            self._disk = Disk(self.folder / (self._name + ".tmp"), "w+")
            self._file = h5py.File(self._disk, "w", rdcc_nbytes=8 << 20)
            self._lay_out(self._file)
        return self._file

    def _lay_out(self, file: h5py.File) -> None:
        for name, value in self.info.attributes().items():
            file.attrs[name] = value
        file.attrs["complete"], file.attrs["samples"] = False, 0
        t, batch = self.info.timesteps, self.info.batch_size
        for name, of_run in {
            "samples/index": Stored((), np.int64),
            "samples/label": Stored((), np.int64),
            "samples/digest_ann": Stored((), np.uint64),
            "samples/digest_snn": Stored((), np.uint64),
            "output/ann": Stored((self.info.classes,), np.float32),
            "output/snn": Stored((t, self.info.classes), np.float32),
        }.items():
            if self.info.has_ann or name not in ("samples/digest_ann", "output/ann"):
                self._create(file, name, of_run, batch)
        file.create_group("facts")
        for layer in self.layers.values():
            group = file.create_group(f"layers/{layer.index}")
            self._describe(group, layer)
            for name, of_layer in layer.arrays(self.info.record, t).items():
                dataset = self._create(group, name, of_layer, batch)
                if name == "ann_output":
                    dataset.attrs["encoding"] = layer.encoding if layer.encodes else "raw"
            group.create_group("statistics")

    def _create(self, parent: h5py.Group, name: str, stored: Stored, batch: int) -> h5py.Dataset:
        # Beside the raw inputs of `full`, what deflating k and n would save is nothing, and the time is not.
        dwarfed = self.info.record == "full" and name in ("spike_count", "ann_output")
        deflate = np.dtype(stored.dtype).kind in "iu" and not dwarfed
        return parent.create_dataset(
            name,
            shape=(0, *stored.shape),
            maxshape=(None, *stored.shape),
            dtype=stored.dtype,
            chunks=stored.chunks(batch, stepwise=name in STEPWISE),
            fletcher32=True,
            compression="gzip" if deflate else None,
            compression_opts=1 if deflate else None,
        )

    @staticmethod
    def _describe(group: h5py.Group, layer: LayerInfo) -> None:
        group.attrs["name"], group.attrs["module"], group.attrs["neuron"] = layer.name, layer.module, layer.neuron
        group.attrs["levels"] = layer.levels or 0
        group.attrs["reset"] = layer.traits.get("reset", "subtract")
        group.attrs["shape"], group.attrs["layout"] = np.array(layer.shape, np.int64), layer.layout
        group.attrs["traits"] = json.dumps(layer.traits)
        group.attrs["encoding"] = json.dumps(
            {"constant_input": layer.constant_input, "ann_output": layer.encoding, "potential": layer.keeps_potential}
        )
        group.attrs["paired"], group.attrs["snn_name"] = layer.paired, layer.snn_name or layer.name
        group.create_dataset("height", data=np.asarray(layer.height, np.float32))
        group.attrs["initial_fraction"] = layer.initial_fraction
        threshold = np.asarray(layer.threshold, np.float32)
        group.create_dataset("threshold", data=threshold)
        group.create_dataset("initial_potential", data=threshold * np.float32(layer.initial_fraction))

    # ------------------------------------------------------------------------------------------------- commit

    def commit(self, gathered: dict[int, LayerStatistics], *, final: dict[str, Any] | None = None) -> None:
        """Make the current part safe, with the statistics of its samples.

        Args:
            gathered: layer -> statistics of just these samples.
            final: the run's facts and `complete`, when this is the last part.
        """
        file = self._open_part()
        for index, statistics in gathered.items():
            self._write_statistics(file, index, statistics)
        file.attrs["samples"] = self._samples
        if final is not None and not self._parts:
            self._conclude(file, final)
        file.close()
        self._file = None
        temporary, part = self.folder / (self._name + ".tmp"), self.folder / self._name
        try:
            self.check()
            os.fsync(self._disk.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            self._disk.close()
        os.replace(temporary, part)
        line = PartLine(self._name, part.stat().st_size, self._first, self._samples, self.info.run_id)
        self._parts.append(line)
        _sync(self.folder)
        with (self.folder / LEDGER).open("a") as ledger:
            ledger.write(json.dumps(vars(line)) + "\n")
            ledger.flush()
            os.fsync(ledger.fileno())

    def _write_statistics(self, file: h5py.File, index: int, statistics: LayerStatistics) -> None:
        layer = self.layers[index]
        codings = {t: coding for t in self.info.grid if (coding := layer.coding(t, self.info.timesteps))}
        stored_statistics.write(file[f"layers/{index}/statistics"], statistics, codings, self.info.per_sample)

    @staticmethod
    def _conclude(file: h5py.File, final: dict[str, Any]) -> None:
        for name, fact in final["facts"].items():
            file["facts"].create_dataset(name, data=json.dumps(fact))
        file.attrs["complete"] = final["complete"]

    def _discard_old(self) -> None:
        """Remove the parts of what `overwrite` has replaced; called when the new recording has its final name."""
        (self.folder / LEDGER).write_text("".join(json.dumps(vars(part)) + "\n" for part in self._parts))
        kept = {part.name for part in self._parts} | {LEDGER}
        for old in self.folder.iterdir():
            if old.is_file() and old.name not in kept:
                old.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------- finish

    def finish(self, gathered: dict[int, LayerStatistics], facts: dict[str, Any], *, complete: bool = True) -> int:
        """Commit the last part and let the recording appear under its final name.

        Returns:
            How many samples it holds; with 0 there is no file.
        """
        final = {"facts": facts, "complete": complete}
        if self._file is not None:
            self.commit(gathered, final=final)
        if not self._parts:
            self.discard()
            return 0
        samples = sum(part.samples for part in self._parts)
        part = self.folder / self._parts[0].name
        with h5py.File(part, "r") as file:
            concluded = "modes" in file["facts"]
        if len(self._parts) == 1 and concluded:
            os.replace(part, self.path)
            self._unlock()
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            # Also where the run broke after its only part was committed: what is safe is not touched again.
            temporary = self.folder / "index.h5.tmp"
            try:
                self._write_index(temporary, final, samples)
            except OSError:
                temporary.unlink(missing_ok=True)
                self._unlock()
                raise
            os.replace(temporary, self.path)
            self._unlock()
            self._discard_old()
        _sync(self.path.parent)
        return samples

    def _write_index(self, target: Path, final: dict[str, Any], samples: int) -> None:
        sources = [h5py.File(self.folder / part.name, "r") for part in self._parts]
        with contextlib.ExitStack() as stack:
            for source in sources:
                stack.enter_context(source)
            disk = stack.enter_context(Disk(target, "w+"))
            index = stack.enter_context(h5py.File(disk, "w"))
            first = sources[0]
            index.attrs.update(dict(first.attrs.items()))
            index.attrs["samples"] = samples
            index.attrs["parts"] = json.dumps([vars(part) for part in self._parts])
            index.attrs["parts_folder"] = self.folder.name
            index.create_group("facts")
            self._conclude(index, final)
            names: list[str] = []
            first.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            for layer in first["layers"]:
                index.create_group(f"layers/{layer}").attrs.update(dict(first[f"layers/{layer}"].attrs.items()))
            for name in names:
                if "/statistics/" in name or name.startswith("facts/"):
                    continue
                if name.endswith(("/threshold", "/initial_potential", "/height")):
                    first.copy(name, index, name)
                    continue
                self._link(index, name, [source[name] for source in sources])
            for layer_index in self.layers:
                parts = [stored_statistics.read(source[f"layers/{layer_index}/statistics"]) for source in sources]
                total = parts[0]
                for part in parts[1:]:
                    total = total + part
                index.create_group(f"layers/{layer_index}/statistics")
                self._write_statistics(index, layer_index, total)
            index.close()
            if disk.error is not None:
                raise disk.error
            os.fsync(disk.fileno())

    def _link(self, index: h5py.File, name: str, datasets: list[h5py.Dataset]) -> None:
        shape = (sum(len(dataset) for dataset in datasets), *datasets[0].shape[1:])
        layout = h5py.VirtualLayout(shape, datasets[0].dtype)
        start = 0
        for part, dataset in zip(self._parts, datasets, strict=True):
            # Relative, so that the recording and its folder can be moved together.
            source = h5py.VirtualSource(f"{self.folder.name}/{part.name}", name, dataset.shape)
            layout[start : start + len(dataset)] = source
            start += len(dataset)
        index.create_virtual_dataset(name, layout).attrs.update(dict(datasets[0].attrs.items()))

    def drop_part(self) -> None:
        """Forget the current part, after a failed write for example; what was committed stays."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._disk.close()
            (self.folder / (self._name + ".tmp")).unlink(missing_ok=True)

    def abort(self, facts: dict[str, Any]) -> int:
        """After a failure: keep the committed parts as an incomplete recording, and nothing else of this run.

        Returns:
            How many samples were kept; with 0 what stood there before is untouched.
        """
        self.drop_part()
        if self._parts:
            return self.finish({}, facts, complete=False)
        self.discard()
        return 0

    def discard(self) -> None:
        """Leave nothing behind of a run that has committed no part."""
        self.drop_part()
        self._unlock()
        # Parts of an older recording may be there, and stay.
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            (self.folder / LOCK).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Make the file or folder survive a power cut; HDF5 itself never does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(path: Path) -> int:
    """Free space where `path` is to be written."""
    return shutil.disk_usage(path.parent).free
