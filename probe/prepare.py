"""From what the user names, a model and data, to networks that are paired, surveyed and ready to run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probe.analysis import describe_threshold
from probe.attribution import Coding, why_not_even
from probe.commuting import plain
from probe.data import DataSet, Indices, choose_samples, open_data
from probe.errors import ProbeError
from probe.families import Subject
from probe.model_names import Opened, open_model
from probe.models import DEFAULT_T, Options, adapt, networks_of
from probe.recording.schema import time_grid
from probe.run import Survey, seeded, survey

LARGEST_T = 10_000
DEFAULT_SWEEP_T = 64
CALIBRATION_BATCH = 50
MERGED_TENSORS = 7
"""Tensors of the size of the largest layer that live at once where time is merged: measured, 5 (QCFS) to 8 (COS)."""
NOT_CAUSAL = "the method is not causal: at t < T the numbers are those of a run made for T"
TALLY_BYTES = 24
"""What gathering statistics keeps of each neuron of a batch, whatever T."""


@dataclass(frozen=True)
class Source:
    """A model, data, and how the one is to be run on the other; as the options of `probe capture` and `probe layers`.

    Attributes:
        model: `zoo:NAME`, `torchvision:NAME`, `file.py:callable`, `package.module:callable`; or the module, the pair
            (ann, snn) or the `Subject` itself.
        model_args: what a callable is called with.
        checkpoint, trust_checkpoint: weights, and whether unpickling them is allowed.
        data: a name for `open_data`, or a `DataSet`; None for the model's own, where it is bundled.
        split, data_root, download, normalize, image_size: as for `open_data`.
        samples: how many, balanced over classes by `seed`; None for all, in order.
        timesteps: T; None for what the network is made for, else 8.
        neuron, srp_steps, levels, pairs, calibrate, calibrate_per, average_pool, initial_potential: as `Options` of
            `probe.models`.
        calibration_samples: how many, of the split `train` where there is one.
        device: `cpu`, `cuda`, `mps` or `auto`; None for the network's own.
    """

    model: Any = "zoo:digits"
    model_args: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | Path | None = None
    trust_checkpoint: bool = False
    data: str | DataSet | None = None
    split: str = "test"
    data_root: str | Path | None = None
    download: bool = False
    normalize: str | None = None
    image_size: int | None = None
    samples: int | None = 200
    seed: int = 0
    timesteps: int | None = None
    neuron: str | None = None
    srp_steps: int = 4
    levels: int | None = None
    pairs: Mapping[str, str] = field(default_factory=dict)
    calibrate: str = "99.9%"
    calibrate_per: str = "layer"
    calibration_samples: int = 200
    average_pool: bool = False
    initial_potential: float = 0.5
    device: str | None = None

    def __post_init__(self) -> None:
        for what in ("timesteps", "samples", "seed", "calibration_samples", "srp_steps", "levels"):
            number = getattr(self, what)
            if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
                raise ProbeError(f"{what} = {number!r}", expected="a whole number")
        if not 0 <= self.seed < 1 << 63:
            raise ProbeError(f"seed {self.seed}", expected="0 to 2**63 - 1", next_step="pass --seed N")
        if self.timesteps is not None and not 1 <= self.timesteps <= LARGEST_T:
            raise ProbeError(f"{self.timesteps} timesteps", expected=f"1 to {LARGEST_T}", next_step="pass -T N")
        if self.samples is not None and self.samples < 1:
            raise ProbeError(
                f"{self.samples} samples", expected="at least 1", next_step="pass --samples N or --samples all"
            )
        if self.calibration_samples < 1:
            raise ProbeError(f"{self.calibration_samples} calibration samples", expected="at least 1")

    @classmethod
    def of(cls, model: Any, options: Mapping[str, Any]) -> Source:
        """From a model and options by name.

        Raises:
            ProbeError: there is no option of that name.
        """
        known = {one.name for one in fields(cls)}
        for name in options:
            if name not in known:
                near = get_close_matches(name, known, 1)
                raise ProbeError(f"unknown option {name}", expected=near[0] if near else "an option of `probe capture`")
        return cls(model, **options)

    @property
    def options(self) -> Options:
        """How the model is made a subject."""
        return Options(
            neuron=self.neuron, presteps=self.srp_steps, levels=self.levels, timesteps=self.timesteps, pairs=self.pairs,
            calibrate=self.calibrate, per=self.calibrate_per, average_pool=self.average_pool,
            initial_potential=self.initial_potential,
        )  # fmt: skip

    def open_data(self, name: str, split: str) -> DataSet:
        """A named data set with this source's options."""
        root = None if self.data_root is None else Path(self.data_root)
        return open_data(
            name, split, root=root, download=self.download, normalize=self.normalize, image_size=self.image_size
        )


