"""`capture`: model, data and options in, a recording out. `plan` says first what would be written."""

from __future__ import annotations

import errno
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from probe import __version__
from probe.attribution import LayerStatistics
from probe.data import DataSet, Indices, choose_samples, open_data
from probe.errors import Interrupted, ProbeError
from probe.families import Subject
from probe.layers import select_layers
from probe.models import adapt, bundled_data, open_model
from probe.recording.schema import PRESETS, Batch, LayerInfo, RunInfo, per_sample_grid, time_grid
from probe.recording.writer import PART_BYTES, PART_SECONDS, Writer, check_target, free_bytes
from probe.run import Run, Survey, survey

LARGEST_T = 10_000
Progress = Callable[[int, int], None]
"""Called after each batch with the samples done and to do."""


@dataclass(frozen=True)
class Capture:
    """A capture that is ready to run: everything is checked, nothing is written yet.

    Attributes:
        layers: the layers to record.
        info, subject, surveyed, data: what it runs.
        indices: of the samples, in the data set.
        overwrite: replace an existing recording, once the new one is whole.
        home: the device on which the user's network was, and will be again.
    """

    path: Path
    info: RunInfo
    subject: Subject
    surveyed: Survey
    layers: tuple[LayerInfo, ...]
    data: DataSet
    indices: Indices
    overwrite: bool
    home: torch.device

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
        writer = Writer(
            self.path,
            self.info,
            self.layers,
            overwrite=self.overwrite,
            part_bytes=part_bytes,
            part_seconds=part_seconds,
        )
        run = Run(
            self.subject, self.surveyed, self.layers, writer,
            record=self.info.record, timesteps=self.info.timesteps, grid=self.info.grid,
        )  # fmt: skip
        done = 0
        try:
            with run.hooked(), interruptible() as interrupted:
                for first in range(0, len(self.indices), self.info.batch_size):
                    self._batch(run, writer, first)
                    done = min(first + self.info.batch_size, len(self.indices))
                    if progress:
                        progress(done, len(self.indices))
                    if interrupted():
                        break
                    if writer.part_is_full:
                        writer.commit(_take(run))
            writer.finish(_take(run), run.facts(), complete=done == len(self.indices))
        except (OSError, ProbeError) as error:
            raise self._failed(writer, run, error) from None
        except BaseException:
            writer.abort(run.facts())
            raise
        finally:
            self.subject.ann.to(self.home)
        if done < len(self.indices):
            raise Interrupted(f"stopped: {self.path} holds {done} of {len(self.indices)} samples")
        return Captured(self.path, done, writer.bytes, run.broken())

    def _batch(self, run: Run, writer: Writer, first: int) -> None:
        chosen = self.indices[first : first + self.info.batch_size]
        images = self.data.load(chosen)
        ann, snn = run.batch(torch.from_numpy(images).to(self.info.device), first)
        digest_ann, digest_snn = run.digests()
        for name, values in (
            ("index", chosen), ("label", self.data.labels[chosen]),
            ("digest_ann", digest_ann), ("digest_snn", digest_snn),
            ("ann", ann.float().cpu().numpy()), ("snn", snn.float().cpu().numpy()),
        ):  # fmt: skip
            writer.append(None, Batch(name, first, values))
        writer.check()

    def _failed(self, writer: Writer, run: Run, error: OSError | ProbeError) -> ProbeError:
        """Keep what is safe, and say what that is."""
        try:
            kept = writer.abort(run.facts())
            rest = f"; {self.path} holds the first {kept} samples" if kept else ""
        except OSError:
            rest = f"; the finished parts are in {writer.folder}"
        if isinstance(error, ProbeError):
            return ProbeError(error.got + rest, expected=error.expected, next_step=error.next_step)
        reason = error.strerror or str(error).split(",")[0].strip("() ")
        full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        return ProbeError(
            f"writing {self.path} failed ({reason})" + (rest or "; nothing was kept"),
            expected=f"room for {self.bytes / 1e6:.1f} MB" if full else "a folder that stays writable",
            next_step="free some space, or record less with --record or --samples" if full else "capture again",
        )


@dataclass(frozen=True)
class Captured:
    """What a capture made.

    Attributes:
        path: the recording.
        samples, bytes: how many, and how large on disk, parts included.
        broken: a sentence for each oracle that the recording breaks.
    """

    path: Path
    samples: int
    bytes: int
    broken: tuple[str, ...]


