"""The folder of parts: what is safe on disk while there is no recording yet, and who may write there.

A part is a whole recording of some consecutive samples. It gets a temporary name, is closed, synced and renamed, the
folder is synced, and a line goes into a ledger; what has no line there, or another size, was never committed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import h5py

from probe.errors import ProbeError

LEDGER = "ledger.jsonl"
LOCK = "lock"
OTHER_FILES = 256
"""That a process may need beside parts."""
BEGUN = "begun"
"""The key of a ledger's line that says which run was begun, before it has a part."""
LONGEST_NAME = 200
"""Bytes; most file systems allow 255, and the names of parts are longer."""


@dataclass(frozen=True)
class PartLine:
    """A line of the ledger: a part that is whole and on disk.

    Attributes:
        name: of its file.
        bytes: its size.
        first: place of its first sample among all that the run is to record.
        samples: how many follow one another in it.
        run_id: of its run.
        seal: its own, so that no other part can stand in its place.
    """

    name: str
    bytes: int
    first: int
    samples: int
    run_id: str
    seal: str

    @property
    def stop(self) -> int:
        """One past its last sample."""
        return self.first + self.samples


def parts_folder(path: Path) -> Path:
    """Where the parts of a recording lie."""
    return path.with_name(path.name + ".parts")


def read_ledger(folder: Path) -> list[PartLine]:
    """The committed parts in a folder, in the order in which they were noted; all runs, all ranks."""
    lines: dict[str, PartLine] = {}
    for ledger in [folder / LEDGER, *sorted(folder.glob("ledger.*.jsonl"))]:
        # The last line of a run that was killed may be cut.
        for text in _text_of(ledger).splitlines():
            line = _line(text)
            if line and _is_there(folder, line):
                lines[line.name] = line
    return list(lines.values())


def part_line(said: Any) -> PartLine:
    """A part from what a ledger or an index says of it.

    Raises:
        ValueError: it says something else.
    """
    names = [one.name for one in fields(PartLine)]
    if not isinstance(said, dict) or sorted(said) != sorted(names):
        raise ValueError("a part is described by something else")
    line = PartLine(**said)
    if not all(isinstance(text, str) for text in (line.name, line.run_id, line.seal)):
        raise ValueError("a part has a name, run or seal that is no text")
    if Path(line.name).name != line.name or "\0" in line.name:
        raise ValueError("a part has no plain name")
    if any(type(number) is not int or number < 0 for number in (line.bytes, line.first, line.samples)):
        raise ValueError("a part has a size or place that is no whole number")
    if not (line.bytes and line.samples):
        raise ValueError("a part is empty")
    return line


def _line(text: str) -> PartLine | None:
    """A part from a line of a ledger; None where it is none, or was cut or damaged."""
    try:
        return part_line(json.loads(text))
    except ValueError:
        return None


def _is_there(folder: Path, line: PartLine) -> bool:
    file = folder / line.name
    return file.is_file() and not file.is_symlink() and file.stat().st_size == line.bytes


def _last_run(folder: Path) -> str | None:
    """The run that was begun last, whether or not it has any part."""
    last = None
    for ledger in [*sorted(folder.glob("ledger.*.jsonl")), folder / LEDGER]:
        for text in _text_of(ledger).splitlines():
            with contextlib.suppress(ValueError, TypeError):
                said = json.loads(text)
                if isinstance(said, dict) and isinstance(said.get(BEGUN, said.get("run_id")), str):
                    last = said.get(BEGUN, said.get("run_id"))
    return last


def _text_of(ledger: Path) -> str:
    try:
        return ledger.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ProbeError(
            f"{ledger} cannot be read ({error.strerror})", expected="the ledger of a folder of parts",
            next_step="pass --overwrite to begin again",
        ) from None  # fmt: skip


def covering(lines: Iterable[PartLine]) -> list[PartLine]:
    """The parts in the order of their samples, none twice."""
    chosen: list[PartLine] = []
    for line in sorted(lines, key=lambda line: (line.first, -line.samples)):
        if not chosen or line.first >= chosen[-1].stop:
            chosen.append(line)
    return chosen


def run_to_resume(path: Path) -> str | None:
    """The run that a capture to `path` would go on with; None where there is none.

    Raises:
        ProbeError: what is there is no recording.
    """
    last = _last_run(parts_folder(path))
    finished, complete = _finished(path)
    if last and not (complete and last == finished):
        return last
    if finished and not complete:
        raise ProbeError(
            f"{path} is incomplete and its ledger is missing", expected=f"{parts_folder(path) / LEDGER}",
            next_step="pass --overwrite to begin again",
        )  # fmt: skip
    return finished


def _finished(path: Path) -> tuple[str | None, bool]:
    """The run behind a recording, and whether it is complete."""
    if not path.exists():
        return None, False
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs["run_id"]), bool(file.attrs["complete"])
    except (OSError, KeyError) as error:
        raise ProbeError(
            f"{path} is no recording that could be resumed ({error})", expected="a recording, or no file",
            next_step="pass -o FILE, or --overwrite",
        ) from None  # fmt: skip


