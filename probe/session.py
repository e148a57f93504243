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

from probe import __version__
from probe.attribution import LayerStatistics
from probe.data import Indices
from probe.errors import Interrupted, ProbeError
from probe.families import Subject
from probe.layers import select_layers
from probe.prepare import Prepared, Source, prepare
from probe.recording.schema import PRESETS, Batch, LayerInfo, RunInfo, per_sample_grid, time_grid
from probe.recording.writer import PART_BYTES, PART_SECONDS, Writer, check_target, free_bytes
from probe.run import Run

Progress = Callable[[int, int], None]
"""Called after each batch with the samples done and to do."""


@dataclass(frozen=True)
class Capture:
    """A capture that is ready to run: everything is checked, nothing is written yet.

    Attributes:
        info: what the recording will say of the run.
        prepared: the networks and the data.
        layers: the layers to record.
        overwrite: replace an existing recording, once the new one is whole.
    """

    path: Path
    info: RunInfo
    prepared: Prepared
    layers: tuple[LayerInfo, ...]
    overwrite: bool

    @property
    def indices(self) -> Indices:
        """The samples' places in the data set."""
        return self.prepared.indices

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
        writer = Writer(
            self.path,
            self.info,
            self.layers,
            overwrite=self.overwrite,
            part_bytes=part_bytes,
            part_seconds=part_seconds,
        )
        run = Run(
            self.prepared.subject, self.prepared.surveyed, self.layers, writer,
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
            self.prepared.release()
        if done < len(self.indices):
            raise Interrupted(f"stopped: {self.path} holds {done} of {len(self.indices)} samples")
        return Captured(self.path, done, writer.bytes, run.broken())

    def _batch(self, run: Run, writer: Writer, first: int) -> None:
        chosen = self.indices[first : first + self.info.batch_size]
        ann, snn = run.batch(self.prepared.load(chosen), first)
        digest_ann, digest_snn = run.digests()
        values: dict[str, Any] = {
            "index": chosen, "label": self.prepared.data.labels[chosen], "digest_snn": digest_snn,
            "snn": snn.float().cpu().numpy(),
        }  # fmt: skip
        if ann is not None:
            values |= {"digest_ann": digest_ann, "ann": ann.float().cpu().numpy()}
        for name, array in values.items():
            writer.append(None, Batch(name, first, array))
        writer.check()

    def _failed(self, writer: Writer, run: Run, error: OSError | ProbeError) -> ProbeError:
        """Keep what is safe, and say what that is."""
        try:
            kept = writer.abort(run.facts())
            rest = f"; {self.path} holds the first {kept} samples" if kept else ""
        except OSError:
            rest = f"; the finished parts are in {writer.folder}"
        if isinstance(error, ProbeError):
            return ProbeError(
                error.got + rest, expected=error.expected, next_step=error.next_step, fault=error.fault,
                layer=error.layer,
            )  # fmt: skip
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
    model: Any = "zoo:digits",
    *,
    at: Sequence[int] = (),
    layers: Sequence[str | int] = (),
    record: str = "full",
    output: str | Path = "recording.h5",
    overwrite: bool = False,
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
    asked = Source.of(model, source)
    check_target(path, overwrite=overwrite)
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
        per_sample=per_sample_grid(timesteps), command=command, device=str(prepared.device),
        checkpoint_sha256=prepared.checkpoint_sha256, torch_version=str(torch.__version__), run_id=uuid.uuid4().hex,
        created_by=f"snn-probe {__version__}", created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        has_ann=prepared.subject.ann is not None,
    )  # fmt: skip
    planned = Capture(path, info, prepared, tuple(chosen), overwrite)
    if planned.bytes > free_bytes(path):
        raise ProbeError(
            f"the recording needs up to {planned.bytes / 1e9:.2f} GB and {path.parent} has "
            f"{free_bytes(path) / 1e9:.2f} GB free",
            expected="room for it",
            next_step="record less with --record, --layer or --samples, or pass another -o",
        )
    return planned


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
            (specs), record (a preset), output (a path), overwrite, batch_size; as the options of `probe capture`, with
            the same defaults. `device` is by default the network's own.

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
