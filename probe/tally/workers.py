"""What the compiled loops are given, and how threads share it: the loops release the interpreter lock."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Result = TypeVar("Result")
NONE: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
SHARE = 65_536
"""Neurons that a thread takes at least: waking one up takes as long as a tenth of this."""

PIECES = 4
"""A thread's share is cut into so many."""


@functools.cache
def kernels() -> ModuleType | None:
    """`probe.tally.native`, imported when first asked for; None where numba cannot be imported or may not compile."""
    try:
        import numba

        from probe.tally import native
    # The latter where llvmlite does not find its library.
    except (ImportError, OSError):
        return None
    return None if getattr(numba.config, "DISABLE_JIT", 0) else native


def flat(tensor: Tensor) -> npt.NDArray[Any]:
    """A tensor's values in logical order, without a copy where they lie so."""
    values: npt.NDArray[Any] = tensor.detach().reshape(-1).numpy()
    return values


def flat_to_write(tensor: Tensor) -> npt.NDArray[Any]:
    """As `flat`, of a tensor that is to be written: what were written into a copy would be lost."""
    assert tensor.is_contiguous(), "a loop would write into a copy"
    return flat(tensor)


def flat_mask(silenced: Tensor | None, shape: torch.Size) -> npt.NDArray[np.uint8]:
    """SRP's mask of every neuron of a batch; of length 0 where there is none."""
    return NONE if silenced is None else flat(silenced.expand(shape)).view(np.uint8)


def row(values: npt.NDArray[np.float32], shape: torch.Size) -> npt.NDArray[np.float32]:
    """One number, or one for each neuron."""
    if values.size == 1:
        return np.array(values, np.float32).reshape(1)
    return np.array(np.broadcast_to(values, (1, *shape)), np.float32).reshape(-1)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="probe-tally")


if hasattr(os, "register_at_fork"):
    # A forked child has the pool but none of its threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)


def workers(size: int) -> int:
    """How many threads share so many neurons, as many as torch takes at most."""
    return max(1, min(torch.get_num_threads(), size // SHARE))


def share(size: int, work: Callable[[int, int, int], Result], *, threads: int) -> list[Result]:
    """Call `work(worker, begin, end)` for pieces that make up `size`, side by side.

    Each thread takes the next piece when it is done with one, so a thread that wakes up late, as where those of torch
    still wait for work, holds nobody up.

    Args:
        size: how many neurons, or samples.
        work: calls a compiled loop; the calling thread is worker 0. A worker's pieces come in increasing order.
        threads: how many share it.

    Returns:
        What the calls gave, in no order.
    """
    if threads == 1:
        return [work(0, 0, size)]
    number = min(size, PIECES * threads)
    edges = [size * piece // number for piece in range(number + 1)]
    pieces = iter(range(number))

    def pull(worker: int) -> list[Result]:
        return [work(worker, edges[piece], edges[piece + 1]) for piece in pieces]

    pool = _pool(threads - 1)
    helpers = [pool.submit(pull, worker) for worker in range(1, threads)]
    try:
        done = pull(0)
    finally:
        # One that has not begun is not needed any more; after Ctrl-C nobody is left behind who still writes.
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    return done + [one for helper in begun for one in helper.result()]