@dataclass(frozen=True)
class Prepared:
    """Networks that are ready to run.

    Attributes:
        name: the model's, as a recording keeps it.
        checkpoint_sha256: of the checkpoint; empty without one.
        subject, surveyed: the networks, on `device`, fed samples of `dtype`.
        data, indices: the samples.
        timesteps: T.
        homes: where each network was, and is put back by `release`.
        notes: what the user should know, a sentence each.
    """

    name: str
    checkpoint_sha256: str
    subject: Subject
    surveyed: Survey
    data: DataSet
    indices: Indices
    timesteps: int
    device: torch.device
    dtype: torch.dtype
    homes: tuple[tuple[nn.Module, torch.device], ...]
    notes: tuple[str, ...]

    def load(self, chosen: Indices) -> Tensor:
        """Samples as the networks take them."""
        return torch.from_numpy(self.data.load(chosen)).to(self.device, self.dtype)

    def merged_bytes(self, batch_size: int) -> int | None:
        """Memory, beside weights and libraries, that a batch takes where time is merged into it; None where it is not.

        Stepwise layers need the same whatever T.
        """
        infos = self.surveyed.infos
        merged = [info.neurons for info in infos if info.layout != "step"]
        if not merged:
            return None
        samples = min(batch_size, len(self.indices))
        of_network = MERGED_TENSORS * max(merged) * self.timesteps * self.dtype.itemsize
        of_samples = samples * (of_network + TALLY_BYTES * sum(info.neurons for info in infos))
        codings = (info.coding(t, self.timesteps) for info in infos for t in time_grid(self.timesteps))
        places = sum(coding.size for coding in codings if isinstance(coding, Coding) and coding.dense)
        return of_samples + places * np.dtype(np.int64).itemsize

    def memory_note(self, batch_size: int) -> str | None:
        """What a network that merges time will need, in a sentence."""
        needed = self.merged_bytes(batch_size)
        if needed is None:
            return None
        return (
            f"time is merged into the batch: T = {self.timesteps} with {min(batch_size, len(self.indices))} samples at "
            f"once needs up to about {needed / 1e6:,.0f} MB beside the weights; --batch-size makes it less"
        )

    def release(self) -> None:
        """Put the user's networks back where they were."""
        for network, home in self.homes:
            network.to(home)


