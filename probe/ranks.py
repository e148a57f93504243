"""Several processes that share one capture, started by `torchrun`: who does what, and how results come together.

torch.distributed does the talking; arrays that are gathered lie in this machine's memory, so the talk is gloo's, beside
nccl where the networks run on GPUs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from functools import reduce
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from probe.attribution import LayerStatistics, Statistics, larger_error
from probe.errors import ProbeError

Item = TypeVar("Item")
LONGEST_WAIT = timedelta(hours=2)
"""How long a rank waits for the others, whose last batches may take longer."""


class RankLost(ProbeError):
    """Another rank has gone, so that what all do together cannot be done."""


@contextlib.contextmanager
def _talking() -> Iterator[None]:
    """How torch.distributed says that a rank has gone."""
    try:
        yield
    except RuntimeError:
        raise RankLost(
            "another rank ended before its samples were done", expected="ranks that all run to the end",
            next_step="see that rank's own message, then run the same command with --resume",
        ) from None  # fmt: skip


@dataclass(frozen=True)
class Ranks:
    """This process among those that share the work.

    Attributes:
        rank: from 0; rank 0 leads.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """This one writes what there is one of, and speaks for all."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This rank's consecutive part of the work."""
        first, stop = (len(items) * rank // self.size for rank in (self.rank, self.rank + 1))
        return items[first:stop]

    def first(self, do: Callable[[], Item]) -> Item:
        """What rank 0 gets from `do`; where it fails there, every rank fails.

        Raises:
            ProbeError: as raised by rank 0.
            RankLost: rank 0 has gone.
        """
        if self.size == 1:
            return do()
        box: list[Any] = [None]
        if self.leads:
            try:
                box[0] = do()
            except ProbeError as error:
                box[0] = error
        with _talking():
            dist.broadcast_object_list(box, src=0)
        if isinstance(box[0], ProbeError):
            raise box[0]
        given: Item = box[0]
        return given

    def gather(self, mine: Item) -> list[Item]:
        """What every rank has, by rank.

        Raises:
            RankLost: one has gone.
        """
        if self.size == 1:
            return [mine]
        every: list[Any] = [None] * self.size
        with _talking():
            dist.all_gather_object(every, mine)
        return every

    def total(self, mine: Mapping[int, LayerStatistics]) -> dict[int, LayerStatistics]:
        """Statistics of all ranks, by layer: whole numbers and limbs are summed, so that the order does not matter.

        Args:
            mine: of this rank's samples; of the same layers in every rank.
        """
        return {layer: _added(mine[layer], self) for layer in sorted(mine)}


def _added(mine: LayerStatistics, ranks: Ranks) -> LayerStatistics:
    names = [f.name for f in fields(Statistics) if f.name != "largest"]
    arrays = [mine.spikes_at, mine.spikes_per_neuron]
    arrays += [getattr(one, name) for one in mine.statistics.values() for name in names]
    summed = iter(_sums(arrays))
    others = ranks.gather((mine.first_input, {t: one.largest for t, one in mine.statistics.items()}))
    smallest = reduce(np.fmin, (first[0] for first, _ in others))
    largest = reduce(np.fmax, (first[1] for first, _ in others))
    spikes_at, spikes_per_neuron = next(summed), next(summed)
    statistics = {
        t: replace(
            one,
            **{name: next(summed) for name in names},
            largest=reduce(larger_error, (worst[t] for _, worst in others)),
        )
        for t, one in mine.statistics.items()
    }
    return LayerStatistics(statistics, spikes_at, spikes_per_neuron, mine.per_sample, np.stack([smallest, largest]))


def _sums(arrays: Sequence[npt.NDArray[Any]]) -> Iterator[npt.NDArray[np.int64]]:
    """The sums of whole numbers over all ranks, in one message."""
    flat = torch.from_numpy(np.concatenate([array.reshape(-1).astype(np.int64) for array in arrays]))
    with _talking():
        dist.all_reduce(flat)
    start = 0
    for array in arrays:
        yield flat[start : start + array.size].numpy().reshape(array.shape)
        start += array.size


def started_by_torchrun() -> bool:
    """This process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ


def leads() -> bool:
    """This process is rank 0, or alone; for what comes before `joined_ranks`."""
    return not started_by_torchrun() or os.environ["RANK"] == "0"


def own_device(asked: str | None) -> str | None:
    """The device of this rank: each has a GPU of its own where `cuda` or `auto` is asked for."""
    if not started_by_torchrun() or asked not in ("cuda", "auto") or not torch.cuda.is_available():
        return asked
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


@contextlib.contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """This process among the others that `torchrun` started; a process of its own leads itself.

    Raises:
        ProbeError: the others cannot be reached.
    """
    if not started_by_torchrun():
        yield Ranks()
        return
    own = not dist.is_initialized()
    if own:
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=LONGEST_WAIT)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ProbeError(
                f"the other ranks cannot be reached ({reason})", expected="a start by torchrun",
                next_step="run `torchrun --nproc-per-node=N -m probe capture ...`",
            ) from None  # fmt: skip
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        if own:
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()
