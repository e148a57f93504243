"""The file that HDF5 writes through."""

from __future__ import annotations

import io
from typing import Any


class Disk(io.FileIO):
    """A file that HDF5 writes through, and that keeps a failed write to itself.

    HDF5 cannot go on after a write that failed: it prints a page for each object it then cannot close, and may end
    the process. So the failure is kept in `error`, the rest is thrown away, and the writer looks after each batch.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`, or note why not; either way say that it was written."""
        size = memoryview(data).nbytes
        try:
            done = 0
            while self.error is None and done < size:
                done += super().write(memoryview(data).cast("B")[done:]) or 0
        except OSError as error:
            self.error = error
        if self.error is not None:
            self.seek(size, io.SEEK_CUR)
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the length, or note why not."""
        try:
            if self.error is None:
                super().truncate(size)
        except OSError as error:
            self.error = error
        return size or 0

    def readinto(self, buffer: Any) -> int:
        """Read, with zeros for what was never written because of an error."""
        done = super().readinto(buffer) or 0
        if self.error is not None and done < memoryview(buffer).nbytes:
            memoryview(buffer).cast("B")[done:] = bytes(memoryview(buffer).nbytes - done)
            done = memoryview(buffer).nbytes
        return done
