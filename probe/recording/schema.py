"""The names, shapes and encodings of a recording: what writer and reader both know."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.attribution import AnalogCoding, Coding
from probe.spikes import packed_size

FORMAT = "probe-recording"
VERSION = 1
PRESETS = ("stats", "counts", "spikes", "full")
"""What a recording keeps, each with everything of the one before."""
FIELDS = {
    "spike_count": "counts", "ann_output": "counts", "input_sum": "counts", "silenced": "counts",
    "snn_spikes": "spikes", "ann_input": "full", "snn_input": "full", "membrane_potential": "full",
}  # fmt: skip
"""Array of a layer -> the first preset that holds it."""
OVER_TIME = ("snn_spikes", "snn_input", "membrane_potential")
"""Those of them with a timestep axis."""
SUMS = ("n", "k", "n2", "k2", "nk")
"""The columns of `sums` and `per_sample`: Σn, Σk, Σn², Σk², Σnk."""
CHUNK_BYTES = 1 << 20
"""A chunk of about this size, measured best for writing and reading."""


def holds(preset: str, name: str) -> bool:
    """True where a preset records the array called `name`."""
    return PRESETS.index(preset) >= PRESETS.index(FIELDS[name])


def time_grid(timesteps: int, more: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The t at which statistics are kept: all up to 8, the powers of two, T, and `more`."""
    powers = {1 << i for i in range(timesteps.bit_length())}
    grid = set(range(1, 9)) | powers | {timesteps} | set(more)
    return tuple(sorted(t for t in grid if 1 <= t <= timesteps))


def per_sample_grid(timesteps: int) -> tuple[int, ...]:
    """The at most 8 values of t at which sums are kept for each sample: T and the powers of two below."""
    powers = [1 << i for i in range(timesteps.bit_length()) if 1 << i < timesteps]
    return (*powers[-7:], timesteps)


@dataclass(frozen=True)
class LayerInfo:
    """What is known of a layer before the first sample runs.

    Attributes:
        index: in execution order over the whole network, also where only some layers are recorded.
        name: dotted module path.
        module: class of the spiking module.
        neuron: `if`, `snm`, `negspike`, `srp` or `srp+negspike`.
        levels: L of the ANN's activation; None for ReLU.
        shape: of one sample, (*neuron).
        threshold: θ, float32, broadcastable to (sample, *neuron).
        initial_fraction: v(0) in units of θ.
        traits: the family's traits as plain values (see `probe.families.Traits`).
        layout: `step`, or the order of a merged axis, `TB` or `BT`.
        constant_input: the input is the same at every t, so `snn_input` needs one.
        encoding: how every ANN output follows bit by bit from k, so that k is kept instead: `levels` for (θ·k)/L,
            `levels-first` for (k/L)·θ; `raw` where neither holds.
        paired: there is an ANN activation to compare with.
        height: the output for one spike, float32, broadcastable to (sample, *neuron).
        keeps_potential: v(t) cannot be rebuilt by the conservation law, so it is kept as the module shows it.
        snn_name: path of the spiking module in the SNN.
    """

    index: int
    name: str
    module: str
    neuron: str
    levels: int | None
    shape: tuple[int, ...]
    threshold: npt.NDArray[np.float32]
    initial_fraction: float
    traits: dict[str, Any]
    layout: str = "step"
    constant_input: bool = False
    encoding: str = "levels"
    paired: bool = True
    height: npt.NDArray[np.float32] = field(default_factory=lambda: np.ones((), np.float32))
    keeps_potential: bool = False
    snn_name: str = ""

    @property
    def neurons(self) -> int:
        """How many a sample has."""
        return math.prod(self.shape)

    @property
    def signed(self) -> bool:
        """There are negative spikes."""
        return bool(self.traits.get("signed"))

    @property
    def silencing(self) -> bool:
        """SRP's mask may silence neurons."""
        return bool(self.traits.get("presteps"))

    @property
    def graded(self) -> bool:
        """Several spikes a timestep."""
        return bool(self.traits.get("graded"))

    @property
    def wide(self) -> bool:
        """A timestep's spikes are more than one bit."""
        return self.signed or self.graded

    @property
    def encodes(self) -> bool:
        """ANN outputs are kept as levels."""
        return self.levels is not None and self.encoding != "raw"

    def decoded(self, level: Any, threshold: Any) -> Any:
        """a from the levels k, floats of numpy or torch, in the order of operations of the activation."""
        return (
            (level / self.levels) * threshold if self.encoding == "levels-first" else (threshold * level) / self.levels
        )

    def coding(self, timestep: int, timesteps: int) -> Coding | AnalogCoding | None:
        """How a neuron's numbers at t are counted; None for a layer without an ANN partner."""
        if not self.paired:
            return None
        unguarded = self.signed and not self.traits.get("guarded", True)
        if self.levels is None:
            return AnalogCoding(timestep, timesteps, self.initial_fraction, unguarded, self.silencing, self.graded)
        return Coding(self.levels, timestep, timesteps, self.initial_fraction, unguarded, self.silencing)

    def codings(self, grid: Iterable[int], timesteps: int) -> dict[int, Coding | AnalogCoding]:
        """`coding` at each t of a grid; empty for a layer without an ANN partner."""
        return {t: coding for t in grid if (coding := self.coding(t, timesteps))}

    def attributes(self) -> dict[str, Any]:
        """As HDF5 attributes of the layer's group."""
        encoding = {
            "constant_input": self.constant_input, "ann_output": self.encoding, "potential": self.keeps_potential
        }  # fmt: skip
        return {
            "name": self.name, "module": self.module, "neuron": self.neuron, "levels": self.levels or 0,
            "reset": self.traits.get("reset", "subtract"), "shape": np.array(self.shape, np.int64),
            "layout": self.layout, "traits": json.dumps(self.traits), "encoding": json.dumps(encoding),
            "paired": self.paired, "snn_name": self.snn_name or self.name, "initial_fraction": self.initial_fraction,
        }  # fmt: skip

    def parameters(self) -> dict[str, npt.NDArray[np.float32]]:
        """As datasets of the layer's group, broadcastable to (sample, *neuron)."""
        threshold = np.asarray(self.threshold, np.float32)
        return {
            "height": np.asarray(self.height, np.float32), "threshold": threshold,
            "initial_potential": np.asarray(threshold * np.float32(self.initial_fraction)),
        }  # fmt: skip

    def arrays(self, preset: str, timesteps: int) -> dict[str, Stored]:
        """The per-sample datasets of a preset."""
        count_type: Any = np.int16 if self.signed or timesteps > 255 else np.uint8
        if timesteps > 32_767 or self.graded:
            count_type = np.int32
        bits = (packed_size(self.neurons),)
        spikes = Stored((timesteps, *self.shape), np.int8) if self.wide else Stored((timesteps, *bits), np.uint8)
        steps = 1 if self.constant_input else timesteps
        every = {
            "spike_count": Stored(self.shape, count_type),
            "ann_output": Stored(self.shape, np.uint8 if self.encodes else np.float32),
            "input_sum": Stored(self.shape, np.float32),
            "silenced": Stored(bits, np.uint8),
            "snn_spikes": spikes,
            "ann_input": Stored(self.shape, np.float32),
            "snn_input": Stored((steps, *self.shape), np.float32),
            "membrane_potential": Stored((timesteps, *self.shape), np.float32),
        }
        absent = {"silenced"} if not self.silencing else set()
        absent |= set() if self.keeps_potential else {"membrane_potential"}
        absent |= set() if self.paired else {"ann_output", "ann_input"}
        every = {name: stored for name, stored in every.items() if name not in absent}
        return {name: stored for name, stored in every.items() if holds(preset, name)}


