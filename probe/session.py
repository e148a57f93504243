"""`capture`: model, data and options in, a recording out. `plan` says first what would be written."""

from __future__ import annotations

import hashlib
import json
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from probe import __version__
from probe.data import Indices
from probe.errors import ProbeError
from probe.families import Subject
from probe.layers import select_layers
from probe.prepare import Prepared, Source, prepare
from probe.ranks import joined_ranks, leads, own_device
from probe.recorder import Captured, Progress, Recorder
from probe.recording.behind import PART_BYTES, PART_SECONDS
from probe.recording.parts import check_target, free_bytes, parts_folder, read_ledger
from probe.recording.schema import PRESETS, LayerInfo, RunInfo, per_sample_grid, time_grid
from probe.tap import numpy_of


@dataclass(frozen=True)
class Capture:
    """A capture that is ready to run: everything is checked, nothing is written yet.

    Attributes:
        info: what the recording will say of the run.
        prepared: the networks and the data.
        layers: the layers to record.
        resume: go on with what an earlier run of this capture has left, if there is anything.
    """

    path: Path
    info: RunInfo
    prepared: Prepared
    layers: tuple[LayerInfo, ...]
    resume: bool = False

    @property
    def indices(self) -> Indices:
        """The samples' places in the data set."""
        return self.prepared.indices

    @property
    def speaks(self) -> bool:
        """This process tells what there is to tell; of several that torchrun started, one does."""
        return leads()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know before it runs, a sentence each."""
        memory = self.prepared.memory_note(self.info.batch_size)
        return (*self.prepared.notes, *([memory] if memory else []))

    @property
    def bytes_per_layer(self) -> dict[int, int]:
        """Before compression."""
        return {
            layer.index: len(self.indices)
            * sum(stored.bytes for stored in layer.arrays(self.info.record, self.info.timesteps).values())
            for layer in self.layers
        }

    @property
    def bytes(self) -> int:
        """Before compression, logits included."""
        logits = len(self.indices) * 4 * self.info.classes * (1 + self.info.timesteps)
        return sum(self.bytes_per_layer.values()) + logits

    def run(
        self,
        progress: Progress | None = None,
        *,
        part_bytes: int = PART_BYTES,
        part_seconds: float = PART_SECONDS,
    ) -> Captured:
        """Run it; Ctrl-C once ends it after the batch in progress, twice at once.

        Raises:
            ProbeError: bad numbers in the network, a full disk; what was committed before stays.
            Interrupted: Ctrl-C; the recording holds the samples up to there.
        """
        try:
            with joined_ranks() as ranks:
                return Recorder(self, ranks).run(progress, part_bytes=part_bytes, part_seconds=part_seconds)
        finally:
            self.prepared.release()


def plan(
    model: Any = "zoo:digits",
    *,
    at: Sequence[int] = (),
    layers: Sequence[str | int] = (),
    record: str = "full",
    output: str | Path = "recording.h5",
    overwrite: bool = False,
    resume: bool = False,
    batch_size: int = 50,
    command: str = "",
    **source: Any,
) -> Capture:
    """Check everything that a capture needs, and survey the network with one sample; arguments as for `capture`.

    Raises:
        ProbeError: something does not fit.
    """
    path = Path(output)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ProbeError(f"a batch of {batch_size}", expected="at least 1", next_step="pass --batch-size N")
    if record not in PRESETS:
        raise ProbeError(f"unknown preset {record!r}", expected=" or ".join(PRESETS), next_step="pass --record PRESET")
    asked = Source.of(model, source | {"device": own_device(source.get("device"))})
    if leads():
        check_target(path, overwrite=overwrite, resume=resume)
    prepared = prepare(asked)
    timesteps, surveyed = prepared.timesteps, prepared.surveyed
    for t in at:
        if not 1 <= t <= timesteps:
            raise ProbeError(f"statistics at t = {t}", expected=f"1 to T = {timesteps}", next_step="pass --at N")
    chosen = select_layers(surveyed.infos, layers) if layers else surveyed.infos
    info = RunInfo(
        timesteps=timesteps, record=record, family=prepared.subject.family, method=_method(prepared.subject),
        model=prepared.name, data=prepared.data.name, split=asked.split, seed=asked.seed, classes=surveyed.classes,
        batch_size=min(batch_size, len(prepared.indices)), grid=time_grid(timesteps, tuple(at)),
        per_sample=per_sample_grid(timesteps), command=command, device=prepared.device.type,
        checkpoint_sha256=prepared.checkpoint_sha256, torch_version=str(torch.__version__), run_id=uuid.uuid4().hex,
        created_by=f"snn-probe {__version__}", created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        has_ann=prepared.subject.ann is not None, asked=len(prepared.indices), **_digests(prepared, asked),
    )  # fmt: skip
    planned = Capture(path, info, prepared, tuple(chosen), resume)
    # What an earlier run has left is there already.
    there = sum(line.bytes for line in read_ledger(parts_folder(path))) if resume else 0
    if planned.bytes - there > free_bytes(path):
        raise ProbeError(
            f"the recording needs up to {(planned.bytes - there) / 1e9:.2f} GB and {path.parent} has "
            f"{free_bytes(path) / 1e9:.2f} GB free",
            expected="room for it",
            next_step="record less with --record, --layer or --samples, or pass another -o",
        )
    return planned


def _digests(prepared: Prepared, source: Source) -> dict[str, str]:
    """What a run is made of, as hashes; runs that are to be joined must agree in them."""
    code = hashlib.blake2b(digest_size=16)
    for name in (source.model, source.data):
        # What the file imports is not looked at.
        if isinstance(name, str) and (file := Path(name.rpartition(":")[0])).suffix == ".py" and file.is_file():
            code.update(file.read_bytes())
    weights = hashlib.blake2b(digest_size=16)
    for network in prepared.subject.networks:
        for name, values in network.state_dict().items():
            weights.update(name.encode())
            if isinstance(values, torch.Tensor):
                weights.update(np.ascontiguousarray(numpy_of(values.reshape(-1).view(torch.uint8))).data)
    data = hashlib.blake2b(digest_size=16)
    data.update(numpy_of(prepared.load(prepared.indices[:1]).reshape(-1).view(torch.uint8)).data)
    data.update(np.asarray(prepared.data.labels[prepared.indices], np.int64).tobytes())
    chosen = hashlib.blake2b(np.asarray(prepared.indices, np.int64).tobytes(), digest_size=16)
    return {
        "model_args": json.dumps(dict(source.model_args), sort_keys=True, default=str), "code_digest": code.hexdigest(),
        "weights_digest": weights.hexdigest(), "data_digest": data.hexdigest(), "selection_digest": chosen.hexdigest()
    }  # fmt: skip


def _method(subject: Subject) -> str:
    """The neurons' kind; several joined by a comma."""
    return ",".join(dict.fromkeys(pair.neuron for pair in subject.layers))


