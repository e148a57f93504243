"""Reading a file in a process of its own, so that what a damaged one does to the HDF5 library ends that process alone.

The library is C, and a file that is damaged in the right place ends, hangs or bloats the process that reads it. So the
installed command forks before h5py is loaded: the child reads, computes and prints; the parent waits, passes signals
on, and turns a death into one line. Where there is no fork, and for calls from Python, nothing is done.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
from collections.abc import Callable, Iterator

READING = 5.0
"""CPU seconds that opening a recording may take, and one more for every `PER_SECOND` bytes; a slow disk takes none."""
PER_SECOND = 20_000_000
TO_OPEN = 1 << 29
"""Bytes that opening a recording may take, before its arrays are known."""
ROOM = 3 << 29
"""Bytes that a contained process may take beside what the file's arrays may need."""
TIMES = 16
"""How many times the size of its arrays a table or picture may need, generously."""
PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH")
CRASHES = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGABRT", "SIGILL", "SIGTRAP", "SIGSYS", "SIGPROF", "SIGXCPU", "SIGKILL")

_note: mmap.mmap | None = None
"""What the child is reading, where the parent can see it; None outside a contained process."""


def can_contain() -> bool:
    """The platform forks and lets signals be waited for."""
    return hasattr(os, "fork") and hasattr(signal, "sigwaitinfo")


def contained(work: Callable[[], int], told: Callable[[str], None]) -> int:
    """Do some work in a child process and return its exit code.

    Args:
        work: called in the child; its result is the exit code.
        told: called in the parent with a line where the child was ended by a fault.

    Returns:
        The exit code: the child's, or 2 after a fault. In the child it returns `work()` itself.
    """
    global _note
    shared = mmap.mmap(-1, 4096)
    waited = {getattr(signal, name) for name in PASSED_ON} | {signal.SIGCHLD}
    # Held back from before the fork on, so that none gets lost in between.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    child = os.fork()
    if not child:
        _note = shared
        _be_a_child()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return work()
    try:
        status = _wait(child, waited)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if name not in CRASHES:
        # Whoever started this process sees the end that was meant for it.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    told(_told(name, shared[:].rstrip(b"\0").decode(errors="replace")))
    return 2


def _wait(child: int, waited: set[signal.Signals]) -> int:
    """The child's status when it has ended; signals meant for this process alone go on to it."""
    while True:
        caught = signal.sigwaitinfo(waited)
        if caught.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
        elif caught.si_code <= 0:
            # One from a terminal (Ctrl-C) has reached the child already: both are in the foreground.
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, caught.si_signo)


def _be_a_child() -> None:
    """No core file is left, and the end of the parent is the child's too."""
    import resource

    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        # numpy, which every reading command needs, loads it too.
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _told(name: str, file: str) -> str:
    if name == "SIGPROF":
        return f"{file} takes longer to open than its size allows; expected a whole recording; capture it again"
    if not file:
        return f"the command was ended by {name}; expected an exit of its own; run it again, with more memory"
    ended = f"reading {file} ended the HDF5 library ({name})" if name != "SIGKILL" else f"reading {file} was killed"
    return f"{ended}; expected a whole recording" + (
        " and enough memory; capture it again, or close other programs" if name == "SIGKILL" else "; capture it again"
    )


@contextlib.contextmanager
def opening(path: str, size: int) -> Iterator[None]:
    """While a file is opened: the parent knows its name, and a contained process has no more CPU time than it may take.

    Args:
        path: as it is to be told.
        size: its bytes, and those of its parts.
    """
    if _note is None:
        yield
        return
    raw = path.encode(errors="replace")[:4000]
    _note[:] = raw.ljust(len(_note), b"\0")
    # What a file claims is not known yet, and one that is damaged may have the library take any amount.
    _limit(_data_bytes() + TO_OPEN)
    signal.setitimer(signal.ITIMER_PROF, READING + size / PER_SECOND)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def limit_memory(claimed: int) -> None:
    """In a contained process, take no more memory than tables of arrays of this size may need.

    Args:
        claimed: bytes of all arrays of a recording as they are once they are read.
    """
    if _note is not None:
        _limit(_data_bytes() + ROOM + TIMES * claimed)


def _limit(wanted: int) -> None:
    """Let this process take so many bytes; never fewer than it was allowed before."""
    if sys.platform != "linux":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    # A second recording, for a comparison, adds to the first.
    if soft == resource.RLIM_INFINITY or wanted > soft:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _data_bytes() -> int:
    """What counts against the limit now, or 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/statm") as file:
        return int(file.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    return 0
