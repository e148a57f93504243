"""Runs commands on damaged recordings, in forks of a process that has loaded everything, and judges what they did."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np

from tests.fuzz import bases, mutations
from tests.fuzz.commands import ALL, DRAWN, QUICK

LONGEST = 10.0
"""Seconds that a command may take."""
MOST_MEMORY = 1 << 30
ROOT = Path(__file__).resolve().parents[2]
SECRET = 424242.25
READABLE = (
    "/proc/",
    "/usr/",
    "/etc/localtime",
    "/dev/null",
    "/dev/urandom",
    sys.prefix,
    sys.base_prefix,
    str(ROOT / "probe"),
)
"""Where a command may read beside its own folder: its program, and fonts."""
CONTROL = re.compile(r"[^\n\x20-\x7e]")
FORBIDDEN_EVENTS = (
    "pickle.find_class", "marshal.load", "subprocess.Popen", "os.system", "os.exec", "socket.connect", "socket.bind",
    "os.symlink", "os.chmod", "shutil.rmtree", "ftplib.connect", "urllib.Request",
)  # fmt: skip
WRITABLE = re.compile(r"(picture\.(png|svg|pdf)|merged\.h5)(\.(\d+-[0-9a-f]{8}\.)?tmp)?|\.probe-\d+")


@dataclass
class Did:
    """What a command did."""

    code: int
    out: str
    err: str
    seconds: float
    memory: int
    picture: str
    elsewhere: list[str]
    hung: bool = False


@dataclass
class Failure:
    """A command that did what none may do."""

    what: str
    number: int
    base: str
    kind: str
    sealed: bool
    command: str
    did: Did

    def __str__(self) -> str:
        resealed = ", sealed again" if self.sealed else ""
        lines = [
            f"{self.what}: `probe {self.command}` on mutation {self.number} ({self.kind} of {self.base}{resealed})"
        ]
        lines.append(
            f"  exit {self.did.code}, {self.did.seconds:.1f} s, {self.did.memory >> 20} MB {self.did.elsewhere}"
        )
        tail = [f"  | {line[:300]!r}" for line in self.did.err.splitlines()[-12:]]
        return "\n".join(lines + tail)


@dataclass
class Summary:
    """Of a run.

    Attributes:
        outcomes: (kind of damage, outcome) -> how many commands.
        failures: each one.
        longest, most: seconds and bytes of the worst command.
    """

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    mutated: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    longest: float = 0.0
    most: int = 0

    def table(self) -> str:
        """Kinds down, outcomes across."""
        columns = sorted({outcome for _, outcome in self.outcomes})
        rows = [["kind", "files", "commands", *columns]]
        for kind in [*sorted(self.mutated), "all"]:
            numbers = [sum(n for (of, what), n in self.outcomes.items() if what == column and kind in (of, "all"))
                       for column in columns]  # fmt: skip
            files = sum(n for of, n in self.mutated.items() if kind in (of, "all"))
            rows.append([kind, str(files), str(sum(numbers)), *map(str, numbers)])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
                 for row in rows]  # fmt: skip
        return "\n".join([*lines, f"longest command {self.longest:.1f} s, most memory {self.most >> 20} MB, "
                                  f"{len(self.failures)} failures"])  # fmt: skip


# ------------------------------------------------------------------------------------------- what no one may read


class Canary:
    """A folder that no command may look into; who does is noticed, also where the HDF5 library does it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        with h5py.File(folder / "secret.h5", "w") as file:
            file["data"] = np.full((64, 64), SECRET, np.float32)
        (folder / "secret.bin").write_bytes(np.full(100_000, SECRET, np.float32).tobytes())
        os.mkfifo(folder / "pipe")
        self._libc = ctypes.CDLL(None)
        self._watch = self._libc.inotify_init1(os.O_NONBLOCK)
        # IN_ACCESS | IN_MODIFY | IN_OPEN | IN_CREATE | IN_DELETE
        for path in (folder, *folder.iterdir()):
            self._libc.inotify_add_watch(self._watch, os.fsencode(path), 0x1 | 0x2 | 0x20 | 0x100 | 0x200)
        self._secret = (folder / "secret.bin").read_bytes()
        self.touched()

    def mend(self) -> None:
        """Undo what damaging a recording did here."""
        (self.folder / "secret.bin").write_bytes(self._secret)
        self.touched()

    def touched(self) -> bool:
        """Somebody has been here since the last call."""
        try:
            return bool(os.read(self._watch, 1 << 16))
        except BlockingIOError:
            return False