@dataclass(frozen=True)
class Adapted:
    """Networks that are paired, on the device that they will run on; attributes as of `Prepared`.

    Attributes:
        opened: the model as it was named.
        x: the first sample, shape (1, ...).
    """

    opened: Opened
    subject: Subject
    data: DataSet
    indices: Indices
    x: Tensor
    timesteps: int
    homes: tuple[tuple[nn.Module, torch.device], ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The model's."""
        return self.opened.name

    def load(self, chosen: Indices) -> Tensor:
        """Samples as the networks take them."""
        return torch.from_numpy(self.data.load(chosen)).to(self.x)

    def release(self) -> None:
        """Put the user's networks back where they were."""
        for network, home in self.homes:
            network.to(home)


def adapted(source: Source) -> Adapted:
    """Open model and data, and pair the layers.

    Raises:
        ProbeError: something does not fit.
    """
    with seeded(source.seed):
        return _adapted(source)


def _adapted(source: Source) -> Adapted:
    opened = _opened(source)
    networks = networks_of(opened.model)
    if source.data is None and opened.data is None:
        hint = "pass --data cifar10-jpeg:PATH" if opened.name.endswith("cifar10") else "pass --data NAME"
        raise ProbeError(f"{opened.name} comes without images", expected="--data", next_step=hint)
    given = source.data if source.data is not None else str(opened.data)
    data = given if isinstance(given, DataSet) else source.open_data(given, source.split)
    homes = tuple((network, _device_of(network)) for network in networks)
    device = homes[0][1] if source.device is None else find_device(source.device)
    indices = choose_samples(data.labels, source.samples, source.seed, what=data.name)
    notes = [f"{opened.name} has random weights: pass --checkpoint"] if opened.random else []

    def calibration() -> Iterator[Tensor]:
        samples, note = _calibration_samples(source, given, data)
        if note and note not in notes:
            notes.append(note)
        chosen = choose_samples(samples.labels, min(source.calibration_samples, len(samples)), source.seed)
        for first in range(0, len(chosen), CALIBRATION_BATCH):
            yield torch.from_numpy(samples.load(chosen[first : first + CALIBRATION_BATCH])).to(device, dtype)

    dtype = _dtype_of(networks)
    for network in networks:
        network.to(device)
    try:
        x = torch.from_numpy(data.load(indices[:1])).to(device, dtype)
        subject = adapt(opened.model, x, source.options, calibration)
        for network in subject.networks:
            network.to(device)
        timesteps = _timesteps(source.timesteps, subject)
    except BaseException:
        for network, home in homes:
            network.to(home)
        raise
    return Adapted(opened, subject, data, indices, x, timesteps, homes, tuple(notes))


def prepare(source: Source) -> Prepared:
    """Open model and data, pair the layers and run one sample.

    Raises:
        ProbeError: something does not fit.
    """
    found = adapted(source)
    try:
        with seeded(source.seed):
            surveyed = survey(found.subject, found.x, found.timesteps)
        _check_classes(surveyed, found.data)
        if source.average_pool and any(bend.operation == "max-pooling" for bend in surveyed.bends):
            raise ProbeError(
                "--average-pool cannot replace functional max-pooling", expected="nn.MaxPool modules",
                next_step="write the pooling as a module in the model",
            )  # fmt: skip
    except BaseException:
        found.release()
        raise
    return Prepared(
        found.opened.name, found.opened.checkpoint_sha256, found.subject, surveyed, found.data, found.indices,
        found.timesteps, found.x.device, found.x.dtype, found.homes, (*found.notes, *_notes(found.subject, surveyed)),
    )  # fmt: skip


def _opened(source: Source) -> Opened:
    if isinstance(source.model, str):
        checkpoint = None if source.checkpoint is None else Path(source.checkpoint)
        return open_model(source.model, source.model_args, checkpoint=checkpoint, trust=source.trust_checkpoint)
    for value, what in ((source.checkpoint, "checkpoint"), (source.model_args or None, "model_args")):
        if value is not None:
            raise ProbeError(f"{what} with a model that is no name", expected="a name, or a model with its weights")
    networks = networks_of(source.model)
    return Opened(source.model, type(networks[0]).__name__)


def _calibration_samples(source: Source, given: str | DataSet, data: DataSet) -> tuple[DataSet, str]:
    """The split `train`, or the recorded data and a note that says so."""
    if isinstance(given, str) and source.split != "train":
        with contextlib.suppress(ProbeError):
            train = source.open_data(given, "train")
            # Data without splits is the same under any name.
            if not np.array_equal(train.labels, data.labels):
                return train, ""
    return data, f"thresholds were calibrated on {data.name} itself, for it has no split for training"


def _device_of(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _dtype_of(networks: tuple[nn.Module, ...]) -> torch.dtype:
    """What the networks are fed: the type of their first floating-point parameter."""
    found = (parameter.dtype for network in networks for parameter in network.parameters())
    return next((dtype for dtype in found if dtype.is_floating_point), torch.float32)


def find_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the best there is.

    Raises:
        ProbeError: it cannot be used.
    """
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ProbeError(f"device {name!r} cannot be used ({reason})", expected="cpu, cuda, mps or auto") from None
    return device


def _timesteps(asked: int | None, subject: Subject) -> int:
    made_for = subject.timesteps
    if asked is not None and made_for is not None and asked != made_for:
        raise ProbeError(
            f"T = {asked}, and the network's layers are made for {made_for} timesteps",
            expected=f"T = {made_for}", next_step=f"pass -T {made_for}, or build the network for {asked}",
        )  # fmt: skip
    return asked or made_for or DEFAULT_T


def _check_classes(surveyed: Survey, data: DataSet) -> None:
    if surveyed.classes != len(data.classes):
        raise ProbeError(
            f"the model tells {surveyed.classes} classes apart and {data.name} has {len(data.classes)}",
            expected="data with the classes it was trained on",
            next_step="check --data",
        )


def _notes(subject: Subject, surveyed: Survey) -> list[str]:
    notes = []
    if surveyed.bends and subject.ann is not None:
        places = ", ".join(map(str, surveyed.bends[:4])) + (" and more" if len(surveyed.bends) > 4 else "")
        remedy = (
            "; --average-pool replaces max-pooling" if any(b.operation == "max-pooling" for b in surveyed.bends) else ""
        )
        notes.append(f"spikes pass what does not commute with averaging over time: {places}{remedy}")
    if subject.unpaired:
        notes.append(f"without a partner: {', '.join(subject.unpaired[:6])}")
    if subject.ann is None:
        notes.append("there is no ANN to compare with: spikes, potentials and accuracy are recorded, no errors")
    if not all(pair.traits.causal for pair in subject.layers):
        notes.append(NOT_CAUSAL)
    return notes


def pairing_table(prepared: Prepared) -> dict[str, Any]:
    """Which activation is paired with which spiking layer, and what may be claimed of each; what `probe layers` shows.

    Returns:
        The object that `probe layers --model ... --json` prints.
    """
    rows = []
    for pair, info in zip(prepared.surveyed.pairs, prepared.surveyed.infos, strict=True):
        reason = why_not_even(info.traits, info.initial_fraction)
        rows.append(
            {
                "index": info.index, "name": info.name,
                "ann": info.name if info.paired else None,
                "ann_module": type(pair.ann).__name__ if pair.ann is not None else None,
                "snn": info.snn_name, "snn_module": info.module, "neuron": info.neuron, "shape": list(info.shape),
                "levels": info.levels, "threshold": describe_threshold(info.threshold),
                "initial_fraction": info.initial_fraction, "layout": info.layout,
                "reason": reason if info.paired else "no ANN partner",
            }
        )  # fmt: skip
    return {
        "schema": "probe-pairing/1", "model": prepared.name, "family": prepared.subject.family,
        "timesteps": prepared.timesteps, "classes": prepared.surveyed.classes,
        "on_spikes": plain(prepared.surveyed.bends), "unpaired": list(prepared.subject.unpaired),
        "notes": list(prepared.notes), "layers": rows,
    }  # fmt: skip