def _take(run: Run) -> dict[int, LayerStatistics]:
    return {tap.info.index: tap.tally.take() for tap in run.taps if tap.tally.touched}


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C (or SIGTERM, SIGHUP) sets a flag, which the yielded function tells; a second one stops at once.

    A handler that raises would be swallowed inside HDF5 now and then; a flag never is.
    """
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def handler(number: int, _frame: Any) -> None:
        pressed.append(number)
        signal.signal(number, before[number])
        os.write(2, b"\nprobe: finishing the batch; once more to stop at once\n")

    # A scheduler that takes the machine back and a terminal that is closed send the other two.
    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # What is ignored stays so: `nohup` and shells that start a job in the background mean it.
    before = {number: old for number in known if (old := signal.getsignal(number)) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield lambda: bool(pressed)
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def plan(
    model: str | nn.Module = "zoo:digits",
    *,
    data: str | DataSet | None = None,
    split: str = "test",
    samples: int | None = 200,
    timesteps: int = 8,
    at: Sequence[int] = (),
    levels: int | None = None,
    neuron: str = "if",
    srp_steps: int = 4,
    layers: Sequence[str | int] = (),
    record: str = "full",
    output: str | Path = "recording.h5",
    overwrite: bool = False,
    batch_size: int = 50,
    device: str | None = None,
    seed: int = 0,
    command: str = "",
) -> Capture:
    """Check everything that a capture needs, and survey the network with one sample; arguments as for `capture`.

    Raises:
        ProbeError: something does not fit.
    """
    path = Path(output)
    _check_numbers(timesteps, at, samples, batch_size, record, seed)
    check_target(path, overwrite=overwrite)
    name = model if isinstance(model, str) else type(model).__name__
    bundled = bundled_data(model) if isinstance(model, str) else None
    if data is None and bundled is None:
        raise ProbeError(
            f"{name} comes without images",
            expected="--data",
            next_step="pass --data cifar10-jpeg:PATH" if name.endswith("cifar10") else "pass --data NAME",
        )
    network = open_model(model) if isinstance(model, str) else model
    if not isinstance(network, nn.Module):
        raise ProbeError(f"a model of type {type(network).__name__}", expected="a name or a torch.nn.Module")
    source = data if isinstance(data, DataSet) else open_data(data or str(bundled), split)
    subject = adapt(network, neuron, presteps=srp_steps, levels=levels)
    home = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    where = home if device is None else _device(device)
    subject.ann.to(where)
    subject.snn.to(where)
    indices = choose_samples(source.labels, samples, seed, what=source.name)
    surveyed = survey(subject, torch.from_numpy(source.load(indices[:1])).to(where))
    if surveyed.classes != len(source.classes):
        raise ProbeError(
            f"the model tells {surveyed.classes} classes apart and {source.name} has {len(source.classes)}",
            expected="data with the classes it was trained on",
            next_step="check --data",
        )
    chosen = select_layers(surveyed.infos, layers) if layers else surveyed.infos
    info = RunInfo(
        timesteps=timesteps, record=record, family=subject.family, method=neuron, model=name, data=source.name,
        split=split, seed=seed, classes=surveyed.classes, batch_size=min(batch_size, len(indices)),
        grid=time_grid(timesteps, tuple(at)), per_sample=per_sample_grid(timesteps), command=command,
        device=str(where), torch_version=str(torch.__version__), run_id=uuid.uuid4().hex,
        created_by=f"snn-probe {__version__}", created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    planned = Capture(path, info, subject, surveyed, tuple(chosen), source, indices, overwrite, home)
    if planned.bytes > free_bytes(path):
        raise ProbeError(
            f"the recording needs up to {planned.bytes / 1e9:.2f} GB and {path.parent} has "
            f"{free_bytes(path) / 1e9:.2f} GB free",
            expected="room for it",
            next_step="record less with --record, --layer or --samples, or pass another -o",
        )
    return planned


def _check_numbers(
    timesteps: int, at: Sequence[int], samples: int | None, batch_size: int, record: str, seed: int
) -> None:
    for what, number in (("timesteps", timesteps), ("samples", samples), ("batch_size", batch_size), ("seed", seed)):
        if number is not None and not isinstance(number, int):
            raise ProbeError(f"{what} = {number!r}", expected="a whole number")
    if not 0 <= seed < 1 << 63:
        raise ProbeError(f"seed {seed}", expected="0 to 2**63 - 1", next_step="pass --seed N")
    if not 1 <= timesteps <= LARGEST_T:
        raise ProbeError(f"{timesteps} timesteps", expected=f"1 to {LARGEST_T}", next_step="pass -T N")
    for t in at:
        if not 1 <= t <= timesteps:
            raise ProbeError(f"statistics at t = {t}", expected=f"1 to T = {timesteps}", next_step="pass --at N")
    if samples is not None and samples < 1:
        raise ProbeError(f"{samples} samples", expected="at least 1", next_step="pass --samples N or --samples all")
    if batch_size < 1:
        raise ProbeError(f"a batch of {batch_size}", expected="at least 1", next_step="pass --batch-size N")
    if record not in PRESETS:
        raise ProbeError(f"unknown preset {record!r}", expected=" or ".join(PRESETS), next_step="pass --record PRESET")


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ProbeError(f"device {name!r} cannot be used ({reason})", expected="cpu, cuda or auto") from None
    return device


def capture(
    model: str | nn.Module = "zoo:digits", *, progress: Progress | None = None, strict: bool = False, **options: Any
) -> Path:
    """Run a network as ANN and as SNN on the same samples and record every layer.

    Args:
        model: `zoo:NAME`, or a module with probe's QCFS activations.
        progress: called after each batch with the samples done and to do.
        strict: raise if an oracle is broken.
        options: data (a name or a `DataSet`), split, samples (None for all), timesteps (T), at (more t for the
            statistics), levels (L), neuron, srp_steps (τ), layers (specs), record (a preset), output (a path),
            overwrite, batch_size, device (None for the network's own), seed; as the options of `probe capture`, with
            the same defaults.

    Returns:
        The path of the recording.

    Raises:
        ProbeError: bad input, or a broken oracle with `strict`; Interrupted: Ctrl-C.
    """
    captured = plan(model, **options).run(progress)
    if strict and captured.broken:
        raise ProbeError(oracle_message(captured), expected="no violation")
    return captured.path


def oracle_message(captured: Captured) -> str:
    """What to shout when an oracle is broken."""
    return "ORACLE BROKEN: " + "; ".join(captured.broken)