def check_target(path: Path, *, overwrite: bool, resume: bool = False) -> None:
    """Refuse a target that exists or cannot be written.

    Raises:
        ProbeError: so it is.
    """
    folder = path.parent
    if overwrite and resume:
        raise ProbeError("both resume and overwrite", expected="one of them", next_step="leave one out")
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
    if overwrite or resume:
        return
    if path.exists():
        raise ProbeError(f"{path} exists", expected="a new file", next_step="pass --overwrite, or -o FILE")
    if parts_folder(path).exists():
        raise ProbeError(
            f"{parts_folder(path)} holds the parts of an unfinished capture",
            expected="a new file",
            next_step="pass --resume to go on with it, --overwrite to discard it, or -o FILE",
        )


def _writable(folder: Path) -> bool:
    trial = folder / f".probe-{os.getpid()}"
    try:
        trial.touch()
        # Another thread may have tried at the same time.
        trial.unlink(missing_ok=True)
    except OSError:
        return False
    return True


class PartsFolder:
    """The folder of parts of one recording, held by this process for writing.

    Args:
        path: the recording's final name.
        rank: of this process among those that write it together; rank 0 makes the folder, before the others come.

    Raises:
        ProbeError: another process is writing it.
    """

    def __init__(self, path: Path, rank: int = 0) -> None:
        self.path, self.folder, self.rank = path, parts_folder(path), rank
        if self.folder.exists() and not self.folder.is_dir():
            raise ProbeError(f"{self.folder} is no folder", expected="room for the parts", next_step="remove it")
        self.folder.mkdir(exist_ok=True)
        self._lock = self._hold()
        if rank == 0:
            self._write(read_ledger(self.folder), _last_run(self.folder))

    def _name(self, name: str) -> Path:
        """A file of this rank's own."""
        return self.folder / (name if self.rank == 0 else f".{self.rank}".join(os.path.splitext(name)))

    def _hold(self) -> IO[str] | None:
        """Held until the process ends, however it does."""
        try:
            import fcntl
        except ImportError:  # Windows has no such locks
            return None
        lock = self._name(LOCK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise self._another_writer() from None
        # Who held it before may have removed the file meanwhile: then this lock keeps nobody out.
        try:
            same = os.fstat(lock.fileno()).st_ino == self._name(LOCK).stat().st_ino
        except FileNotFoundError:
            same = False
        if not same:
            lock.close()
            raise self._another_writer()
        return lock

    def _another_writer(self) -> ProbeError:
        return ProbeError(
            f"another capture is writing {self.path}", expected="one writer",
            next_step="wait for it, or pass another -o",
        )  # fmt: skip

    def begin(self, run_id: str) -> None:
        """Note which run writes here from now on, so that it is the one to resume."""
        self._append({BEGUN: run_id})

    def lines(self, run_id: str) -> list[PartLine]:
        """The committed parts of a run, in the order of their samples."""
        return covering(line for line in read_ledger(self.folder) if line.run_id == run_id)

    def add(self, line: PartLine) -> None:
        """Note a part that is on disk."""
        sync(self.folder)
        self._append(vars(line))

    def _append(self, said: Mapping[str, Any]) -> None:
        with self._name(LEDGER).open("a") as ledger:
            ledger.write(json.dumps(said) + "\n")
            ledger.flush()
            os.fsync(ledger.fileno())

    def _write(self, lines: Sequence[PartLine], begun: str | None = None) -> None:
        """Make these the ledger: one file, and no line that was cut."""
        new = self.folder / (LEDGER + ".tmp")
        with new.open("w") as ledger:
            ledger.writelines(json.dumps(vars(line)) + "\n" for line in lines)
            if begun:
                ledger.write(json.dumps({BEGUN: begun}) + "\n")
            ledger.flush()
            os.fsync(ledger.fileno())
        os.replace(new, self.folder / LEDGER)
        for other in self.folder.glob("ledger.*.jsonl"):
            other.unlink(missing_ok=True)
        sync(self.folder)

    def forget(self, line: PartLine) -> None:
        """Remove a part that is not whole, so that its samples are captured again."""
        (self.folder / line.name).unlink(missing_ok=True)
        self._write(read_ledger(self.folder), line.run_id)

    def keep_only(self, lines: Sequence[PartLine]) -> None:
        """Remove all that does not belong to a recording that now has its final name."""
        self._write(lines)
        kept = {line.name for line in lines} | {LEDGER, LOCK}
        for old in self.folder.iterdir():
            if old.is_file() and old.name not in kept:
                old.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        # The lock is held to the end: nobody may have begun to write here.
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Let others write; an empty folder goes, and so does one with nothing but an empty ledger."""
        with contextlib.suppress(OSError):
            self._name(LOCK).unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        with contextlib.suppress(OSError):
            if [file.name for file in self.folder.iterdir()] == [LEDGER] and not read_ledger(self.folder):
                (self.folder / LEDGER).unlink()
            self.folder.rmdir()


def allow_open_files(parts: int) -> None:
    """Make sure that so many parts can be open at once: HDF5 reads zeros from one that it cannot open.

    Raises:
        ProbeError: the system does not allow it.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = parts + OTHER_FILES
    if soft in (resource.RLIM_INFINITY, -1) or soft >= wanted:
        return
    if hard not in (resource.RLIM_INFINITY, -1) and hard < wanted:
        raise ProbeError(
            f"a recording in {parts} parts needs {wanted} open files, and {hard} are allowed",
            expected="a higher limit",
            next_step="raise `ulimit -n`, and join the parts with `probe merge`",
        )  # fmt: skip
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def sync(path: Path) -> None:
    """Make the file or folder survive a power cut; HDF5 itself never does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(path: Path) -> int:
    """Free space where `path` is to be written."""
    return shutil.disk_usage(path.parent).free
