"""Opens a recording and reads it lazily: arrays come from disk when they are asked for, decoded, as numpy arrays."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from probe import containment
from probe.attribution import AnalogCoding, Coding, LayerStatistics, Statistics, lawful, levels_of
from probe.errors import ProbeError
from probe.printable import shortened
from probe.recording import statistics as stored_statistics
from probe.recording.parts import PartLine, allow_open_files, part_line, parts_folder
from probe.recording.plain import check_facts, check_traits, parsed
from probe.recording.schema import FIELDS, FORMAT, PRESETS, VERSION, LayerInfo
from probe.recording.seal import SEAL, seal_of
from probe.recording.shapes import check_statistics
from probe.recording.structure import Virtual, check_attributes, check_dataset, check_structure
from probe.spikes import unpack

if TYPE_CHECKING:
    import xarray

Array = npt.NDArray[Any]
ALL = slice(None)
DAMAGE = (
    KeyError, ValueError, TypeError, OSError, RuntimeError, IndexError, AttributeError, ArithmeticError, MemoryError
)  # fmt: skip
"""What reading a damaged file may raise, in h5py, numpy, json or here."""
LONGEST_NAME = 1000
"""Characters of a layer's name."""
MOST_FRACTION = 1000.0
"""v(0) in units of θ beyond which no neuron starts."""


class IncompleteRecording(UserWarning):
    """The run behind a recording was stopped: it holds fewer samples than were asked for."""


def open_recording(path: str | Path = "recording.h5") -> Recording:
    """Open a recording for reading; close it with `close()` or use it in a `with` statement.

    Args:
        path: the file that `probe capture` wrote.

    Raises:
        ProbeError: the file is missing, truncated, no recording, of a newer format, or one of its parts is not whole.
    """
    file = Path(path)
    try:
        exists = file.exists()
    except OSError as error:
        raise ProbeError(f"{file} cannot be read ({error.strerror})", expected="a recording") from None
    if not exists:
        unfinished = parts_folder(file)
        if unfinished.is_dir():
            raise ProbeError(
                f"no file {file}, but {unfinished} holds the parts of an unfinished capture",
                expected="a finished recording",
                next_step="run the same capture again with --resume",
            )
        raise ProbeError(f"no file {file}", expected="a recording", next_step=f"run `probe capture -o {file}`")
    if file.is_dir():
        raise ProbeError(f"{file} is a folder", expected="a recording", next_step="pass the .h5 file")
    if not file.is_file():
        # Opening a pipe would wait for a writer, and a device has no end.
        raise ProbeError(f"{file} is no plain file", expected="a recording", next_step="pass the .h5 file")
    with containment.opening(str(file), _bytes_of(file)):
        recording = _opened(file)
    if not recording.complete:
        warnings.warn(
            f"{file} is incomplete: the run was stopped after {recording.samples} samples",
            IncompleteRecording,
            stacklevel=2,
        )
    return recording


def _bytes_of(file: Path) -> int:
    """Of a recording and of what lies in its folder of parts."""
    folder = parts_folder(file)
    try:
        return file.stat().st_size + sum(part.stat().st_size for part in folder.glob("*.h5"))
    except OSError:
        return file.stat().st_size


def open_written(path: Path) -> Recording:
    """Open a recording that this process has just written, without looking through it first.

    Raises:
        ProbeError: it says what none may say.
    """
    return _opened(path, trusted=True)


def _opened(file: Path, *, trusted: bool = False) -> Recording:
    """The recording, once it is sure to be one."""
    try:
        handle = h5py.File(file, "r")
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        if "truncated" in str(error):
            reason = "is cut short"
        elif isinstance(error, PermissionError) or "ermission denied" in str(error):
            reason = "cannot be read: permission denied"
        else:
            reason = "is no HDF5 file"
        raise ProbeError(
            f"{file} {reason}", expected="a recording made by `probe capture`", next_step="capture it again"
        ) from None
    try:
        return Recording(file, handle, trusted=trusted)
    except DAMAGE as error:
        _close(handle)
        raise ProbeError(
            f"{file} is damaged ({shortened(_words(error), 300)})", expected="a whole recording",
            next_step="capture it again",
        ) from None  # fmt: skip
    except ProbeError:
        _close(handle)
        raise


