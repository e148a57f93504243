"""Writing while the networks compute: a bounded queue between the hooks and a writer that has a thread of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from probe.attribution import LayerStatistics
from probe.recording.facts import Facts
from probe.recording.schema import Batch
from probe.recording.writer import Writer

PART_BYTES = 256 << 20
PART_SECONDS = 60.0
WAITING_BYTES = 64 << 20
"""Of arrays in the queue at most; who adds more waits."""


class WriteBehind:
    """A sink that hands on to a writer in another thread; a write that failed is raised by the next call.

    Args:
        writer: what writes; nobody else may use it until `close`.
        part_bytes, part_seconds: when `part_is_full` says so.
        waiting_bytes: how much may wait to be written.
    """

    def __init__(
        self,
        writer: Writer,
        *,
        part_bytes: int = PART_BYTES,
        part_seconds: float = PART_SECONDS,
        waiting_bytes: int = WAITING_BYTES,
    ) -> None:
        self._writer, self._limits, self._most = writer, (part_bytes, part_seconds), waiting_bytes
        self._queue: deque[tuple[int, Callable[[], None]]] = deque()
        self._waiting = self._of_part = 0
        self._uncommitted = 0
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="probe-writer", daemon=True)
        self._thread.start()

    def append(self, layer: int | None, batch: Batch) -> None:
        """Hand on a piece of an array; waits while too much is in the queue.

        Raises:
            OSError: an earlier write failed.
        """
        if not self._of_part:
            self._began = time.monotonic()
        # What views a tensor may change as soon as the hook is over.
        values = batch.values if batch.values.flags.owndata else batch.values.copy()
        kept = replace(batch, values=values)
        self._of_part += values.nbytes
        self._put(values.nbytes, lambda: self._writer.append(layer, kept))
        self._uncommitted += 1

    @property
    def part_is_full(self) -> bool:
        """True when the current part has reached its size or age; ask between batches."""
        part_bytes, part_seconds = self._limits
        return self._of_part >= part_bytes or (bool(self._of_part) and time.monotonic() - self._began >= part_seconds)

    def commit(self, gathered: dict[int, LayerStatistics], facts: Facts, *, complete: bool = False) -> None:
        """Hand on that the current part is to be made safe; see `Writer.commit`."""
        self._of_part = 0
        self._put(0, lambda: self._writer.commit(gathered, facts, complete=complete))
        self._uncommitted = 0

    def flush(self) -> None:
        """Wait until everything is written.

        Raises:
            OSError: a write failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: (not self._queue and not self._waiting) or self._error is not None)
            self._raise()

    def close(self) -> None:
        """End the thread, once every part that was committed is safe; the part that was not is given up."""
        with self._changed:
            for _ in range(min(self._uncommitted, len(self._queue))):
                size, _job = self._queue.pop()
                self._waiting -= max(size, 1)
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._writer.drop()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _put(self, size: int, job: Callable[[], None]) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: not self._queue or self._waiting + size <= self._most or self._error is not None
            )
            self._raise()
            self._queue.append((size, job))
            # A commit counts too, so that `flush` waits for it.
            self._waiting += max(size, 1)
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return
                size, job = self._queue.popleft()
            try:
                job()
            except BaseException as error:
                with self._changed:
                    self._error = error
                    self._queue.clear()
                    self._changed.notify_all()
                return
            with self._changed:
                self._waiting -= max(size, 1)
                self._changed.notify_all()