_events: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _events is None:
        return
    if event in FORBIDDEN_EVENTS:
        _events.append(f"{event} {arguments!r:.200}")
    elif event == "os.link":
        # A file may be given its name by a link; anything else stays where it is.
        ends = [os.path.relpath(os.fsdecode(path)) for path in arguments[:2]]
        if not all(WRITABLE.fullmatch(end) for end in ends):
            _events.append(f"{event} {ends!r:.200}")
    elif event in ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate"):
        path = arguments[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        text = os.fsdecode(path)
        here = os.path.abspath(text)
        inside = here.startswith(os.getcwd() + os.sep)
        writes = event != "open" or (
            isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        if (writes and here == os.devnull) or (not writes and here == os.getcwd()):
            # The folder itself is opened to be synced.
            return
        if (writes and not (inside and WRITABLE.fullmatch(os.path.relpath(here)))) or not (
            inside or here.startswith(READABLE)
        ):
            _events.append(f"{event} {text[:200]!r} {arguments[1:]!r:.50}")


# ---------------------------------------------------------------------------------------------------------- running


def load() -> None:
    """Import what commands need, once, before any fork; without torch, which none of them does."""
    os.environ["MPLBACKEND"] = "Agg"
    import importlib

    for name in (
        "accuracy",
        "check",
        "diagnose",
        "diff",
        "layers",
        "merge",
        "plot",
        "trace",
        "unevenness",
        "verify",
        "what_if",
    ):
        importlib.import_module(f"probe.cli.{name}")
    for name in (
        "analysis", "compare", "conditions", "diagnosing", "merging", "verification", "what_if", "plots.panels",
        "plots.raster", "plots.rates", "plots.case_bars", "plots.attribution_bars", "plots.phi_against_a",
        "plots.offset_spikes", "plots.residual_potential", "plots.accuracy_curve", "plots.feature_maps",
        "plots.neuron_trace",
    ):  # fmt: skip
        importlib.import_module(f"probe.{name}")
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_pdf
    import matplotlib.backends.backend_svg  # noqa: F401
    import rich.console
    import rich.table  # noqa: F401

    if not _auditing:
        gc.collect()
        # What forks share is not copied for the sake of a collection.
        gc.freeze()
        sys.addaudithook(_audit)
        _auditing.append(True)


_auditing: list[bool] = []


def run(folder: Path, arguments: list[str], canary: Canary, logs: Path) -> Did:
    """The installed command in a folder, with what it did."""
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    canary.touched()
    start = time.monotonic()
    child = os.fork()
    if not child:
        _in_child(folder, arguments, logs)
    waiting = os.pidfd_open(child)
    hung = not select.select([waiting], [], [], LONGEST)[0]
    seconds = time.monotonic() - start
    if hung:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(waiting)
    code = os.waitstatus_to_exitcode(status)
    memory, elsewhere = 0, []
    for report in logs.glob("*.report"):
        first, *rest = report.read_text(errors="replace").splitlines()
        memory = max(memory, int(first))
        elsewhere += rest
    if canary.touched():
        elsewhere.append("the canary")
    pictures = sorted(folder.glob("picture.*"))
    drawn = sha256(pictures[0].read_bytes()).hexdigest() if pictures else ""
    for written in (*pictures, folder / "merged.h5"):
        written.unlink(missing_ok=True)
    out, err = ((logs / name).read_bytes().decode(errors="replace") for name in ("out", "err"))
    return Did(code, out, err, seconds, memory, drawn, elsewhere, hung)


def _in_child(folder: Path, arguments: list[str], logs: Path) -> None:
    """Never returns."""
    global _events
    code = 99
    try:
        os.setsid()
        os.chdir(folder)
        for number, name in ((1, "out"), (2, "err")):
            opened = os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(opened, number)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        os.environ["COLUMNS"] = "100"
        sys.argv = ["probe", *arguments]
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        from probe.cli import main

        _events = []
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 98
        except BaseException:
            import traceback

            traceback.print_exc()
        events, _events = _events, None
        sys.stdout.flush()
        sys.stderr.flush()
        with open("/proc/self/status") as status:
            peak = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
        (logs / f"{os.getpid()}.report").write_text("\n".join([str(peak), *events]))
    finally:
        os._exit(code)


def _apart(work: Callable[[], None], seconds: float = 2.0) -> bool:
    """Do some work in a fork of this process; False where it fails, crashes or hangs, as h5py does at some files."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    waiting = os.pidfd_open(child)
    if not select.select([waiting], [], [], seconds)[0]:
        os.kill(child, signal.SIGKILL)
    os.close(waiting)
    return os.waitpid(child, 0)[1] == 0


# ---------------------------------------------------------------------------------------------------------- judging


def judge(did: Did, before: Did, *, hostile: bool) -> tuple[str, bool]:
    """The outcome in a word or two, and whether it is a failure.

    Args:
        did: on the damaged recording.
        before: the same command on the whole one.
        hostile: what is told may be other than before: the damage is sealed.
    """
    if did.hung:
        return "HANG", True
    if did.memory > MOST_MEMORY:
        return "MEMORY", True
    if did.elsewhere or str(SECRET) in did.out + did.err:
        return "ELSEWHERE", True
    if "Traceback" in did.err or did.code == 3:
        return "TRACEBACK", True
    if did.code not in (0, 1, 2):
        return f"EXIT {did.code}", True
    if any(not c.group().isprintable() for c in CONTROL.finditer(did.out + did.err)):
        return "ESCAPES", True
    lines = [line for line in did.err.splitlines() if not line.startswith(("probe: warning", "probe: note"))]
    if did.code == 2:
        told = [line for line in lines if line.startswith("probe: ")]
        if "ended the HDF5 library" in did.err or "takes longer to open" in did.err:
            return "contained", len(told) != 1
        if len(lines) != 1 or len(told) != 1 or lines[0].count("; ") < 2 or "; expected " not in lines[0]:
            return "UNCLEAR", True
        return "refused", False
    if (did.code, did.out, did.picture) == (before.code, before.out, before.picture):
        return "right", False
    if "warning" in did.err and "incomplete" in did.err:
        return "warned", False
    if did.code == 1 and ("checks of" in did.out or '"schema": "probe-verify/1"' in did.out):
        return "verdict", False
    return ("as sealed", False) if hostile else ("WRONG TABLE", True)


class Fuzz:
    """A run: `folder` is an empty one to work in."""

    def __init__(self, folder: Path, seed: int, made: Path | None = None) -> None:
        self.seed, self.work, self.logs = seed, folder / "work" / "case", folder / "logs"
        self.work.parent.mkdir()
        self.bases = made or folder / "bases"
        if made is None:
            subprocess.run([sys.executable, "-m", "tests.fuzz.bases", self.bases], cwd=ROOT, check=True)
        self.canary = Canary(folder / "canary")
        load()
        self.summary = Summary()
        self._before: dict[tuple[str, str], Did] = {}

    def _prepare(self, base: str) -> None:
        bases.copy(self.bases / base, self.work)
        shutil.copy(self.bases / "full" / bases.NAME, self.work / "other.h5")

    def before(self, base: str, command: str) -> Did:
        """What a command does on the whole recording."""
        if (base, command) not in self._before:
            kept, there = self.work, self.work.with_name("whole")
            self.work = there
            self._prepare(base)
            self._before[base, command] = run(there, ALL[command], self.canary, self.logs)
            self.work = kept
        return self._before[base, command]

    def mutate(self, number: int) -> tuple[str, str, bool, Random]:
        """The damaged recording with this number: the base, the kind of damage, and whether it was sealed again."""
        random = Random(f"{self.seed}-{number}")
        while True:
            base = random.choice(bases.KINDS)
            names, weights = zip(*mutations.kinds_for(base), strict=True)
            kind = random.choices(names, weights)[0]
            self._prepare(base)
            hostile = kind in mutations.HOSTILE and random.random() < 0.5
            if _apart(partial(self._damage, kind, hostile, random)):
                self.canary.mend()
                return base, kind, hostile, random

    def _damage(self, kind: str, hostile: bool, random: Random) -> None:
        mutations.KINDS[kind][0](self.work, random, self.canary.folder)
        if hostile:
            with suppress(Exception):
                bases.reseal(self.work)

    def one(self, number: int, quick: int = 2, drawn: float = 0.12) -> Iterator[tuple[str, Did]]:
        """Damage a recording, run some commands on it, and note what they did."""
        base, kind, hostile, random = self.mutate(number)
        self.summary.mutated[kind] += 1
        chosen = random.sample(sorted(QUICK), quick) + random.sample(sorted(DRAWN), int(random.random() < drawn))
        for command in chosen:
            before = self.before(base, command)
            did = run(self.work, ALL[command], self.canary, self.logs)
            outcome, failed = judge(did, before, hostile=hostile)
            self.summary.outcomes[kind, outcome] += 1
            if not did.hung:
                self.summary.longest = max(self.summary.longest, did.seconds)
            self.summary.most = max(self.summary.most, did.memory)
            if failed:
                self.summary.failures.append(Failure(outcome, number, base, kind, hostile, command, did))
            yield command, did
