"""Ctrl-C and its kin as flags: a handler that raises would be swallowed inside HDF5, and the file damaged."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C, a scheduler that takes the machine back, a terminal that is closed."""


@contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[dict[int, Any]]:
    """Let `handler` take the signals; yields the handlers before, which it may give one back to."""
    before: dict[int, Any] = {}
    # Python lets no other thread set them.
    if threading.current_thread() is threading.main_thread():
        known = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
        # What is ignored stays so: `nohup` and shells that start a job in the background mean it.
        before = {number: old for number in known if (old := signal.getsignal(number)) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield before
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def interruptible(patience: float = 0.0) -> Iterator[Callable[[], bool]]:
    """The first signal sets a flag, which the yielded function tells; a second one stops at once.

    Args:
        patience: seconds in which a second signal does not count.
    """
    pressed: list[float] = []

    def handler(number: int, _frame: Any) -> None:
        now = time.monotonic()
        if not pressed:
            pressed.append(now)
            os.write(2, b"\nprobe: finishing the batch; once more to stop at once\n")
        elif now - pressed[0] >= patience:
            signal.signal(number, before[number])
            os.kill(os.getpid(), number)

    with _handled(handler) as before:
        yield lambda: bool(pressed)


@contextmanager
def uninterrupted() -> Iterator[Callable[[], bool]]:
    """Signals wait to the end; the yielded function tells whether one does."""
    waiting: list[int] = []
    with _handled(lambda number, _frame: waiting.append(number)):
        yield lambda: bool(waiting)
    if waiting:
        os.kill(os.getpid(), waiting[0])
