"""Runs a planned capture: batches into parts, parts into a recording; alone or with other ranks, from the start or from
where an earlier run of it ended.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from probe.attribution import LayerStatistics
from probe.errors import Interrupted, ProbeError
from probe.interrupts import interruptible
from probe.ranks import RankLost, Ranks
from probe.recording.behind import WriteBehind
from probe.recording.facts import broken_oracles
from probe.recording.identity import differences, identity_of, planned_identity
from probe.recording.joining import Appeared, Totals, appear, open_part, totals_of, without_samples
from probe.recording.parts import PartLine, PartsFolder, allow_open_files, covering, run_to_resume
from probe.recording.reader import open_recording, open_written
from probe.recording.schema import Batch
from probe.recording.writer import Writer
from probe.run import Run
from probe.userfile import has_user_frame, user_traceback

if TYPE_CHECKING:
    from probe.session import Capture

Progress = Callable[[int, int], None]
"""Called after each batch with the samples done and to do."""
PATIENCE = 5.0
"""Seconds in which a second signal is the same one: a terminal and torchrun both pass Ctrl-C on to every rank."""


class AnotherRun(ProbeError):
    """What is to be resumed was begun with another model, other data or options."""


@dataclass(frozen=True)
class Captured:
    """What a capture made.

    Attributes:
        path: the recording.
        samples, bytes: how many, and how large on disk, parts included.
        broken: a sentence for each oracle that the recording breaks.
        notes: what became of an earlier run that was resumed, a sentence each.
    """

    path: Path
    samples: int
    bytes: int
    broken: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: Path, notes: Sequence[str] = (), *, written: bool = True) -> Captured:
        """From the recording that is there; `written` just now, it need not be looked through."""
        with open_written(path) if written else open_recording(path) as recording:
            names = {layer.index: layer.name for layer in recording.layers}
            broken = tuple(broken_oracles(recording.facts, names))
            parts = sum(part.bytes for part in recording.parts)
            return cls(path, recording.samples, path.stat().st_size + parts, broken, tuple(notes))


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        run_id: its own, or that of the run that it resumes.
        done: parts that are there already.
        complete: all of it is.
        notes: a sentence for each part that is not whole.
    """

    run_id: str
    done: tuple[PartLine, ...] = ()
    complete: bool = False
    notes: tuple[str, ...] = ()