def capture(
    model: Any = "zoo:digits", *, progress: Progress | None = None, strict: bool = False, **options: Any
) -> Path:
    """Run a network as ANN and as SNN on the same samples and record every layer.

    Args:
        model: `zoo:NAME`, `torchvision:NAME`, `file.py:callable`, `package.module:callable`, or a module, a pair
            (ann, snn) or a `Subject`.
        progress: called after each batch with the samples done and to do.
        strict: raise if an oracle is broken.
        options: those of `Source` (data, samples, timesteps, neuron, ...), and at (more t for the statistics), layers
            (specs), record (a preset), output (a path), overwrite, resume, batch_size; as the options of
            `probe capture`, with the same defaults. `device` is by default the network's own.

    Returns:
        The path of the recording.

    A broken oracle is warned of.

    Raises:
        ProbeError: bad input, or a broken oracle with `strict`; Interrupted: Ctrl-C.
    """
    captured = plan(model, **options).run(progress)
    if strict and captured.broken:
        raise ProbeError(oracle_message(captured), expected="no violation")
    if captured.broken:
        warnings.warn(oracle_message(captured), stacklevel=2)
    return captured.path


def oracle_message(captured: Captured) -> str:
    """What to shout when an oracle is broken."""
    return "ORACLE BROKEN: " + "; ".join(captured.broken)