@dataclass(frozen=True)
class Stored:
    """The shape, without the sample axis, and type of a dataset."""

    shape: tuple[int, ...]
    dtype: Any

    @property
    def bytes(self) -> int:
        """Per sample, before compression."""
        return math.prod(self.shape) * int(np.dtype(self.dtype).itemsize)

    def chunks(self, samples: int, stepwise: bool) -> tuple[int, ...]:
        """About 1 MiB, whole samples of a divisor of the batch, one timestep where written step by step."""
        shape = (1, *self.shape[1:]) if stepwise else self.shape
        each = max(1, math.prod(shape) * np.dtype(self.dtype).itemsize)
        fitting = [d for d in range(1, samples + 1) if samples % d == 0 and d * each <= CHUNK_BYTES]
        cut = list(shape)
        # A sample larger than a chunk is cut along its first axes.
        for axis in range(len(cut)):
            while math.prod(cut) * np.dtype(self.dtype).itemsize > 4 * CHUNK_BYTES and cut[axis] > 1:
                cut[axis] = -(-cut[axis] // 2)
        return (fitting[-1] if fitting else 1, *cut)


@dataclass(frozen=True)
class RunInfo:
    """What a recording says of the run as a whole; written as attributes of the root.

    Attributes:
        asked: how many samples the run is to record.
        model_args: what the model's callable was called with, JSON; code_digest: hash of its file and of the data's.
        weights_digest: hash of all parameters and buffers of both networks.
        data_digest: hash of the first sample and of all labels; selection_digest: of the samples' places in the data.
    """

    timesteps: int
    record: str
    family: str
    method: str
    model: str
    data: str
    split: str
    seed: int
    classes: int
    batch_size: int
    grid: tuple[int, ...]
    checkpoint_sha256: str = ""
    command: str = ""
    device: str = "cpu"
    torch_version: str = ""
    run_id: str = ""
    created_by: str = ""
    created_utc: str = ""
    per_sample: tuple[int, ...] = field(default=())
    has_ann: bool = True
    asked: int = 0
    model_args: str = ""
    code_digest: str = ""
    weights_digest: str = ""
    data_digest: str = ""
    selection_digest: str = ""

    def attributes(self) -> dict[str, Any]:
        """As HDF5 attributes."""
        kept = {**asdict(self), "format": FORMAT, "format_version": VERSION}
        return kept | {name: np.array(kept[name], np.int64) for name in ("grid", "per_sample")}

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> RunInfo:
        """From a recording's attributes.

        Raises:
            KeyError: one is missing.
        """
        found = {one.name: attributes[one.name] for one in fields(cls)}
        times = {name: tuple(int(t) for t in found[name]) for name in ("grid", "per_sample")}
        return cls(**(found | times))


@dataclass(frozen=True)
class Batch:
    """A piece of one array: what a sink gets.

    Attributes:
        field: the array's name; of the network itself `index`, `label`, `digest_ann`, `digest_snn`, `ann`, `snn`.
        first: the recording's index of the first sample.
        values: shape (sample, ...), without the timestep axis where `timestep` is given.
        timestep: from 1; None for an array without a timestep axis or for all timesteps at once.
    """

    field: str
    first: int
    values: npt.NDArray[Any]
    timestep: int | None = None