def _close(handle: h5py.File) -> None:
    # Of a damaged file even that may fail.
    with contextlib.suppress(*DAMAGE):
        handle.close()


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


class Recording:
    """An open recording.

    Attributes:
        path: the file.
        layers: its layers, in execution order.
        attributes: what the run said of itself: model, data, seed, command, versions, ...
        timesteps: T.
        samples: how many samples it holds.
        complete: False where the run was stopped before its last sample.
        has_ann: an ANN ran beside the SNN.
        record: the preset, one of `stats`, `counts`, `spikes`, `full`.
    """

    def __init__(self, path: Path, file: h5py.File, *, trusted: bool = False) -> None:
        self.path, self._file = path, file
        check_attributes(file.id, "/")
        self.attributes: dict[str, Any] = {name: _plain(value) for name, value in file.attrs.items()}
        if self.attributes.get("format") != FORMAT:
            raise ProbeError(
                f"{path} is an HDF5 file but no recording", expected="a file made by `probe capture`",
                next_step="pass that file",
            )  # fmt: skip
        version = int(self.attributes["format_version"])
        if version < 1:
            raise ValueError(f"format version {version}")
        if version > VERSION:
            raise ProbeError(
                f"{path} has recording format {version}", expected=f"at most {VERSION}", next_step="update snn-probe"
            )
        self._sources: dict[Path, tuple[int, int, int]] = {}
        self._virtual: Virtual = {}
        self._checked: set[str] = set()
        # What a process has just written or looked through need not be looked through again.
        if not trusted:
            folder = parts_folder(path).name
            built = check_structure(file, {f"{folder}/{part.name}": part.samples for part in self.parts})
            _check_seal(path, file)
            self._virtual = built.virtual
            self._check_parts()
            containment.limit_memory(built.bytes)
        self.timesteps = int(self.attributes["timesteps"])
        self.samples = int(self.attributes["samples"])
        self.complete = bool(self.attributes["complete"])
        self.record = str(self.attributes["record"])
        if self.record not in PRESETS or self.timesteps < 1 or self.samples < 1:
            raise ValueError("its attributes contradict the format")
        self.has_ann = bool(self.attributes.get("has_ann", True))
        for name, dtype in {"label": np.int64, "index": np.int64, "digest_snn": np.uint64}.items():
            self._expect(f"samples/{name}", (self.samples,), dtype)
        classes = file["output/snn"].shape[2]
        if classes < 1:
            raise ValueError("it has no classes")
        self._expect("output/snn", (self.samples, self.timesteps, classes), np.float32)
        if self.has_ann:
            self._expect("samples/digest_ann", (self.samples,), np.uint64)
            self._expect("output/ann", (self.samples, classes), np.float32)
        indices = sorted(file["layers"], key=int)
        if not indices or [str(int(index)) for index in indices] != indices or int(indices[0]) < 0:
            raise ValueError("it has no layers, or layers that are not numbered")
        self.layers = tuple(Layer(self, file[f"layers/{index}"], int(index)) for index in indices)

    def _expect(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Refuse a dataset of another shape or type, before anything is computed with it."""
        item = self._file[name]
        if not isinstance(item, h5py.Dataset) or item.shape != shape or item.dtype != dtype:
            told = f"shape {item.shape} and type {item.dtype}" if isinstance(item, h5py.Dataset) else "no shape"
            raise ValueError(f"{name} has {told} and not {shape} and {np.dtype(dtype)}")

    @cached_property
    def parts(self) -> tuple[PartLine, ...]:
        """The parts that it lies in, in the order of their samples; none where it is one file."""
        said = parsed(self.attributes.get("parts", "[]"))
        folder = str(self.attributes.get("parts_folder", ""))
        if not isinstance(said, list):
            raise ValueError("its parts are no list")
        if said and folder != parts_folder(self.path).name:
            raise ProbeError(
                f"{self.path} looks for its parts in {shortened(folder, 200)}",
                expected=f"a file called {shortened(Path(folder).name.removesuffix('.parts'), 200)} beside that folder",
                next_step="give the recording its old name back",
            )
        parts = tuple(map(part_line, said))
        if len({part.name for part in parts}) != len(parts):
            raise ValueError("two parts have one name")
        return parts

    def _check_parts(self) -> None:
        """Look at every source: a virtual dataset reads as zeros where one is missing or cannot be opened."""
        allow_open_files(len(self.parts))
        for part in self.parts:
            file = parts_folder(self.path) / part.name
            if file.is_symlink() or not file.is_file():
                raise ProbeError(
                    f"{file}, a part of {self.path}, is missing" + " (a link is none)" * file.is_symlink(),
                    expected="the folder of parts beside the recording",
                    next_step="move both together",
                )
            if file.stat().st_size != part.bytes:
                raise ProbeError(
                    f"{file} has {file.stat().st_size} bytes", expected=f"{part.bytes} bytes",
                    next_step="move the part that was written here, or capture it again",
                )  # fmt: skip
            self._sources[file] = _identity(file)
            self._check_part(file, part)

    def _check_part(self, file: Path, part: PartLine) -> None:
        """It is the part that was written; how its arrays are built is looked at before they are read."""
        try:
            with h5py.File(file, "r") as handle:
                check_attributes(handle.id, "/")
                if _plain(handle.attrs.get("run_id")) != self.attributes["run_id"]:
                    raise ProbeError(
                        f"{file} belongs to another run", expected=f"run {self.attributes['run_id']}",
                        next_step="put the parts of this run there",
                    )  # fmt: skip
                if _plain(handle.attrs.get(SEAL)) != part.seal:
                    raise ProbeError(
                        f"{file} is another part than the one that was written under this name",
                        expected=f"the part with seal {shortened(part.seal, 64)}",
                        next_step="give the parts their old names back",
                    )
        except DAMAGE as error:
            raise self._damaged(file, error) from None

    def _damaged(self, file: Path, error: BaseException) -> ProbeError:
        return ProbeError(
            f"{file}, a part of {self.path}, is damaged ({shortened(_words(error), 300)})",
            expected="a whole part", next_step="run the same capture again with --resume",
        )  # fmt: skip

    def check_sources(self, name: str) -> None:
        """Make sure of all parts of an array before it is read: there, as they were, and built as parts are.

        Raises:
            ProbeError: one is not, or the recording is closed.
        """
        self.check_open()
        self._check_unchanged()
        if name in self._checked or f"/{name}" not in self._virtual:
            return
        shape, dtype = self._virtual[f"/{name}"]
        for file, part in zip(self._sources, self.parts, strict=True):
            try:
                with h5py.File(file, "r") as handle:
                    if check_dataset(handle, name) != ((part.samples, *shape[1:]), dtype):
                        raise ValueError(f"{name} has another shape or type than in the recording")
            except DAMAGE as error:
                raise self._damaged(file, error) from None
        self._checked.add(name)

    def check_parts(self) -> None:
        """Look through every part as if it were a recording of its own.

        Raises:
            ProbeError: one is not built as it should be, or its seal is not its own.
        """
        for file in self._sources:
            try:
                with h5py.File(file, "r") as handle:
                    check_structure(handle)
                    _check_seal(file, handle)
            except DAMAGE as error:
                raise self._damaged(file, error) from None

    def _check_unchanged(self) -> None:
        """Make sure that no part was removed or replaced since the recording was opened."""
        for file, identity in self._sources.items():
            if not file.is_file() or _identity(file) != identity:
                raise ProbeError(
                    f"{file}, a part of {self.path}, was removed or replaced meanwhile", expected="the part as it was",
                    next_step="open the recording again",
                )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check_open(self) -> None:
        """Make sure that arrays can be read.

        Raises:
            ProbeError: the recording is closed.
        """
        if not self._file:
            raise ProbeError(
                f"{self.path} is closed", expected="an open recording", next_step="read before it is closed"
            )

    def close(self) -> None:
        """Close the file; what was read stays."""
        _close(self._file)

    def __repr__(self) -> str:
        return (
            f"<Recording {self.path}: {len(self.layers)} layers, {self.samples} samples, "
            f"T = {self.timesteps}, {self.record}>"
        )

    def read(self, name: str, chosen: Any = ()) -> Array:
        """An array that is no layer's, or a part of it.

        Args:
            name: `samples/index`, `samples/label`, `samples/digest_ann`, `samples/digest_snn`, `output/ann` (sample,
                class) or `output/snn` (sample, timestep, class).
            chosen: a slice of the first axis, or one of each.

        Raises:
            ProbeError: the recording is closed, or the array cannot be read.
        """
        self.check_sources(name)
        with _reading(self, name):
            values: Array = self._file[name][chosen]
        return values

    @cached_property
    def labels(self) -> Array:
        """Class of each sample, int64 (sample,)."""
        return self.read("samples/label")

    @cached_property
    def indices(self) -> Array:
        """Place of each sample in its data set, int64 (sample,)."""
        return self.read("samples/index")

    @cached_property
    def digests(self) -> tuple[Array, Array]:
        """64-bit hashes of what the ANN and the SNN were fed, each uint64 (sample,); equal where there was no ANN."""
        snn = self.read("samples/digest_snn")
        return (self.read("samples/digest_ann") if self.has_ann else snn), snn

    @cached_property
    def ann_logits(self) -> Array:
        """Logits of the ANN, float32 (sample, class).

        Raises:
            ProbeError: there was none.
        """
        if not self.has_ann:
            raise ProbeError(f"{self.path} was recorded without an ANN", expected="a recording of an ANN and an SNN")
        return self.read("output/ann")

    @cached_property
    def snn_logits(self) -> Array:
        """Logits of the SNN at each timestep, not summed, float32 (sample, timestep, class)."""
        return self.read("output/snn")

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a later diagnosis needs and no array holds: modes, calls, order, law, oracles."""
        with _reading(self, "facts"):
            facts = {name: parsed(item[()]) for name, item in self._file["facts"].items()}
            check_facts(facts)
        return facts

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """The t at which statistics are kept."""
        return self.layers[0].grid if self.layers else ()

    def to_xarray(self, layers: Sequence[str | int] | str | int | None = None) -> xarray.DataTree:
        """The recording as xarray has it; needs the extra, `pip install 'snn-probe[xarray]'`.

        The root has `snn_logits` (sample, timestep, class) and, where there is an ANN, `ann_logits` (sample, class);
        the group `/layers/0` is `recording.layers[0].to_xarray()`. Arrays are read when they are asked for, so the
        recording has to stay open until then; `.load()` reads all.

        Args:
            layers: specs (see `probe.layers.select_layers`); None for all.

        Raises:
            ProbeError: xarray is not installed or too old, or there is no such layer.
        """
        from probe.recording.xarrays import tree_of

        return tree_of(self, layers)


class Layer:
    """One layer of an open recording; arrays are read when asked for.

    Attributes:
        index, name, module, neuron, levels, shape, traits: as in `LayerInfo`.
        threshold: θ, float32, broadcastable to (sample, *neuron).
        initial_potential: v(0), float32, likewise.
    """

    def __init__(self, recording: Recording, group: h5py.Group, index: int) -> None:
        self.recording, self._group, self.index = recording, group, index
        attributes = {name: _plain(value) for name, value in group.attrs.items()}
        self.name, self.module, self.neuron = (str(attributes[key]) for key in ("name", "module", "neuron"))
        self.levels: int | None = int(attributes["levels"]) or None
        self.shape = tuple(int(size) for size in attributes["shape"])
        self.traits: dict[str, Any] = parsed(attributes["traits"])
        check_traits(self.traits)
        self.initial_fraction = float(attributes["initial_fraction"])
        encoding = parsed(attributes["encoding"])
        if not self.name or max(len(self.name), len(self.module), len(self.neuron)) > LONGEST_NAME:
            raise ValueError(f"layer {index} has no name, or one too long")
        if not 0 <= (self.levels or 0) <= 255 or not self.shape or any(size < 1 for size in self.shape):
            raise ValueError(f"layer {index} has impossible levels or an impossible shape")
        if not abs(self.initial_fraction) <= MOST_FRACTION:
            raise ValueError(f"layer {index} has an impossible v(0)")
        self.threshold, self.initial_potential, height = (
            _parameter(group, name, self.shape) for name in ("threshold", "initial_potential", "height")
        )
        if not bool((self.threshold > 0).all()):
            raise ValueError(f"layer {index} has an impossible threshold")
        self.info = LayerInfo(
            index=index, name=self.name, module=self.module, neuron=self.neuron, levels=self.levels, shape=self.shape,
            threshold=self.threshold, initial_fraction=self.initial_fraction, traits=self.traits,
            layout=str(attributes["layout"]), constant_input=bool(encoding["constant_input"]),
            encoding=str(encoding["ann_output"]), paired=bool(attributes["paired"]), height=height,
            keeps_potential=bool(encoding["potential"]), snn_name=str(attributes["snn_name"]),
        )  # fmt: skip
        for name, stored in self.info.arrays(recording.record, recording.timesteps).items():
            recording._expect(f"layers/{index}/{name}", (recording.samples, *stored.shape), stored.dtype)

    def __repr__(self) -> str:
        return f"<Layer {self.index} {self.name!r}: {'x'.join(map(str, self.shape))} {self.neuron} neurons>"

    @property
    def neurons(self) -> int:
        """How many neurons a sample has."""
        return self.info.neurons

    def has(self, name: str) -> bool:
        """True where the recording, which has to be open, holds the array called `name`."""
        self.recording.check_open()
        return name in self._group

    @property
    def paired(self) -> bool:
        """There is an ANN activation to compare with."""
        return self.info.paired

    def coding(self, timestep: int) -> Coding | AnalogCoding | None:
        """How a neuron's numbers at t are counted; None for a layer without an ANN partner."""
        return self.info.coding(timestep, self.recording.timesteps)

    # ---------------------------------------------------------------------------------------------- arrays

    def _stored(self, name: str) -> h5py.Dataset:
        self.recording.check_open()
        if name not in self._group:
            if name == "silenced":
                raise ProbeError(f"layer {self.index} has no silenced neurons", expected="a recording of SRP neurons")
            if name.startswith("ann_") and not self.paired:
                raise ProbeError(
                    f"layer {self.index} ({self.name}) has no ANN partner", expected="a layer that has one"
                )
            if name == "membrane_potential" and self.recording.record == "full":
                raise ProbeError(
                    f"layer {self.index} ({self.name}) keeps no potential",
                    expected="v(0) + Σx - θ·n, which holds for it"
                    if lawful(self.traits)
                    else "a module that shows v(t) at every t (SpikingJelly in step mode 'm': store_v_seq=True)",
                )
            preset = FIELDS[name]
            raise ProbeError(
                f"{self.recording.path} was recorded with --record {self.recording.record} and has no {name}",
                expected=f"--record {preset}" + ("" if preset == "full" else " or more"),
                next_step=f"capture again with --record {preset}",
            )
        self.recording.check_sources(f"layers/{self.index}/{name}")
        return self._group[name]

    def read(self, name: str, samples: Any = ALL, timesteps: slice = ALL) -> Array:
        """A part of one array, decoded.

        Args:
            name: `spike_count`, `ann_output`, `input_sum`, `silenced`, `snn_spikes`, `ann_input`, `snn_input` or
                `membrane_potential`.
            samples: an index, slice or increasing list of samples.
            timesteps: a slice of timesteps, from 0, for `snn_spikes`, `snn_input` and `membrane_potential`.

        Returns:
            shape (sample, *neuron) or (sample, timestep, *neuron); without the sample axis for a single sample.

        Raises:
            ProbeError: the recording does not hold the array, or it cannot be read.
        """
        if isinstance(samples, int | np.integer):
            # θ broadcasts over a sample axis, so there has to be one while decoding.
            first = range(self.recording.samples)[samples]
            single: Array = self.read(name, slice(first, first + 1), timesteps)[0]
            return single
        stored = self._stored(name)
        with _reading(self.recording, f"{name} of layer {self.index}"):
            if name == "snn_input":
                if stored.shape[1] == 1:
                    raw = _taken(stored, samples)
                    steps = len(range(self.recording.timesteps)[timesteps])
                    return np.broadcast_to(raw, (len(raw), steps, *self.shape))
                return np.asarray(_taken(stored, samples, timesteps))
            if name == "snn_spikes":
                raw = _taken(stored, samples, timesteps)
                if self.info.wide:
                    return np.asarray(raw)
                return unpack(raw, self.neurons).reshape(*raw.shape[:-1], *self.shape)
            if name == "membrane_potential":
                return np.asarray(_taken(stored, samples, timesteps))
            raw = _taken(stored, samples)
            if name == "silenced":
                return unpack(raw, self.neurons).reshape(*raw.shape[:-1], *self.shape).astype(bool)
            if name == "ann_output" and self.info.encodes:
                return decode_levels(raw, self.info)
            return np.asarray(raw)

    @property
    def spike_count(self) -> Array:
        """n at T, whole numbers (sample, *neuron)."""
        return self.read("spike_count")

    @property
    def ann_output(self) -> Array:
        """a, float32 (sample, *neuron)."""
        return self.read("ann_output")

    @property
    def input_sum(self) -> Array:
        """Σx over all T, float32 (sample, *neuron)."""
        return self.read("input_sum")

    @property
    def silenced(self) -> Array:
        """SRP's mask, bool (sample, *neuron)."""
        return self.read("silenced")

    @property
    def snn_spikes(self) -> Array:
        """s(t), int8 (sample, timestep, *neuron)."""
        return self.read("snn_spikes")

    @property
    def ann_input(self) -> Array:
        """The ANN's pre-activation, float32 (sample, *neuron)."""
        return self.read("ann_input")

    @property
    def snn_input(self) -> Array:
        """x(t), float32 (sample, timestep, *neuron)."""
        return self.read("snn_input")

    @property
    def snn_output(self) -> Array:
        """φ(T) = θ·n/T, float32 (sample, *neuron)."""
        phi: Array = self.spike_count.astype(np.float32) * self.threshold / np.float32(self.recording.timesteps)
        return phi

    def ann_values(self, samples: Any = ALL) -> Array:
        """What the layer's coding takes: k = a·L/θ, whole numbers, for QCFS, and a for ReLU; (sample, *neuron)."""
        stored = self._stored("ann_output")
        if self.info.encodes:
            with _reading(self.recording, f"ann_output of layer {self.index}"):
                return np.asarray(stored[samples])
        activation = self.read("ann_output", samples)
        return activation if self.levels is None else levels_of(activation, self.threshold, self.levels)

    def to_xarray(self) -> xarray.Dataset:
        """The layer's arrays as an xarray.Dataset; needs the extra, `pip install 'snn-probe[xarray]'`.

        Dimensions are sample, timestep (from 1), and channel, row, column of images, neuron of vectors, neuron_0, ...
        of others. `threshold` and `initial_potential` have those along which they differ, so that they broadcast.
        Values are read when they are asked for: see `Recording.to_xarray`.

        Raises:
            ProbeError: xarray is not installed.
        """
        from probe.recording.xarrays import dataset_of

        return dataset_of(self)

    # ------------------------------------------------------------------------------------------ statistics

    @cached_property
    def _statistics(self) -> h5py.Group:
        """The group that holds them, once it is sure to be whole."""
        self.recording.check_sources(f"layers/{self.index}/statistics/per_sample")
        with _reading(self.recording, f"statistics of layer {self.index}"):
            group = self._group["statistics"]
            check_statistics(group, self.coding, self.recording.samples, self.recording.timesteps, self.shape)
        return group

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """The t at which statistics are kept."""
        with _reading(self.recording, f"statistics of layer {self.index}"):
            return tuple(int(t) for t in self._statistics["timestep"][()])

    @cached_property
    def statistics(self) -> LayerStatistics:
        """Everything that was gathered while the network ran."""
        with _reading(self.recording, f"statistics of layer {self.index}"):
            return stored_statistics.read(self._statistics)

    def statistics_at(self, timestep: int) -> Statistics | None:
        """The statistics of one t of the grid; None where the grid has no such t."""
        with _reading(self.recording, f"statistics of layer {self.index}"):
            return stored_statistics.read_at(self._statistics, timestep)

    def offsets_at(self, timestep: int) -> dict[int, int]:
        """How many neurons have each offset spike at one t of the grid, as the file keeps it."""
        with _reading(self.recording, f"statistics of layer {self.index}"):
            return stored_statistics.read_offsets(self._statistics, timestep)

    @cached_property
    def per_sample_timesteps(self) -> tuple[int, ...]:
        """The t at which sums of each sample are kept."""
        with _reading(self.recording, f"statistics of layer {self.index}"):
            return tuple(int(t) for t in self._statistics["per_sample_timestep"][()])

    def per_sample_at(self, timestep: int) -> Array | None:
        """Σn, Σk, Σn², Σk², Σnk of each sample at one t, (sample, 5), with a/θ for k where the ANN is ReLU.

        None where the recording keeps no such sums.
        """
        if timestep not in self.per_sample_timesteps:
            return None
        with _reading(self.recording, f"statistics of layer {self.index}"):
            place = self.per_sample_timesteps.index(timestep)
            sums: Array = self._statistics["per_sample"][:, place]
            if sums.shape != (self.recording.samples, 5):
                raise ValueError(f"sums of each sample have shape {sums.shape}")
            return sums

    @cached_property
    def spikes_at(self) -> Array:
        """Σ s(t) over samples and neurons, int64 (timestep,)."""
        with _reading(self.recording, f"statistics of layer {self.index}"):
            spikes: Array = self._statistics["spikes_at"][()]
        return spikes

    @cached_property
    def spikes_per_neuron(self) -> Array:
        """n at T summed over samples, int64 (*neuron)."""
        with _reading(self.recording, f"statistics of layer {self.index}"):
            spikes: Array = self._statistics["spikes_per_neuron"][()]
        return spikes


def _taken(stored: h5py.Dataset, samples: Any, *more: slice) -> Array:
    """A part of a dataset; nothing of it without HDF5, which cannot read nothing of a hundred parts."""
    if isinstance(samples, slice) and not range(len(stored))[samples]:
        return np.empty((0, *stored.shape[1:]), stored.dtype)[(ALL, *more)]
    return np.asarray(stored[(samples, *more)])


def decode_levels(k: Array, info: LayerInfo) -> Array:
    """a from the levels k in float32, in the order of operations of the layer's activation."""
    activation: Array = info.decoded(k.astype(np.float32), info.threshold)
    return activation


@contextlib.contextmanager
def _reading(recording: Recording, what: str) -> Iterator[None]:
    recording.check_open()
    try:
        yield
    except DAMAGE as error:
        raise ProbeError(
            f"{recording.path}: {what} cannot be read ({shortened(_words(error), 300)})",
            expected="a whole recording",
            next_step="capture it again",
        ) from None


def _identity(file: Path) -> tuple[int, int, int]:
    """What changes when a file is replaced or written to."""
    state = file.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


def _plain(value: Any) -> Any:
    """An attribute as a Python value."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, str):
        # What was no UTF-8 comes as half a pair, which nothing can print.
        return value.encode(errors="surrogateescape").decode(errors="replace")
    return value.item() if isinstance(value, np.generic) else value


def _parameter(group: h5py.Group, name: str, shape: tuple[int, ...]) -> Array:
    """θ, v(0) or the height of a spike: finite, one for all neurons or for some."""
    item = group[name]
    if item.dtype != np.float32 or item.size > max(1, math.prod(shape)):
        raise ValueError(f"{item.name} is impossible")
    values: Array = item[()]
    if np.broadcast_shapes(values.shape, (1, *shape)) != (1, *shape) or not bool(np.isfinite(values).all()):
        raise ValueError(f"{item.name} is impossible")
    return values


def _check_seal(path: Path, file: h5py.File) -> None:
    """Refuse a file whose attributes, shapes or small arrays are not those that were written."""
    said = _plain(file.attrs.get(SEAL))
    if said is None:
        raise ValueError("its seal is missing")
    if said != seal_of(file):
        raise ProbeError(
            f"{path} is not as it was written: its seal is that of other attributes, shapes or small arrays",
            expected="a recording that was neither damaged nor edited", next_step="capture it again",
        )  # fmt: skip