class Recorder:
    """One run of a planned capture in this process.

    Args:
        planned: what to record.
        ranks: this process among those that share it.
    """

    def __init__(self, planned: Capture, ranks: Ranks) -> None:
        self.planned, self.ranks, self.info = planned, ranks, planned.info
        self._folder: PartsFolder | None = None
        self._totals: dict[int, LayerStatistics] = {}
        self._compact = 0
        self._committed = 0

    @property
    def folder(self) -> PartsFolder:
        """Where the parts go."""
        assert self._folder is not None
        return self._folder

    # ------------------------------------------------------------------------------------------------------ start

    def _begin(self) -> Start:
        """What rank 0 finds; it holds the folder of parts from here on."""
        path, info = self.planned.path, self.info
        resumed = run_to_resume(path) if self.planned.resume else None
        try:
            self._folder = PartsFolder(path)
        except OSError as error:
            raise self._unwritable(error, "") from None
        try:
            start = Start(info.run_id) if resumed is None else self._found(resumed)
            if start.complete:
                self.folder.keep_only(start.done)
                self.folder.release()
            else:
                self.folder.begin(start.run_id)
            return start
        except OSError as error:
            self.folder.release()
            raise self._unwritable(error, "") from None
        except BaseException:
            self.folder.release()
            raise

    def _found(self, run_id: str) -> Start:
        """What is there of a run that is to be resumed; refuses if it is another one."""
        here, notes = planned_identity(self.info, self.planned.layers), []
        done: list[PartLine] = []
        for line in self.folder.lines(run_id):
            try:
                with open_part(self.folder.folder, line) as part:
                    self._refuse_other(identity_of(part._file), here)
                done.append(line)
            except AnotherRun:
                raise
            except ProbeError as error:
                self.folder.forget(line)
                notes.append(f"{line.samples} samples are captured again: {error}")
        complete = False
        if self.planned.path.exists():
            with h5py.File(self.planned.path, "r") as file:
                if file.attrs["run_id"] == run_id:
                    self._refuse_other(identity_of(file), here)
                    held = sum(part.samples for part in done) if "parts" in file.attrs else self.info.asked
                    complete = bool(file.attrs["complete"]) and held == self.info.asked
        return Start(run_id, tuple(done), complete, tuple(notes))

    def _refuse_other(self, there: dict[str, Any], here: dict[str, Any]) -> None:
        differing = list(differences(there, here))
        if differing:
            raise AnotherRun(
                f"{self.planned.path} was begun by another capture: " + "; ".join(differing[:8]),
                expected="the same model, data and options",
                next_step="repeat the first command with --resume, or pass --overwrite to begin again",
            )

    def _expect_one_network(self) -> None:
        """Random weights, for example, would differ between ranks."""
        every = self.ranks.gather(planned_identity(self.info, self.planned.layers))
        for rank, other in enumerate(every):
            differing = list(differences(every[0], other))
            if differing:
                raise ProbeError(
                    f"rank {rank} has another run than rank 0: " + "; ".join(differing[:8]),
                    expected="the same model, data and options in every rank",
                    next_step="seed the model's random weights, or pass --checkpoint",
                )

    # -------------------------------------------------------------------------------------------------------- run

    def run(self, progress: Progress | None, *, part_bytes: int, part_seconds: float) -> Captured:
        """Record what is not recorded yet; see `Capture.run`."""
        start = self.ranks.first(self._begin)
        self._compact = part_bytes
        if start.complete:
            return self._captured((f"{self.planned.path} is complete already",), written=False)
        try:
            self._expect_one_network()
            self.info = replace(self.info, run_id=start.run_id)
            if not self.ranks.leads:
                try:
                    self._folder = PartsFolder(self.planned.path, self.ranks.rank)
                except OSError as error:
                    raise self._unwritable(error, "") from None
            # On disks of their own, other ranks have parts that rank 0 does not see.
            seen = self.ranks.gather(self.folder.lines(start.run_id) if not self.ranks.leads else list(start.done))
            done = covering({line.name: line for lines in seen for line in lines}.values())
        except BaseException:
            if self._folder is not None:
                self._folder.release()
            raise
        work = self.ranks.share(self._missing(done))
        writer = WriteBehind(
            Writer(self.folder, self.info, self.planned.layers), part_bytes=part_bytes, part_seconds=part_seconds
        )
        run = Run(
            self.planned.prepared.subject, self.planned.prepared.surveyed, self.planned.layers, writer,
            record=self.info.record, timesteps=self.info.timesteps, grid=self.info.grid, seed=self.info.seed,
        )  # fmt: skip
        try:
            stopped = self._batches(run, writer, work, start, progress)
        except (OSError, ProbeError) as error:
            raise self._failed(writer, error) from None
        except BaseException:
            self._keep(writer)
            raise
        writer.close()
        return self._conclude(start, stopped)

    def _captured(self, notes: Sequence[str], *, written: bool = True) -> Captured:
        """What is there now; rank 0 looks, for all."""
        return self.ranks.first(lambda: Captured.of(self.planned.path, notes, written=written))

    def _missing(self, done: Sequence[PartLine]) -> list[tuple[int, int]]:
        """The batches, as (first sample, one past the last), that no part covers."""
        samples, size = len(self.planned.indices), self.info.batch_size
        batches = [(first, min(first + size, samples)) for first in range(0, samples, size)]
        return [(first, stop) for first, stop in batches if not any(p.first <= first and stop <= p.stop for p in done)]

    def _batches(
        self, run: Run, writer: WriteBehind, work: Sequence[tuple[int, int]], start: Start, progress: Progress | None
    ) -> bool:
        """Run batches and write them; True where a signal ended it early."""
        before, last, total = sum(p.samples for p in start.done), None, len(self.planned.indices)
        total = total if self.ranks.size == 1 else before + sum(stop - first for first, stop in work)
        done = before
        with run.hooked(), interruptible(PATIENCE if self.ranks.size > 1 else 0.0) as interrupted:
            for first, stop in work:
                if last is not None and (last != first or writer.part_is_full):
                    self._commit(run, writer)
                self._batch(run, writer, first, stop)
                last, done = stop, done + stop - first
                if progress:
                    progress(done, total)
                if interrupted():
                    break
            alone = self.ranks.size == 1 and not start.done and not self._committed
            self._commit(run, writer, complete=alone and done == len(self.planned.indices))
            writer.flush()
            return done < before + sum(stop - first for first, stop in work)

    def _commit(self, run: Run, writer: WriteBehind, *, complete: bool = False) -> None:
        gathered, facts = run.take()
        if not gathered:
            return
        self._committed += 1
        if self.ranks.size > 1:
            for layer, statistics in gathered.items():
                here = without_samples(statistics)
                self._totals[layer] = self._totals[layer] + here if layer in self._totals else here
        writer.commit(gathered, facts, complete=complete)

    def _batch(self, run: Run, writer: WriteBehind, first: int, stop: int) -> None:
        prepared = self.planned.prepared
        chosen = self.planned.indices[first:stop]
        with _told_of("data", first, stop):
            x = prepared.load(chosen)
        with _told_of("model", first, stop):
            ann, snn = run.batch(x, first)
        digest_ann, digest_snn = run.digests()
        values: dict[str, Any] = {
            "index": chosen, "label": prepared.data.labels[chosen], "digest_snn": digest_snn,
            "snn": snn.float().cpu().numpy(),
        }  # fmt: skip
        if ann is not None:
            values |= {"digest_ann": digest_ann, "ann": ann.float().cpu().numpy()}
        for name, array in values.items():
            writer.append(None, Batch(name, first, np.asarray(array)))

    # -------------------------------------------------------------------------------------------------------- end

    def _conclude(self, start: Start, stopped: bool) -> Captured:
        """Let the recording appear, when every rank is done."""
        path, asked = self.planned.path, len(self.planned.indices)
        try:
            stopped = any(self.ranks.gather(stopped))
            found = self.ranks.first(lambda: self._appear(None)) if stopped else self._together(start)
        except RankLost as lost:
            raise self._without_a_rank(lost) from None
        finally:
            if not self.ranks.leads:
                self.folder.release()
        if stopped:
            where = path if found.shown else self.folder.folder
            raise Interrupted(
                f"stopped: {where} holds {found.samples} of {asked} samples; the same command with --resume goes on"
                if found.samples
                else "stopped before the first batch was over: nothing is kept"
            )
        notes = list(start.notes)
        if found.samples < asked:
            notes.append(
                f"{found.samples} of {asked} samples are here; where ranks write to disks of their own, `probe merge` "
                f"joins the folders {self.folder.folder.name}"
            )
        return self._captured(notes)

    def _together(self, start: Start) -> Appeared:
        """All ranks are done: add their statistics up, and let rank 0 write the recording."""
        totals: Totals | None = None
        if self.ranks.size > 1 and all(self.ranks.gather(bool(self._totals))):
            totals = self.ranks.total(self._totals)
        return self.ranks.first(lambda: self._appear(totals, start.done))

    def _appear(self, totals: Totals | None, done: Sequence[PartLine] = ()) -> Appeared:
        try:
            if totals is not None and done:
                totals = self._with_earlier(totals, done)
            return appear(
                self.folder, self.info.run_id, len(self.planned.indices), totals=totals, compact=self._compact
            )
        except OSError as error:
            raise self._unwritable(error, f"; the finished parts are in {self.folder.folder}") from None

    def _with_earlier(self, totals: Totals, done: Sequence[PartLine]) -> Totals:
        """Add the statistics of parts that an earlier run left."""
        allow_open_files(len(done))
        with contextlib.ExitStack() as stack:
            pieces = [stack.enter_context(open_part(self.folder.folder, line, trusted=True)) for line in done]
            # Every sample will be there in the end, so each keeps its place.
            earlier = totals_of(pieces, [line.first for line in done], keep_places=True)
        return {layer: earlier[layer] + total for layer, total in totals.items()}

    def _without_a_rank(self, lost: RankLost) -> RankLost:
        """The same, with what is there; rank 0 first writes that."""
        kept = Appeared(0, False)
        if self.ranks.leads:
            with contextlib.suppress(OSError, ProbeError):
                kept = appear(self.folder, self.info.run_id, len(self.planned.indices))
        held = (
            f"{self.planned.path} holds {kept.samples} samples"
            if kept.shown
            else f"what was finished is in {self.folder.folder}"
        )
        return RankLost(f"{lost.got}; {held}", expected=lost.expected, next_step=lost.next_step)

    def _keep(self, writer: WriteBehind) -> Appeared:
        """After a failure: what is committed becomes an incomplete recording."""
        writer.close()
        if not self.ranks.leads:
            self.folder.release()
            return Appeared(0, False)
        return appear(self.folder, self.info.run_id, len(self.planned.indices))

    def _failed(self, writer: WriteBehind, error: OSError | ProbeError) -> ProbeError:
        """Keep what is safe, and say what that is."""
        try:
            kept = self._keep(writer)
            rest = f"; {self.planned.path} holds the first {kept.samples} samples" if kept.shown else ""
            if kept.samples and not kept.shown:
                rest = f"; {kept.samples} samples are in {self.folder.folder}, and {self.planned.path} is what it was"
        except OSError:
            rest = f"; the finished parts are in {self.folder.folder}"
        if isinstance(error, ProbeError):
            return ProbeError(
                error.got + rest, expected=error.expected, next_step=error.next_step, trace=error.trace,
                fault=error.fault, layer=error.layer,
            )  # fmt: skip
        return self._unwritable(error, rest or "; nothing was kept")

    def _unwritable(self, error: OSError, rest: str) -> ProbeError:
        reason = error.strerror or str(error).split(",")[0].strip("() ")
        full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        room = f"room for {self.planned.bytes / 1e6:.1f} MB"
        mend = "free some space, or record less with --record or --samples" if full else "make it writable"
        return ProbeError(
            f"writing {self.planned.path} failed ({reason}){rest}",
            expected=room if full else "a folder that stays writable",
            next_step=f"{mend}, then run the same command with --resume",
        )


@contextlib.contextmanager
def _told_of(what: str, first: int, stop: int) -> Iterator[None]:
    """An exception of the user's own code, in one line and with its traceback; one of ours goes its way."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ProbeError) or not has_user_frame(error):
            raise
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ProbeError(
            f"the {what} failed on samples {first} to {stop - 1}: {message}", expected="what runs on all samples",
            next_step="mend it, then run the same command with --resume", trace=user_traceback(error),
        ) from None  # fmt: skip
